"The figures of the README are those that the benchmarks wrote."
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RESULTS = ROOT/"benchmarks"/"results"


def rows(name):
    return json.loads((RESULTS/f"{name}.json").read_text(encoding="utf-8"))["rows"]


def studied(names, study): # method → MRR in %, of the tables of such names
    files = sorted(RESULTS.glob(f"{names}.json"), reverse=True) # the first table comes last
    return {r["study"].partition(": ")[2]: r["MRR %"] for f in files for r in rows(f.stem)
            if r["study"].startswith(f"{study}: ")}


def anchored(column):
    return {r["method"]: r[column] for r in rows("public_anchor") if r["ties"] == "as-given"}


# the table's first header cell that tells it → for each of its columns the source of its figures
TABLES = {
    "Food–Kitchen": [studied("quality_food_kitchen*", "food-kitchen, leave-one-out"),
                     anchored("food MRR full"), anchored("kitchen MRR full"),
                     studied("quality_shop", "shop, tuned")],
}


def table(told_by): # the rows of a README's table, as lists of cells
    lines = (ROOT/"README.md").read_text(encoding="utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("|") and told_by in line)
    found = []
    for line in lines[start + 2:]:
        if not line.startswith("|"):
            return found
        found.append([cell.strip() for cell in line.strip("|").split("|")])


@pytest.mark.parametrize("told_by", list(TABLES))
def test_figures_of_the_readme(told_by):
    sources = TABLES[told_by]
    checked = 0
    for name, *cells in table(told_by):
        method = re.search(r"`([a-z0-9-]+)`", name)
        for cell, source in zip(cells, sources):
            if method and method[1] in source:
                value = float(re.match(r"\**(\d+\.\d+)", cell)[1])
                assert abs(value - source[method[1]]) < .006, (method[1], cell)
                checked += 1
    assert checked >= 3 * len(sources)


def test_the_picture_of_the_landing_page_shows_these_figures(monkeypatch):
    monkeypatch.syspath_prepend(ROOT/"benchmarks")
    import picture
    text = picture.PICTURE.read_text(encoding="utf-8")
    for panel, found in picture.figures().items():
        for method, value in found.items():
            assert f">{method}<" in text and f">{value:.2f}<" in text, (panel, method, value)
    for line in picture.title(picture.figures()).splitlines():
        assert line in text, "make readme draws it again"


def test_the_readme_is_made_from_the_landing_page(monkeypatch):
    monkeypatch.syspath_prepend(ROOT/".ci")
    import readme
    made = readme.make()
    assert (ROOT/"README.md").read_text(encoding="utf-8") == made, "make readme makes it again"
