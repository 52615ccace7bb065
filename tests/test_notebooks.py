"papermill runs every notebook in order (profile smoke, one run folder), then the numbers they computed are read back and checked."
import json

import numpy as np
import pandas as pd
import pytest
import torch

from llm_emf.cli import numbered_notebooks, run_notebook
from llm_emf.core import stage_summary
from llm_emf.data import load_dataset, load_split
from llm_emf.features import load_features
from llm_emf.train import load_model


@pytest.mark.parametrize("path", numbered_notebooks(), ids=lambda p: p.stem)
def test_notebook(path, smoke_run):
    run_notebook(path, smoke_run/"notebooks"/path.name, dict(dataset="shop", profile="smoke", run=str(smoke_run), seed=0, device="cpu"))


def test_figures_are_sound(smoke_run):
    results = pd.read_csv(smoke_run/"results.csv")
    assert set(results["method"]) == {"popularity", "item-knn", "item-knn-order", "item-knn-text", "llm-emf", "oracle", "ceiling"}
    assert ((results["low"] <= results["value"] + 1e-6) & (results["value"] <= results["high"] + 1e-6)).all()
    wide = results[results["metric"].isin(["mrr", "hr@10"])].pivot_table(index=["method", "variant", "protocol", "domain"], columns="metric", values="value", dropna=False)
    mrr = results[(results["metric"] == "mrr") & (results["domain"] == "all")].fillna("").set_index(["protocol", "method", "variant"])["value"]
    assert mrr["full", "oracle", ""] > mrr["full", "llm-emf", "llm-emf"], "nothing may beat the oracle"
    random = np.mean(1 / np.arange(1, 601))
    assert mrr["full", "item-knn", ""] > 2 * random and mrr["full", "llm-emf", "llm-emf"] > random
    assert (results["users"][results["domain"] == "all"] == 200).all()
    assert wide.notna().any().all()


def test_ranks_are_those_of_a_slow_loop(smoke_run):
    "Load the trained model and rank 25 users one by one, item by item."
    data = load_dataset(smoke_run/"prepare")
    test = load_split(smoke_run/"prepare", data)["test"]
    model = load_model(smoke_run/"train-llm-emf", load_features(smoke_run/"encode", data.n_items))
    ranks = pd.read_parquet(smoke_run/"evaluate-llm-emf"/"ranks.parquet")
    for k in range(25):
        history, target = data.item[test.start[k]:test.stop[k] - 1], int(data.item[test.stop[k] - 1])
        domain = int(target > data.n_x)
        scores = model.scores(torch.tensor(history[-50:][None].astype(np.int64)), domain)[0].tolist()
        mine = scores[target - 1 - domain * data.n_x]
        slow = sum(s >= mine for s in scores)
        row = ranks.iloc[k]
        assert row["target"] == target and abs(row["rank"] - slow) <= 1, "ties within float error may move a rank by one"


def test_report_says_what_matters(smoke_run):
    page = (smoke_run/"report.html").read_text(encoding="utf-8")
    for text in ("Full ranking, food", "Full ranking, kitchen", "Among 999 sampled negatives, food", "HR@10", "NDCG@5", "oracle", "purchases per user",
                 "Fusion weights learnt", "title+llm, encoded by llm-emf-small", "data:image/png;base64"):
        assert text in page, text
    weights = pd.read_csv(smoke_run/"train-llm-emf"/"curve.csv").filter(like="weight ")
    assert weights.shape[1] == 6 and np.allclose(weights.filter(like="food").sum(axis=1), 1, atol=1e-5)


def test_llm_text_is_not_the_title_and_features_are_not_noise(smoke_run):
    texts = pd.read_parquet(smoke_run/"enrich"/"llm_text.parquet")
    answered = texts[texts["llm"] != ""]
    assert len(answered) > 900 and (answered["llm"] != answered["title"]).all()
    assert stage_summary(smoke_run/"encode")["pictures"] == 1200
    items = load_dataset(smoke_run/"prepare").items
    v = np.load(smoke_run/"encode"/"img.npy")[1:]
    similarity = v @ v.T
    np.fill_diagonal(similarity, -1)
    category = items["category"].to_numpy()
    assert (category[similarity.argmax(1)] == category).mean() > .8, "a picture's nearest neighbour is of its category"


def test_saved_notebooks_hold_no_errors_and_the_parameters_tag():
    for path in numbered_notebooks():
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert not any(o["output_type"] == "error" for c in cells for o in c.get("outputs", [])), path.name
        stage = any("the_run = open_run(run" in "".join(c["source"]) for c in cells)
        tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
        assert len(tagged) == int(stage), f"{path.name}: a stage has one cell tagged parameters"
