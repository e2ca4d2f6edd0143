"""Which scripts of examples/ are tutorials, in which order, and how each of them starts."""

from pathlib import Path

TUTORIALS = [
    "tune_scikit_learn",
    "any_solver",
    "constraints",
    "lasso_path",
    "optimization_layers",
    "deep_equilibrium",
    "bilevel_tuning",
    "molecular_sensitivities",
    "how_wrong",
    "second_order",
    "heat_source",
    "many_devices",
]


def fresh_jax(gallery_conf, fname):
    """As in a new process: float32, no other switches."""
    del gallery_conf, fname
    import jax

    jax.config.update("jax_enable_x64", False)


def in_order(path):
    """The place of a tutorial; sphinx-gallery sorts by it."""
    name = Path(path).stem
    return TUTORIALS.index(name) if name in TUTORIALS else len(TUTORIALS)  # those left out are sorted as well
