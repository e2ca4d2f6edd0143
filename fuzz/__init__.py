"""Random programs and random linear systems with known answers: `make fuzz`, or `python -m fuzz --help`."""
