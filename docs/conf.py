"""Sphinx's configuration: `make docs` builds the site, without a network."""

import importlib.metadata
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

import gallery  # noqa: E402

# The tutorials run in this process. JAX reads these when it starts; one of the tutorials is about eight devices.
os.environ["JAX_PLATFORMS"] = "cpu"
# XLA's pool of threads has been seen to wait for itself for ever where cores are few: hence no pool.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false"
os.environ["MPLBACKEND"] = "Agg"
# What the tutorials compile is kept, where the tests keep theirs, and makes the next build quicker.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(HERE.parent / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

project = "implicitdiff"
author = "The implicitdiff authors"
copyright = author
release = version = importlib.metadata.version("implicitdiff")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "api_pages",
    "docstrings",
    "offline_mathjax",
    "stored_results",
]
exclude_patterns = ["_build", "_ext", "tests", "tutorials/*.ipynb", "**sg_execution_times.rst"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
default_role = "py:obj"
add_module_names = False
python_maximum_signature_line_length = 80
pygments_style = "tango"

myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Fields", "params_style")]
napoleon_use_rtype = False
napoleon_preprocess_types = False

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"
copybutton_selector = "div.highlight:not(.highlight-output *, .highlight-none *, .highlight-text *) pre"

html_theme = "sphinx_book_theme"
html_title = f"implicitdiff {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "path_to_docs": "docs",
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "pygments_light_style": "tango",
    "pygments_dark_style": "monokai",
}
html_context = {"default_mode": "auto"}
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False

# The tutorials are the scripts in examples/ that _ext/gallery.py names, run when the site is built.
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "tutorials",
    "filename_pattern": "/",
    "ignore_pattern": rf"(^|/)(?!({'|'.join(gallery.TUTORIALS)})\.py$)[^/]*\.py$",
    "within_subsection_order": "gallery.in_order",
    "reset_modules": ("matplotlib", "gallery.fresh_jax"),
    "reference_url": {"implicitdiff": None},
    "doc_module": ("implicitdiff",),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "notebook_images": False,
    "show_signature": False,
    "show_memory": False,
    "min_reported_time": 1e9,
    "remove_config_comments": True,
    "default_thumb_file": str(HERE / "images" / "demo.png"),
    "image_scrapers": ("matplotlib",),
    "capture_repr": (),
    "plot_gallery": "True",
    "nested_sections": False,
    "copyfile_regex": "",
}


def setup(app):
    """A language for what a block of code prints: docs/tests compares it with what is printed."""
    from pygments.lexers.special import TextLexer

    app.add_lexer("output", TextLexer)
