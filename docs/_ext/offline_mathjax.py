"""MathJax from a Python package in place of one from the network."""

import importlib.util
import shutil
from pathlib import Path

MATHJAX = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"


def copy(app, error):
    """The one program and its fonts."""
    if error is None and app.builder.format == "html":
        target = Path(app.outdir, "_static", "mathjax")
        fonts = Path("output", "chtml", "fonts", "woff-v2")
        shutil.copytree(MATHJAX / fonts, target / fonts, dirs_exist_ok=True)
        shutil.copy(MATHJAX / "tex-chtml.js", target)


def setup(app):
    """Sphinx's own extension writes the tag of the script."""
    app.config.mathjax_path = "mathjax/tex-chtml.js"
    app.connect("build-finished", copy)
    return {"parallel_read_safe": True}
