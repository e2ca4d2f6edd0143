"""Side by side with peers: `python -m benchmarks`; one file a topic, each with `measure(quick) -> Report`."""

import os

# JAX's factorisations come from OpenBLAS, whose threads wait for each other by spinning: where other programs want
# the cores too, they take up to a hundred times longer. One thread for all competitors, before NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
