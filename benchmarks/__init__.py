"""Comparison with other libraries: `python -m benchmarks`. Each topic is a file with `measure(quick) -> Report`."""

import os

# JAX's factorisations come from OpenBLAS, whose threads wait for each other in a busy loop. When other programs use the
# cores as well, they become up to a hundred times slower. All competitors therefore get one thread. The variable has to
# be set before NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
