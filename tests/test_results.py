"The figures of the README are those that the benchmarks wrote."
import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from llm_emf.methods import METHODS
from llm_emf.metrics import METRICS, per_user

ROOT = Path(__file__).parent.parent
RESULTS = ROOT/"benchmarks"/"results"


def rows(name):
    return json.loads((RESULTS/f"{name}.json").read_text(encoding="utf-8"))["rows"]


@cache
def kept_ranks(name): # of a run, or a study and seed
    return pd.read_parquet(RESULTS/"ranks"/f"{name}.parquet")


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


def page_table(page): # the page's first table: label → [MRR, NDCG@5, NDCG@10, HR@1 …] in %
    cells = json.loads((ROOT/"nbs"/"reports"/f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]
    outputs = [o["data"] for c in cells if c["cell_type"] == "code" for o in c["outputs"]]
    html = next("".join(d["text/html"]) for d in outputs if "text/html" in d)
    found = {}
    for row in BeautifulSoup(html, "html.parser").select("tbody tr"):
        figures = [float(td.text.split()[0]) for td in row.find_all("td")]
        found[row.th.text] = figures
    return found


@pytest.mark.parametrize(("name", "methods"), [
    ("shop-quick-0", 7), ("food-kitchen-quick-0", 5),
    ("shop-paper-0", len(METHODS)), ("food-kitchen-paper-0", len(METHODS))])
def test_figures_of_a_kept_report_follow_from_its_kept_ranks(name, methods):
    ranks = kept_ranks(name)
    notes = json.loads((RESULTS/"ranks"/f"{name}.json").read_text(encoding="utf-8"))
    shown, checked = page_table(name.replace("-", "_").removesuffix("_0")), 0
    for method in [c.removesuffix(" | rank") for c in ranks if c.endswith(" | rank")]:
        rank = ranks[f"{method} | rank"].to_numpy()
        for figure, metric in zip(shown[METHODS[method].label], METRICS, strict=True):
            assert abs(figure - 100 * per_user(rank, metric).mean()) < .00501, (method, metric)
            checked += 1
        assert notes[f"train-{method}"]["key"]["seed"] == 0
        assert f"train-{method}" in " ".join(notes[f"evaluate-{method}"]["key"]["inputs"])
    shown.pop("oracle (best possible)", None) # known on the shop; not a method
    assert checked == methods * 6 and len(shown) == methods


@pytest.mark.parametrize(("table", "split", "methods"), [
    ("quality_food_kitchen", "leave-one-out", 5), ("quality_food_kitchen", "given", 5),
    ("quality_food_kitchen", "leave-one-out, tuned", 8),
    ("quality_food_kitchen_hybrid_rerank", "leave-one-out", 5),
    ("quality_food_kitchen_hybrid_rerank", "given", 4)])
def test_figures_of_food_kitchen_follow_from_the_kept_ranks(table, split, methods):
    study, checked = f"food-kitchen, {split}", 0
    for row in rows(table):
        if row["study"].startswith(f"{study}:"):
            method, seeds = row["study"].partition(": ")[2], len(row["by seed"].split())
            # there is nothing to tune in item-kNN: quality.own_study
            of = study.removesuffix(", tuned") if method.startswith("item-knn") else study
            tables = [kept_ranks(f"{of}, seed {k}") for k in range(seeds)]
            column = f"{method} | rank"
            found = [per_user(t[column], "mrr").mean() for t in tables if column in t]
            assert abs(row["MRR %"] - 100 * np.mean(found)) < .000501, row["study"]
            checked += 1
    assert checked == methods


def test_packed_ranks_come_back(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT/"benchmarks")
    import rankfiles
    monkeypatch.setattr(rankfiles, "ROOT", tmp_path)
    monkeypatch.setattr(rankfiles, "KEPT", tmp_path/"kept")
    monkeypatch.setattr(rankfiles, "RUNS", tmp_path/"a")
    case = {"user": ["u", "v"], "target": [3, 5], "domain": ["food", "kitchen"]}
    for method, ranks in {"id": [1, 900], "llm-emf lambda1=0": [4, 70_000]}.items():
        folder = tmp_path/"a"/"shop, default"/f"{method}-2"
        folder.mkdir(parents=True)
        pd.DataFrame(case | {"rank": ranks, "rank999": [1, 2]}).to_parquet(folder/"ranks.parquet")
        (folder/"note.json").write_text(json.dumps({"device": method}))
    rankfiles.pack_studies()
    rankfiles.pack_studies() # again: the same
    monkeypatch.setattr(rankfiles, "RUNS", tmp_path/"b")
    rankfiles.unpack()
    back = tmp_path/"b"/"shop, default"/"llm-emf lambda1=0-2"
    assert pd.read_parquet(back/"ranks.parquet")["rank"].tolist() == [4, 70_000]
    assert json.loads((back/"note.json").read_text()) == {"device": "llm-emf lambda1=0"}
    other = pd.DataFrame(case | {"user": ["u", "w"], "rank": [1, 1], "rank999": [1, 1]})
    with pytest.raises(AssertionError, match="other cases: b"):
        rankfiles.wide({"a": pd.read_parquet(back/"ranks.parquet"), "b": other})


@pytest.mark.parametrize(("table", "study", "more", "changes"), [
    ("ablations_food_kitchen", "food-kitchen, leave-one-out", "", 22),
    ("ablations_food_kitchen_12_epochs", "food-kitchen, leave-one-out", "epochs=12", 4),
    ("ablations_food_kitchen_24_epochs", "food-kitchen, leave-one-out", "epochs=24", 2),
    ("ablations_shop", "shop, default", "", 9)])
def test_ablations_follow_from_the_kept_ranks(monkeypatch, table, study, more, changes):
    monkeypatch.syspath_prepend(ROOT/"benchmarks")
    from ablations import ABLATIONS
    checked = 0
    for row in rows(table):
        method, words, text = ABLATIONS[row["changed"]]
        folder = f"{study}, {text} text" if text else study
        column = " ".join([method, *words.split(), *more.split()]) + " | rank"
        seeds = range(len(row["by seed"].split()))
        kept = [RESULTS/"ranks"/f"{folder}, seed {k}.parquet" for k in seeds]
        found = [pd.read_parquet(f) for f in kept if f.exists()]
        found = [per_user(t[column], "mrr").mean() for t in found if column in t]
        if len(found) == len(seeds):
            assert abs(row["MRR %"] - 100 * np.mean(found)) < .000501, row["changed"]
            checked += 1
    assert checked == changes
