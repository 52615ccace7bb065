"papermill runs every notebook in order (profile smoke, one run folder); their numbers are checked."
import json

import numpy as np
import pandas as pd
import pytest
import torch

from llm_emf.cli import numbered_notebooks, run_notebook
from llm_emf.core import open_run, stage_summary
from llm_emf.data import load_dataset, load_split
from llm_emf.features import load_features
from llm_emf.report import render_report
from llm_emf.train import load_model


@pytest.mark.parametrize("path", numbered_notebooks(), ids=lambda p: p.stem)
def test_notebook(path, smoke_run):
    parameters = dict(dataset="shop", profile="smoke", run=str(smoke_run), seed=0, device="cpu")
    run_notebook(path, smoke_run/"notebooks"/path.name, parameters)


def test_figures_are_sound(smoke_run):
    results = pd.read_csv(smoke_run/"results.csv", keep_default_na=False)
    methods = {"popularity", "item-knn", "item-knn-order", "item-knn-text", "id", "llm-emf",
               "oracle", "ceiling"}
    assert set(results["method"]) == methods
    assert (results["low"] <= results["value"] + 1e-6).all()
    assert (results["value"] <= results["high"] + 1e-6).all()
    assert (results["users"][results["domain"] == "all"] == 200).all()
    mrr = results[(results["metric"] == "mrr") & (results["domain"] == "all")]
    full = mrr[mrr["protocol"] == "full"].set_index(["method", "variant"])["value"]
    assert full["oracle", ""] > full["llm-emf", ""], "nothing may beat the oracle"
    random = np.mean(1 / np.arange(1, 601))
    assert full["item-knn", ""] > 2 * random and full["llm-emf", ""] > random


def test_ranks_are_those_of_a_slow_loop(smoke_run):
    "Load the trained model and rank 25 users one by one, item by item."
    data = load_dataset(smoke_run/"prepare")
    test = load_split(smoke_run/"prepare", data)["test"]
    features = load_features(smoke_run/"encode", data.n_items)
    model = load_model(smoke_run/"train-llm-emf", features)
    ranks = pd.read_parquet(smoke_run/"evaluate-llm-emf"/"ranks.parquet")
    for k in range(25):
        history = data.item[test.start[k]:test.stop[k] - 1][-50:].astype(np.int64)
        target = int(data.item[test.stop[k] - 1])
        domain = int(target > data.n_x)
        scores = model.scores(torch.tensor(history[None]), domain)[0].tolist()
        of_target = scores[target - 1 - domain * data.n_x]
        slow = sum(s >= of_target for s in scores)
        row = ranks.iloc[k]
        assert row["target"] == target
        assert abs(row["rank"] - slow) <= 1, "ties within float error may move a rank by one"


def test_report_says_what_matters(smoke_run):
    run = open_run(smoke_run, "shop", "smoke", 0, "cpu")
    page = render_report(run, smoke_run/"notebooks"/"11_report.ipynb").read_text(encoding="utf-8")
    for text in ("is first of 6 under full ranking", "Each domain", "food: 93 users",
                 "Among 999 sampled negatives", "HR@10", "NDCG@5", "oracle", "purchases per user",
                 "usion weights", "encoded by llm-emf-small", "data:image/png;base64",
                 "llm-emf train --method llm-emf"):
        assert text in page, text
    weights = pd.read_csv(smoke_run/"train-llm-emf"/"curve.csv").filter(like="weight ")
    assert weights.shape[1] == 6
    assert np.allclose(weights.filter(like="food").sum(axis=1), 1, atol=1e-5)


def test_llm_text_is_not_the_title(smoke_run):
    texts = pd.read_parquet(smoke_run/"enrich"/"llm_text.parquet")
    answered = texts[texts["llm"] != ""]
    assert len(answered) > 900 and (answered["llm"] != answered["title"]).all()


def test_picture_features_are_not_noise(smoke_run):
    assert stage_summary(smoke_run/"encode")["pictures"] == 1200
    items = load_dataset(smoke_run/"prepare").items
    v = np.load(smoke_run/"encode"/"img.npy")[1:]
    similarity = v @ v.T
    np.fill_diagonal(similarity, -1)
    category = items["category"].to_numpy()
    same = category[similarity.argmax(1)] == category
    assert same.mean() > .8, "a picture's nearest neighbour is of its category"


@pytest.mark.parametrize("path", numbered_notebooks(), ids=lambda p: p.stem)
def test_saved_notebook_holds_no_error_and_one_parameters_tag(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert not any(o["output_type"] == "error" for c in cells for o in c.get("outputs", []))
    stage = any("the_run = open_run(run" in "".join(c["source"]) for c in cells)
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == int(stage), "a stage has one cell tagged parameters"
