"""What `experiments` and `benchmarks` share: where something was measured, and how tables of results are stored."""
