"All stages on a sample of real Amazon sequences: no pictures, MiniLM, SmolLM2 asked a little."
import pandas as pd
import pytest

from llm_emf.cli import notebook_folder, run_notebook
from llm_emf.clip import encode
from llm_emf.core import open_run, stage_summary
from llm_emf.data import prepare, read_folder
from llm_emf.enrich import cache_key, enrich_catalogue, item_prompts, packaged_answers
from llm_emf.llm import LLMSettings
from llm_emf.methods import find_method, profile_methods
from llm_emf.report import render_report
from llm_emf.task import evaluate_method, train_method

METHODS = ["popularity", "item-knn", "llm-emf", "sasrec"]


@pytest.fixture(scope="module")
def run(real_sample, tmp_path_factory):
    "A run with all stages but the report."
    run = open_run(tmp_path_factory.mktemp("real")/"run", real_sample, "smoke", 0, "cpu")
    prepare(run)
    enrich_catalogue(run, limit=3)
    encode(run)
    assert profile_methods(run) == METHODS
    for name in METHODS:
        train_method(run, find_method(name))
        evaluate_method(run, find_method(name))
    return run


def test_stages(run):
    assert stage_summary(run.path/"train-llm-emf")["modalities"] == "id + tex"
    assert stage_summary(run.path/"encode")["pictures"] == "none"
    assert not (run.path/"encode"/"img.npy").exists()
    texts = pd.read_parquet(run.path/"enrich"/"llm_text.parquet")
    assert (texts["reason"] != "not asked").sum() == 3


def test_smollm2_has_answered_all_of_food_kitchen(real_sample):
    "The answers that ship with the package are found by the prompts of today."
    settings, items = LLMSettings(), read_folder(real_sample).items
    shipped = pd.read_parquet(str(packaged_answers("food-kitchen")), columns=["key"])
    table, prompts = item_prompts(items, settings)
    asked = {cache_key(p, settings) for p, title in zip(prompts, table["title"]) if title}
    assert len(asked) > 100 and asked <= set(shipped["key"])


def test_report(run):
    parameters = dict(dataset=run.dataset, profile="smoke", run=str(run.path), seed=0, device="cpu")
    executed = run.path/"notebooks"/"11_report.ipynb"
    run_notebook(notebook_folder()/"11_report.ipynb", executed, parameters)
    page = render_report(run, executed).read_text(encoding="utf-8")
    for text in ("no pictures", "minilm", "(3 were asked)", "already bought"):
        assert text in page, text
    results = pd.read_csv(run.path/"results.csv", keep_default_na=False)
    assert set(results["domain"]) == {"food", "kitchen", "all"}
    assert set(results["method"]) == set(METHODS)
    assert set(results["protocol"]) == {"full", "sampled999", "full_seen_too"}
    assert (results.loc[results["domain"] == "all", "users"] == 60).all()
