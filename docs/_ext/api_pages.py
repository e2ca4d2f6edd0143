"""The reference: a page for each public module, written from the modules and their docstrings.

Nothing has to be registered: what a public module exports is on its page, below the title of the file that defines it.
A public name, or a public method or property of the library's own classes, without a docstring fails the build.
"""

import dataclasses
import functools
import importlib
import inspect
import sys
from pathlib import Path

from sphinx.errors import ExtensionError

import implicitdiff

# `compat` repeats JAXopt's names, which would stand before the library's own in the search and in the indices: the page
# on coming from JAXopt lists them.
MODULES = ["", *(package for package in implicitdiff._PACKAGES if package != "compat"), "krylov"]
ORDER = [
    "",
    "optimality",
    "solvers",
    "convex",
    "bilevel",
    "certify",
    "projection",
    "prox",
    "mirror",
    "krylov",
    "sparse",
]
# lineax's interface, which a user of a method does not call.
INTERFACE = {
    "allow_dependent_columns",
    "allow_dependent_rows",
    "assume_full_rank",
    "compute",
    "conj",
    "init",
    "transpose",
    # How the solvers under JAXopt's names are made of ours.
    "build",
    "packed",
    "absolute",
    "auxiliary",
    "conditions",
    "loop",
    "first",
    "advance",
}
PROPERTY = property, functools.cached_property


# What a reader of a page looks for first.
FIRST = (
    "implicit_root",
    "implicit_fixed_point",
    "custom_root",
    "custom_fixed_point",
    "host_solver",
    "root_jvp",
    "root_vjp",
    "solve_qp",
    "QPSolution",
    "solve_conic",
    "ConicSolution",
    "CvxpyLayer",
)


def public(module):
    """Names and objects that the module exports, but for its submodules."""
    names = [name for name in vars(module) if not name.startswith("_")]
    names.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))  # the others keep their order
    found = [(name, getattr(module, name)) for name in names]
    return [
        (name, thing)
        for name, thing in found
        if not inspect.ismodule(thing) and str(getattr(thing, "__module__", "")).startswith("implicitdiff")
    ]


def first_sentence(thing):
    """The first line of the docstring."""
    return inspect.getdoc(thing).splitlines()[0]


def members(cls):
    """Public methods and properties that the library's classes define, the most derived first."""
    fields = {field.name for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    found: dict[str, object] = {}
    for base in cls.__mro__:
        if not base.__module__.startswith("implicitdiff"):
            continue
        for name, value in vars(base).items():
            if name.startswith("_") or name in fields or name in found or name in INTERFACE:
                continue
            if isinstance(value, (*PROPERTY, staticmethod, classmethod)) or inspect.isfunction(value):
                found[name] = value
    return found


def without_docstring():
    """Public names that nobody has described."""
    missing = []
    for short in ORDER:
        module = importlib.import_module(f"implicitdiff.{short}".rstrip("."))
        for name, thing in public(module):
            if callable(thing) and not (thing.__doc__ or "").strip():
                missing.append(f"{module.__name__}.{name}")
            if inspect.isclass(thing):
                missing += [
                    f"{module.__name__}.{name}.{member}"
                    for member in members(thing)
                    if not inspect.getdoc(getattr(thing, member))
                ]
    return missing


def escaped(text):
    """Plain text in reStructuredText."""
    from docstrings import escaped

    return escaped(text)


def entry(name, thing, where):
    """The directive that documents a name."""
    full = f"{where}.{name}"
    if inspect.isclass(thing):
        lines = [f".. autoclass:: {full}"]
        own = [m for m in members(thing) if inspect.getdoc(getattr(thing, m))]
        for member in own:
            kind = "autoproperty" if isinstance(members(thing)[member], PROPERTY) else "automethod"
            lines += ["", f"   .. {kind}:: {full}.{member}"]
        return lines
    if callable(thing):
        return [f".. autofunction:: {full}"]
    return [f".. autodata:: {full}"]


def page(short):
    """The page of a module."""
    module = importlib.import_module(f"implicitdiff.{short}".rstrip("."))
    names = public(module)
    title = module.__name__
    lines = [f".. _api-{short or 'core'}:", "", title, "=" * len(title), "", f".. module:: {title}", ""]
    lines += [escaped(line) for line in inspect.getdoc(module).splitlines()] + [""]
    lines += [".. list-table::", "   :widths: 30 70", "   :class: api-summary", ""]
    for name, thing in names:
        kind = "class" if inspect.isclass(thing) else "func" if callable(thing) else "data"
        home = next((m for m in ORDER if m and not short and thing.__module__.startswith(f"implicitdiff.{m}.")), None)
        where = f"implicitdiff.{home}" if home else module.__name__
        lines += [f"   * - :py:{kind}:`~{where}.{name}`", f"     - {escaped(first_sentence(thing))}"]
    lines.append("")
    files: dict[str, list] = {}
    for name, thing in names:
        if not short and any(thing.__module__.startswith(f"implicitdiff.{other}.") for other in ORDER if other):
            continue  # described on the page of that module
        files.setdefault(thing.__module__, []).append((name, thing))
    for file, group in files.items():
        title = escaped(inspect.getdoc(sys.modules[file]).splitlines()[0].rstrip(".").split(": ")[0])
        lines += [title, "-" * len(title), ""]
        for name, thing in group:
            lines += [*entry(name, thing, module.__name__), ""]
    return "\n".join(lines) + "\n"


def index():
    """The page that lists the modules."""
    lines = ["API reference", "=============", ""]
    lines += [
        "Every public name, with its docstring. The library is imported as ``import implicitdiff as idf``; the modules",
        "below are its attributes, such as ``idf.optimality``.",
        "",
    ]
    lines += [".. list-table::", "   :widths: 30 70", "   :class: api-summary", ""]
    for short in ORDER:
        module = importlib.import_module(f"implicitdiff.{short}".rstrip("."))
        lines += [f"   * - :py:mod:`{module.__name__}`", f"     - {escaped(first_sentence(module))}"]
    lines += ["", ".. toctree::", "   :hidden:", ""] + [f"   {short or 'implicitdiff'}" for short in ORDER]
    return "\n".join(lines) + "\n"


def write(app):
    """All pages; a file is touched only where it changes, so that a second build is quick."""
    missing = without_docstring()
    if missing:
        raise ExtensionError("public, but without a docstring: " + ", ".join(missing))
    unknown = set(MODULES) - set(ORDER)
    if unknown:
        raise ExtensionError(f"api_pages.ORDER lacks {unknown}")
    folder = Path(app.srcdir, "api")
    folder.mkdir(exist_ok=True)
    pages = {short or "implicitdiff": page(short) for short in ORDER} | {"index": index()}
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def setup(app):
    """Before the sources are looked for."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
