"""The pages that the benchmarks have written, brought into the site: `benchmarks/` there is benchmarks/results here."""

from pathlib import Path

SOURCE = Path(__file__).parents[2] / "benchmarks" / "results"


def bring(app):
    """Copies that git ignores, made anew for each build; Sphinx reads nothing outside of its folder."""
    target = Path(app.srcdir, "benchmarks")
    target.mkdir(exist_ok=True)
    for path in SOURCE.iterdir():
        if path.suffix not in (".md", ".png", ".json"):
            continue
        copy = target / ("index.md" if path.name == "README.md" else path.name)
        data = path.read_bytes()
        if path.name == "README.md":
            topics = sorted(page.stem for page in SOURCE.glob("*.md") if page.name != "README.md")
            data += ("\n```{toctree}\n:hidden:\n\n" + "\n".join(topics) + "\n```\n").encode()
        if not copy.exists() or copy.read_bytes() != data:
            copy.write_bytes(data)
    for copy in target.iterdir():
        if copy.name != "index.md" and not (SOURCE / copy.name).exists():
            copy.unlink()


def setup(app):
    """Before the sources are looked for."""
    app.connect("builder-inited", bring)
    return {"parallel_read_safe": True}
