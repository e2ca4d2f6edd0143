"""What holds for every test: platform, precision, compilation, and the `gpu` marker."""

import gc
import os
import shutil
from importlib.metadata import version
from pathlib import Path

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
# Most of the time of the tests is spent in the compiler, so that it shall not optimise: `make test` runs those marked
# `rounding` a second time with flags of its own, at full optimisation.
_flags = ["--xla_cpu_multi_thread_eigen=false"]
if _platform == "cpu":
    _flags += ["--xla_backend_optimization_level=0"]
    # Where XLA still has the emitters of old, they take a quarter of the time. XLA refuses flags that it does not know.
    if [int(part) for part in version("jaxlib").split(".")[:2]] < [0, 11]:
        _flags += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
os.environ.setdefault("XLA_FLAGS", " ".join(_flags))
# And what has been compiled is kept for the next run. Workers and subprocesses share it.
_cache = Path(__file__).parent.parent / ".jax_cache"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_cache))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

# References (closed forms, finite differences) need float64. A test of float32 passes float32 arrays.
jax.config.update("jax_enable_x64", True)

# The first example of a property compiles, so no deadline; CI draws the same examples every time.
hypothesis.settings.register_profile("implicitdiff", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("implicitdiff")


def pytest_configure() -> None:
    """Refuse to pass on the CPU when a GPU was asked for; keep the cache of compiled programs below 1 GB."""
    if _platform != "cpu" and jax.default_backend() == "cpu":
        raise pytest.UsageError(f"IMPLICITDIFF_TEST_PLATFORM={_platform}, but JAX finds only the CPU")
    # JAX can bound the cache itself, but reads the size of every entry whenever it adds one.
    first = "PYTEST_XDIST_WORKER" not in os.environ
    if first and _cache.exists() and sum(entry.stat().st_size for entry in _cache.iterdir()) > 1e9:
        shutil.rmtree(_cache)


def pytest_collection_finish() -> None:
    """What was imported stays to the end, and tracing makes many short-lived objects: collect garbage less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu`, unless a platform was asked for, be it the CPU."""
    for item in items:
        if item.get_closest_marker("gpu") and not _asked_for:
            item.add_marker(pytest.mark.skip(reason="needs a GPU: IMPLICITDIFF_TEST_PLATFORM=cuda"))


# The memory of a worker, in bytes, from which on compiled programs are dropped where a module ends.
MEMORY = 1.5e9


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Drop what has been compiled once it fills the memory: the next module needs little of it, and finds that cached."""
    status = Path("/proc/self/statm")  # where there is no such file, nobody complained
    if nextitem is not None and nextitem.path != item.path and status.exists():
        resident = int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        if resident > MEMORY:
            jax.clear_caches()
            gc.collect()
