"""Docstrings of the library, which are plain text, as reStructuredText.

What is special here and not in plain text: single backticks are code, or a link where they name something; an indented
block is a formula or a table, shown as it is typed; `Source:` begins the references. Everything else means itself, so
that `f(x, *args)`, `x_` and `|x|` need no backslashes.
"""

import re

SPECIAL = re.compile(r"([\\*|_])")
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Example|Examples|Yields):$")
FIELD = re.compile(r"^(\s+)(\*{0,2}\w+)(: .*)$")


def escaped(line):
    """The line with what reStructuredText would interpret escaped, outside of backticks."""
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(part if k % 2 else SPECIAL.sub(r"\\\1", part) for k, part in enumerate(parts))


def converted(lines):
    """The lines of a docstring as reStructuredText for napoleon."""
    out, section, literal, doctest = [], None, False, False
    open_tick = False
    for k, line in enumerate(lines):
        stripped, indent = line.strip(), len(line) - len(line.lstrip())
        if not stripped:
            doctest = open_tick = False
            out.append(line)
            continue
        if match := SECTION.match(line):
            section, literal = match[1], False
            out.append("Fields:" if section == "Attributes" else line)  # napoleon would add their types, at length
            continue
        if indent == 0:
            section = None if section and not line.startswith(" ") else section
            literal = False
        doctest = doctest or stripped.startswith(">>>")
        if doctest:
            out.append(line)
            continue
        previous = lines[k - 1].strip() if k else ""
        if section is None and indent >= 4:
            if not literal and not previous:
                out.extend(["::", ""])
                literal = True
            out.append(line)
            continue
        if line.startswith("Source:"):
            line = line.replace("Source:", "**Source:**", 1)
            out.append("**Source:**" + escaped(line[len("**Source:**") :]))
            continue
        # A backtick that opens on one line may close on the next.
        head, tail = "", line
        if open_tick and "`" in line:
            head, tail = line[: line.index("`") + 1], line[line.index("`") + 1 :]
            open_tick = False
        if (tail.count("`") % 2) == 1:
            at = tail.rindex("`")
            out.append(head + escaped(tail[:at]) + tail[at:])
            open_tick = True
            continue
        if section in ("Args", "Attributes") and (match := FIELD.match(tail)) and indent == 4:
            out.append(head + match[1] + match[2] + escaped(match[3]))
            continue
        out.append(head + escaped(tail))
    return out


def process(app, what, name, obj, options, lines):
    """Sphinx's hook: change the lines in place, before napoleon reads them."""
    del app, name, obj, options
    lines[:] = converted(lines) if what != "module" else [escaped(line) for line in lines]


def signature(app, what, name, obj, options, arguments, result):
    """Types as they are written in the code: jaxtyping's are shown at length otherwise."""
    del app, what, name, obj, options

    def written(text):
        if text is None:
            return None
        text = text.replace("jaxlib._jax.Array", "Array").replace("jax.Array", "Array").replace("[[...], ", "[..., ")
        return re.sub(r"(Shaped|Float|Real)\[Array, ''\]", "Scalar", text)

    return written(arguments), written(result)


def setup(app):
    """Priority below napoleon's 500."""
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True}
