"The report: notebook 11 executed and rendered. What a page must say, and what must not be in it."
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from llm_emf.cli import run_notebook
from llm_emf.core import open_run
from llm_emf.data import prepare
from llm_emf.methods import METHODS
from llm_emf.report import notes, render_report, run_commands, write_results
from llm_emf.task import evaluate_method, load_task, train_method

ROOT = Path(__file__).parent.parent
COLUMNS = ["dataset", "method", "variant", "seed", "protocol", "domain", "metric", "value", "low",
           "high", "users"]


def render(run, folder):
    "Execute notebook 11 for a run and render it; the page as text."
    output = folder/"11_report.ipynb"
    parameters = dict(dataset=run.dataset, profile="smoke", run=str(run.path), seed=0, device="cpu")
    run_notebook(ROOT/"nbs"/"11_report.ipynb", output, parameters)
    return render_report(run, output).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def ids_run(tmp_path_factory):
    "Models of ids alone, LLM-EMF among them: no stage `encode`, no stage `enrich`."
    run = open_run(tmp_path_factory.mktemp("runs")/"ids", "shop", "smoke", 0, "cpu")
    prepare(run)
    task = load_task(run)
    for name in ("popularity", "item-knn", "id", "llm-emf"):
        method = METHODS[name]
        settings = method.default_settings(task, "smoke")
        if name == "llm-emf":
            settings = method.change(settings, "modalities=id epochs=2")
        train_method(run, method, settings)
        evaluate_method(run, method)
    assert not (run.path/"encode").exists() and not (run.path/"enrich").exists()
    return run


@pytest.fixture(scope="module")
def ids_page(ids_run, tmp_path_factory):
    return render(ids_run, tmp_path_factory.mktemp("executed"))


@pytest.fixture(scope="module")
def folder_run(tmp_path_factory):
    "Baselines alone on a folder of data in which nobody buys anything twice."
    data = tmp_path_factory.mktemp("data")/"two <small> shops"
    data.mkdir()
    rng, n = np.random.default_rng(0), 40
    domain = np.where(np.arange(n) < n // 2, "bread & jam", "pots")
    titles = [f"thing {k}" for k in range(n)]
    pd.DataFrame({"item": np.arange(n), "domain": domain, "title": titles}
                 ).to_parquet(data/"items.parquet")
    bought = [rng.choice(n, 8, replace=False).tolist() for _ in range(90)]
    pd.DataFrame({"user": np.arange(90), "items": bought}).to_parquet(data/"sequences.parquet")
    run = open_run(tmp_path_factory.mktemp("runs")/"folder", str(data), "smoke", 0, "cpu")
    prepare(run)
    for name in ("popularity", "item-knn"):
        train_method(run, METHODS[name], refit=name == "item-knn")
        evaluate_method(run, METHODS[name])
    return run


@pytest.fixture(scope="module")
def folder_page(folder_run, tmp_path_factory):
    return render(folder_run, tmp_path_factory.mktemp("executed"))


def text_of(page):
    "What a reader reads: without pictures, style and tags."
    page = re.sub(r"<style.*?</style>|base64,[^\"]*", "", page, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def test_a_run_without_encode_and_enrich_has_a_report(ids_run, ids_page):
    text = text_of(ids_page)
    for needed in ("LLM-EMF minus", "oracle (best possible)", "share of the oracle's MRR",
                   "No method of this run has more than one modality", "its methods use ids alone",
                   "No language model was asked", "llm-emf train --method id --out runs/ids",
                   "all 4 that have it", "purchases per user", "people in training and in test"):
        assert needed in text, needed
    assert not any("enrich" in c or "encode" in c for c in run_commands(ids_run))


def test_the_answer_comes_first_and_caveats_after_the_tables(ids_page):
    places = [ids_page.index(part) for part in (
        "<h1", "<blockquote", "under full ranking: MRR", "Results under full ranking", "<table",
        "Is LLM-EMF better?", "Each domain", "Among 999 sampled negatives", "items already bought",
        "How close to the best possible?", "Training", "Fusion weights",
        "Results by group of users", "by history length", "The data", "What differs from the paper",
        "Caveats", "Settings and seeds", "Commands")]
    assert places == sorted(places)
    first = text_of(ids_page)
    assert "after Holm's correction" in first[:first.index("Results under full ranking")]


def test_results_hold_every_method_in_long_form(ids_run):
    of_stage = write_results(ids_run)/"results.csv"
    results = pd.read_csv(ids_run.path/"results.csv")
    assert results.columns.tolist() == COLUMNS
    assert of_stage.read_bytes() == (ids_run.path/"results.csv").read_bytes()
    methods = {"popularity", "item-knn", "id", "llm-emf"}
    assert set(results["method"]) == methods | {"oracle", "ceiling"}
    views = set(results.loc[results["method"] == "ceiling", "variant"])
    assert views == {"ids", "titles", "pictures"}
    assert results.loc[results["method"] != "ceiling", "variant"].isna().all()
    assert ((results["low"] <= results["value"]) & (results["value"] <= results["high"])).all()


@pytest.mark.parametrize("which", ["ids", "folder"])
def test_the_page_stands_alone_and_tells_nothing_about_the_machine(which, request):
    page, run = (request.getfixturevalue(f"{which}_{what}") for what in ("page", "run"))
    bare = re.sub(r"base64,[^\"]*", "", page)
    assert "http://" not in bare and "https://" not in bare
    assert "<script" not in bare and "<link" not in bare and "@import" not in bare
    assert bare.count("data:image/png;") >= 2 and "alt=" in bare
    places = [run.path, run.path.parent, ROOT, Path.home()]
    places += [Path(run.dataset).parent] if which == "folder" else []
    for place in places:
        assert str(place) not in bare, place
    assert not re.search(r"(?<![\w.<])/(home|root|tmp|work|Users)/\w", bare)
    assert "def " not in text_of(page) and "import " not in text_of(page), "code is hidden"
    assert "Small helpers of the page" not in page, "the definitions are not part of the page"


def test_baselines_alone_on_a_folder_of_data(folder_run, folder_page):
    text = text_of(folder_page)
    assert "LLM-EMF was not evaluated in this run" in text and "nothing to compare" in text
    assert "known for the embedded shop only" in text and "No method of this run is trained" in text
    assert text.count("Both domains: 90 users") == 2, "sampled999, and with items already bought"
    said = " ".join(notes(folder_run))
    assert "nobody buys a thing twice" in said
    assert "learnt from the valid targets too (train --refit): item-kNN. The others did not" in said
    protocols = set(pd.read_csv(folder_run.path/"results.csv")["protocol"])
    assert protocols == {"full", "sampled999", "full_seen_too"}


def test_names_of_the_data_are_escaped(folder_page):
    assert "<small>" not in folder_page and "&lt;small&gt;" in folder_page
    assert "bread &amp; jam" in folder_page


def test_only_the_executed_report_is_rendered(ids_run, tmp_path):
    nbformat.write(nbformat.v4.new_notebook(), tmp_path/"other.ipynb")
    with pytest.raises(ValueError, match="no cell '# Report'"):
        render_report(ids_run, tmp_path/"other.ipynb")
