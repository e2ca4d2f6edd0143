"""Other libraries' names and conventions on top of this one; imported by nothing else."""
