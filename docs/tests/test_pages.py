"""The code on the pages runs, and prints what the page says that it prints.

The blocks of a page run one after the other, in a process of their own, as a reader would run them. What a block prints
is compared with the block of language `output` that follows it; a block `raises` is the last line of the exception.
"""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for path in (ROOT / "docs").rglob("*.md")
    if not {"_build", "api", "benchmarks", "results", "tutorials"} & set(path.relative_to(ROOT / "docs").parts)
)
BLOCK = re.compile(r"^ *```(?P<language>python|output|raises)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL)

RUNNER = """
import contextlib, io, json, sys, traceback
names = {"__name__": "__main__"}
for code in json.load(sys.stdin):
    out, error = io.StringIO(), ""
    with contextlib.redirect_stdout(out):
        try:
            exec(compile(code, "a block of the page", "exec"), names)
        except Exception as caught:
            error = traceback.format_exception_only(caught)[0].strip()
    print(json.dumps([out.getvalue(), error]), flush=True)
"""


def blocks(path):
    """Code, with what it prints and what it raises."""
    found = []
    for match in BLOCK.finditer(path.read_text(encoding="utf-8")):
        text = textwrap.dedent(match["text"])
        if match["language"] == "python":
            found.append({"python": text, "output": None, "raises": ""})
        else:
            assert found, f"{path}: a block of {match['language']} without code before it"
            found[-1][match["language"]] = text
    return found


def same(expected, printed):
    """Whether the texts agree, up to white space at ends of lines and `...`, which stands for anything."""
    clean = ["\n".join(line.rstrip() for line in text.strip().splitlines()) for text in (expected, printed)]
    pattern = ".*?".join(map(re.escape, clean[0].split("...")))
    return re.fullmatch(pattern, clean[1], re.DOTALL)


@pytest.mark.parametrize("path", [path for path in PAGES if blocks(path)], ids=lambda path: path.stem)
def test_code_of_a_page(path, tmp_path):
    parts = blocks(path)
    run = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps([part["python"] for part in parts]),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"},
    )
    results = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(results) == len(parts), run.stderr
    for part, (printed, error) in zip(parts, results, strict=True):
        if part["raises"]:
            assert same(part["raises"], error), f"{part['python']}\nraised\n{error}"
        else:
            assert not error, f"{part['python']}\nraised {error}\n{run.stderr}"
        if part["output"] is not None:
            assert same(part["output"], printed), f"{part['python']}\nprinted\n{printed}"
        else:
            assert not printed, f"{part['python']}\nprinted, and the page does not say so:\n{printed}"
