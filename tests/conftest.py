"""What holds for every test: platform, precision, and the `gpu` marker."""

import os

# Tests run on the CPU, also on a machine that has a GPU: IMPLICITDIFF_TEST_PLATFORM=cuda runs them there.
# JAX reads its variable when it is first imported. The CPU stays available, because host callbacks need it.
_asked_for = os.environ.get("IMPLICITDIFF_TEST_PLATFORM")
_platform = _asked_for or "cpu"
os.environ["JAX_PLATFORMS"] = "cpu" if _platform == "cpu" else f"{_platform},cpu"
# The workers of `pytest -n` share one GPU, so none may take most of its memory at the start, as JAX does.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
# There is one worker a core: BLAS with threads of its own would have them wait for each other. The workers inherit it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# And XLA: its pool of threads has been seen to wait for itself for ever where cores are few (PyAutoFit issue 1528).
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

# References (closed forms, finite differences) need float64. A test of float32 passes float32 arrays.
jax.config.update("jax_enable_x64", True)

# The first example of a property compiles, so no deadline; CI draws the same examples every time.
hypothesis.settings.register_profile("implicitdiff", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("implicitdiff")


def pytest_configure() -> None:
    """Refuse to pass on the CPU when a GPU was asked for."""
    if _platform != "cpu" and jax.default_backend() == "cpu":
        raise pytest.UsageError(f"IMPLICITDIFF_TEST_PLATFORM={_platform}, but JAX finds only the CPU")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu`, unless a platform was asked for, be it the CPU."""
    for item in items:
        if item.get_closest_marker("gpu") and not _asked_for:
            item.add_marker(pytest.mark.skip(reason="needs a GPU: IMPLICITDIFF_TEST_PLATFORM=cuda"))
