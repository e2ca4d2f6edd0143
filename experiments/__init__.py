"""The paper's experiments and more, on real data where there is any: `python -m experiments NAME`."""
