"""How the notebooks read, measured on the files: sizes of cells, widths, pictures, outputs.

    python tests/style.py            # the table of CONTRIBUTING.md, ours measured now
    python tests/style.py --write    # and put into CONTRIBUTING.md
    python tests/style.py FOLDER     # the notebooks of another project that nbdev exports

A defining cell exports a function or a class; blank lines and comments are not counted.
"""
import ast
import json
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODELS = { # measured in the same way, November 2026
    "notebooks": ("10", "7", "1"),
    "code lines per defining cell, median / max": ("6 / 46", "5 / 47", "19.5 / 85"),
    "cells over 25 lines": ("3%", "4%", "–"),
    "top-level definitions per cell, mean / max": ("1.1 / 3", "1.1 / 5", "1.3 / 5"),
    "line width, 90th percentile; lines over 100 characters": ("64; 1%", "74; 2%", "62; 0%"),
    "prose characters per code line": ("9", "15", "18"),
    "pictures per notebook": ("7.1", "0.3", "5 in all"),
    "code cells with saved output": ("50%", "22%", "–"),
    "a test follows a defining cell": ("0 of 37", "207 of 373", "0 of 46"),
}
HEAD = ("| | ours | fastai miniai | fastcore | Annotated Transformer |\n"
        "| --- | --- | --- | --- | --- |\n")


def code_lines(source): # neither blank nor a comment
    return [line for line in source.splitlines()
            if line.strip() and not line.lstrip().startswith("#")]


def definitions(source): # functions and classes of a cell; none if it is no Python
    try:
        body = ast.parse(re.sub(r"^[%!].*$", "", source, flags=re.M)).body
    except SyntaxError:
        return []
    return [node for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]


def exported(source):
    return re.search(r"^#\s*\|?\s*exports?\b", source, re.M)


def has_picture(output):
    return bool({"image/png", "image/svg+xml"} & set(output.get("data", {})))


def tested(cells, n): # is the next code cell, at most three cells on, a test?
    code = ["".join(c["source"]) for c in cells[n + 1:n + 4] if c["cell_type"] == "code"]
    return bool(code and re.search(r"test_|assert", code[0]))


def read(folder): # what is counted, over all notebooks of a folder
    books = sorted(Path(folder).glob("[0-9]*.ipynb"))
    cells = [json.loads(p.read_text(encoding="utf-8"))["cells"] for p in books]
    found = {"notebooks": len(books), "prose": 0, "cells": [], "defining": []}
    for page in cells:
        for n, cell in enumerate(page):
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                found["prose"] += len(source)
            elif cell["cell_type"] == "code":
                found["cells"].append((code_lines(source), cell["outputs"]))
                if exported(source) and definitions(source):
                    found["defining"].append((source, tested(page, n)))
    return found


def rows(found): # name → value as text
    sources = [source for source, _ in found["defining"]]
    lines = [len(code_lines(s)) for s in sources]
    many = [len(definitions(s)) for s in sources]
    width = sorted(len(line) for s in sources for line in code_lines(s))
    outputs = [out for _, out in found["cells"]]
    code = sum(len(own) for own, _ in found["cells"])
    pictures = sum(has_picture(o) for out in outputs for o in out)
    return {
        "notebooks": f"{found['notebooks']}",
        "code lines per defining cell, median / max":
            f"{statistics.median(lines):g} / {max(lines)}",
        "cells over 25 lines": f"{sum(n > 25 for n in lines) / len(lines):.0%}",
        "top-level definitions per cell, mean / max":
            f"{statistics.mean(many):.1f} / {max(many)}",
        "line width, 90th percentile; lines over 100 characters":
            f"{width[int(.9 * len(width))]}; {sum(w > 100 for w in width) / len(width):.0%}",
        "prose characters per code line": f"{found['prose'] / code:.0f}",
        "pictures per notebook": f"{pictures / found['notebooks']:.1f}",
        "code cells with saved output": f"{sum(map(bool, outputs)) / len(outputs):.0%}",
        "a test follows a defining cell":
            f"{sum(t for _, t in found['defining'])} of {len(sources)}",
    }


def table(): # markdown
    ours = rows(read(ROOT/"nbs"))
    return HEAD + "".join(f"| {name} | **{ours[name]}** | {' | '.join(others)} |\n"
                          for name, others in MODELS.items())


def write(text): # in place of the table in CONTRIBUTING.md
    page = ROOT/"CONTRIBUTING.md"
    old = page.read_text(encoding="utf-8")
    found = re.compile(re.escape(HEAD) + r"(\|.*\n)+")
    assert found.search(old), "CONTRIBUTING.md has no such table"
    page.write_text(found.sub(lambda m: text, old), encoding="utf-8")


if __name__ == "__main__":
    asked = sys.argv[1] if len(sys.argv) > 1 else ""
    if asked in ("", "--write"):
        print(table())
        if asked:
            write(table())
    else:
        for name, value in rows(read(asked)).items():
            print(f"{name}: {value}")
