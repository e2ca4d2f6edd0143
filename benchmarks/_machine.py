"""Where, when and with what a topic was measured."""

import os
import platform
from typing import Any

from measuring import machine as where

PACKAGES = (
    "jax",
    "jaxlib",
    "numpy",
    "scipy",
    "lineax",
    "optax",
    "optimistix",
    "jaxopt",
    "scikit-learn",
    "cvxpylayers",
    "diffcp",
    "qpax",
    "clarabel",
)


def machine() -> dict[str, Any]:
    import jax

    return dict(
        date=where.today(),
        commit=where.commit(),
        platform=where.system(),
        cpu=where.cpu(),
        cores=os.cpu_count(),
        memory=where.memory(),
        device=str(jax.devices()[0]),
        load=[round(x, 2) for x in os.getloadavg()],
        blas_threads=os.environ.get("OPENBLAS_NUM_THREADS", "not set"),
        python=platform.python_version(),
        **where.versions(PACKAGES),
    )
