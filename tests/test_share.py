"Sharing: pushed to and downloaded from a stand-in of the hub, by huggingface_hub's own client."
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hub_stand_in import hub

from llm_emf.data import shop_dataset
from llm_emf.features import Features
from llm_emf.methods import find_method
from llm_emf.share import SharedRecommender
from llm_emf.shop import ShopSettings
from llm_emf.task import make_task

PUSH_AND_PULL = """
import json, sys
from llm_emf.core import InputError
from llm_emf.share import SharedRecommender, open_recommender

url = SharedRecommender.from_pretrained(sys.argv[1]).push_to_hub("me/shop")
found = open_recommender("me/shop")
asins = found.dataset.items["asin"]
table = found.recommend([asins[3], asins[700]], "kitchen", 5)
refused = []
for name in ("me/absent", "me/newer", "no such name"):
    try:
        open_recommender(name)
    except InputError as e:
        refused.append(str(e))
print(json.dumps([url, table["asin"].tolist(), table["score"].tolist(), refused]))
"""


@pytest.fixture(scope="module")
def task():
    data, _ = shop_dataset(ShopSettings(users=150))
    rng = np.random.default_rng(0)
    vectors = {m: rng.standard_normal((data.n_items + 1, 16), np.float32) for m in ("img", "tex")}
    some = Features(vectors, {m: np.ones(data.n_items + 1, bool) for m in vectors})
    return make_task(data, features={"title+llm": some, "title": some})


def shared(task, name):
    method = find_method(name)
    small = method.default_settings(task, "smoke")
    kind = method.reads(small)
    features = task.features(kind) if kind else None
    scorer = method.fit(task, small, device="cpu")
    return SharedRecommender(scorer, task.dataset, method=name, features=features)


def test_push_and_download_by_a_hub(task, tmp_path):
    mine = shared(task, "llm-emf")
    mine.save_pretrained(tmp_path/"mine")
    config = json.loads((tmp_path/"mine"/"config.json").read_text()) | {"format": 99}
    with hub() as server:
        server.repos["me/newer"] = {"config.json": json.dumps(config).encode()}
        env = os.environ | {"HF_ENDPOINT": server.url, "HF_TOKEN": server.token,
                            "HF_HOME": str(tmp_path/"cache"), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run([sys.executable, "-c", PUSH_AND_PULL, tmp_path/"mine"], text=True,
                              capture_output=True, env=env, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    url, asins, scores, refused = json.loads(done.stdout.splitlines()[-1])
    assert url.startswith(f"{server.url}/me/shop/commit/")
    assert {"README.md", "config.json", "model.safetensors", "features.safetensors",
            "catalogue.parquet"} == set(server.repos["me/shop"]) - {"model.json", "curve.csv"}
    here = mine.recommend([task.dataset.items["asin"][i] for i in (3, 700)], "kitchen", 5)
    assert asins == here["asin"].tolist() and np.allclose(scores, here["score"])
    absent, newer, no_name = refused
    assert "neither a folder nor a model" in absent and "RepositoryNotFoundError" in absent
    assert "Upgrade: pip install -U llm-emf" in newer
    assert "neither a folder nor a model" in no_name


def test_the_re_ranked_blend_is_shared_explained_and_extended(task, tmp_path):
    mine = shared(task, "hybrid-rerank")
    mine.save_pretrained(tmp_path/"mine")
    back = SharedRecommender.from_pretrained(tmp_path/"mine")
    histories = torch.tensor([[3, 700, 12], [900, 1, 0]])
    for domain in (0, 1):
        assert torch.equal(mine.scorer.score(histories, domain),
                           back.scorer.score(histories, domain))
    bought = task.dataset.items["asin"].iloc[[2, 699, 11]].tolist()
    best = back.recommend(bought, "kitchen", 3)
    why = back.explain(bought, best["asin"][0])
    assert why.rank == 1 and abs(why.parts["contribution"].sum() - why.score) < 1e-6
    assert {"id", "text", "picture", "memory", "second look"} <= set(why.parts["part"])
    for by in ("all", "text", "picture", "id"):
        assert len(back.similar(best["asin"][0], by, 2)) == 2
    table = pd.DataFrame({"asin": ["new"], "domain": "kitchen", "title": best["title"][:1]})
    vectors = {m: v[[0, 700]] for m, v in back.features.vectors.items()}
    has = {m: np.array([False, True]) for m in vectors}
    wider = back.add_items(table, features=Features(vectors, has))
    assert len(wider.recommend(["new"], "food", 5)) == 5
    assert wider.explain(bought, "new").score > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["item-knn-order", "item-knn-text", "sasrec-text", "ensrec",
                                  "gru4rec", "bert4rec", "abxi", "c2dsr", "blend"])
def test_every_kind_of_method_comes_back_with_the_same_scores(task, tmp_path, name):
    mine = shared(task, name)
    mine.save_pretrained(tmp_path/"mine")
    back = SharedRecommender.from_pretrained(tmp_path/"mine")
    back.save_pretrained(tmp_path/"again")
    again = SharedRecommender.from_pretrained(tmp_path/"again")
    histories = torch.tensor([[3, 700, 12], [900, 1, 0]])
    for other in (back, again):
        for domain in (0, 1):
            assert torch.equal(mine.scorer.score(histories, domain),
                               other.scorer.score(histories, domain))
