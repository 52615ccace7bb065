"Two processes (gloo, on the CPU) must give the result of one."
import json
import shutil

import numpy as np
import pytest

from llm_emf.core import open_run, stage_summary
from llm_emf.data import prepare
from llm_emf.methods import find_method
from llm_emf.shop import ShopSettings
from llm_emf.task import train_method

SCRIPT = """
import json, sys
import numpy as np
import torch
from accelerate import PartialState
from llm_emf.core import set_seed
from llm_emf.data import shop_dataset
from llm_emf.model import LLMEMF, ModelSettings
from llm_emf.shop import ShopSettings
from llm_emf.task import make_task
from llm_emf.train import TrainSettings, fit_model

torch.set_num_threads(1)
out, table, negatives, sparse_ids = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
data, _ = shop_dataset(ShopSettings(users=150))
set_seed(0)
features = {"tex": torch.randn(data.n_items + 1, 16)}
settings = ModelSettings(d=16, hidden=16, layers=1, dropout=0.0, negatives=negatives)
model = LLMEMF(settings, data.n_items, data.n_x, features)
way = TrainSettings(epochs=3, batch_tokens=200, sparse_ids=sparse_ids)
curve = fit_model(model, make_task(data), way, device="cpu")
assert model.id_embedding.sparse == (sparse_ids == 0)
if PartialState().is_main_process:
    found = {"processes": PartialState().num_processes, "loss": curve["loss"].tolist(),
             "mrr": curve["valid mrr"].tolist()}
    json.dump(found, open(out, "w"))
    np.save(table, model.id_embedding.weight.detach().numpy())
"""
SPARSE = pytest.param(64, 0, id="sampled softmax, sparse id table")
FULL = pytest.param(0, 10**9, id="full softmax", marks=pytest.mark.slow)


@pytest.mark.parametrize("negatives, sparse_ids", [SPARSE, FULL])
def test_two_processes_give_the_loss_curve_of_one(launch, tmp_path, negatives, sparse_ids):
    script, found, tables = tmp_path/"train.py", {}, {}
    script.write_text(SCRIPT)
    for n in (1, 2):
        out, table = tmp_path/f"{n}.json", tmp_path/f"{n}.npy"
        launch(n, script, out, table, negatives, sparse_ids)
        found[n], tables[n] = json.loads(out.read_text()), np.load(table)
    assert found[2]["processes"] == 2 and len(found[2]["loss"]) == 3
    assert np.abs(np.array(found[1]["loss"]) - found[2]["loss"]).max() < 1e-5
    assert np.abs(tables[1] - tables[2]).max() < 1e-3 and np.abs(tables[1]).max() > .1


STAGES = """
import json, os, signal, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
import torch
import llm_emf.recommend
from llm_emf.core import open_run, processes
from fastcore.test import test_fail
from llm_emf.enrich import enrich_catalogue
from llm_emf.llm import BackendSettings
from llm_emf.features import Features
from llm_emf.methods import find_method
from llm_emf.neighbours import vector_neighbours
from llm_emf.recommend import Recommender
from llm_emf.task import Task, evaluate_method, load_task, train_method

torch.set_num_threads(1)
folder, last = Path(sys.argv[1]), int(sys.argv[2])
run, world = open_run(folder/"run", "shop", "smoke", 0, "cpu"), processes("cpu")
assert world.num_processes == int(sys.argv[3])

pieces, rank_blocks = [], Task.rank_blocks
def counted(*given, **named): # process 1 is killed when it has made `last` pieces
    if world.process_index == 1 and len(pieces) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    pieces.append(1)
    return rank_blocks(*given, **named)
Task.rank_blocks = counted
for _ in range(2):                  # the second time it is there
    evaluate_method(run, find_method("id"))
(folder/f"pieces-{world.process_index}.json").write_text(str(len(pieces)))

llm_emf.recommend.PIECE = 64        # users
recommender = Recommender.load(run.path, "id", "cpu")
data = recommender.dataset
asin = data.items["asin"].to_numpy()
users = [asin[data.item[a:b] - 1].tolist() for a, b in zip(data.offset[:200], data.offset[1:])]
recommender.recommend(users, k=5, path=folder/"recommended.parquet")

few = "trials=5 valid_cases=500"
order, text = find_method("item-knn-order"), find_method("item-knn-text")
task, rng = load_task(run), np.random.default_rng(0)
v, has = rng.standard_normal((data.n_items + 1, 16)), np.arange(data.n_items + 1) % 7 > 0
train_method(run, order, order.change(order.default_settings(task), few))
with_text = replace(task, loader=lambda kind: Features({"tex": v}, {"tex": has}))
scorer = text.fit(with_text, text.change(text.default_settings(task), few), device="cpu")
cells = vector_neighbours(v, has, data, 9, all_pairs=0, world=world)
if world.is_main_process:
    text.save(scorer, folder)
    np.save(folder/"cells.npy", cells.toarray())

class Counting: # answers with the prompt's own words
    asked = 0
    def generate(self, prompts, may_ask):
        for n, prompt in enumerate(prompts):
            self.asked += may_ask(prompt)
            words = json.loads(prompt[-1]["content"][6:-7])["title"].split()
            answer = json.dumps({"terms": words[::-1], "summary": "one for the kitchen"})
            yield n, {"answer": answer, "tokens_in": 1, "tokens_out": 1, "seconds": 0.0}
llm = Counting()
for _ in range(2):
    enrich_catalogue(run, limit=100, cache=folder/"cache.sqlite", use_packaged=False, llm=llm)
(folder/f"asked-{world.process_index}.json").write_text(str(llm.asked))
if world.num_processes > 1: # one process asks a server
    test_fail(lambda: enrich_catalogue(run, backend=BackendSettings("http://127.0.0.1:9/v1")),
              contains="leave out accelerate launch")
"""
PIECES = 8 # blocks of the 1,000 test cases, 128 at most in each, of one domain


@pytest.fixture(scope="module")
def stages(launch, tmp_path_factory):
    "What one process and two made of copies of a run, by their number; 0: the run before."
    tmp = tmp_path_factory.mktemp("stages")
    run = open_run(tmp/"0"/"run", "shop", "smoke", 0, "cpu")
    prepare(run, shop=ShopSettings(users=1000))
    train_method(run, find_method("id"))
    (tmp/"0"/"stages.py").write_text(STAGES)
    for n in (1, 2):
        shutil.copytree(tmp/"0", tmp/str(n))
        launch(n, tmp/str(n)/"stages.py", tmp/str(n), -1, n)
    return {n: tmp/str(n) for n in (0, 1, 2)}


def same_bytes(stages, name):
    return (stages[1]/name).read_bytes() == (stages[2]/name).read_bytes()


def counted(folder, what="pieces"): # by each process
    return [int(file.read_text()) for file in sorted(folder.glob(f"{what}-*.json"))]


def test_each_process_ranks_its_share_once(stages):
    assert counted(stages[1]) == [PIECES]
    assert counted(stages[2]) == [PIECES // 2, PIECES // 2]


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(stages, launch, tmp_path):
    folder = tmp_path/"killed"
    shutil.copytree(stages[0], folder)
    with pytest.raises(AssertionError, match="SIGKILL"):
        launch(2, folder/"stages.py", folder, 2, 2)
    assert not (folder/"run"/"evaluate-id").exists()
    kept = list((folder/"run"/"evaluate-id.partial"/"pieces").glob("*.parquet"))
    launch(2, folder/"stages.py", folder, -1, 2)
    made = counted(folder)
    assert len(kept) >= 2 and made[1] == PIECES // 2 - 2   # the killed one had made two
    assert len(kept) + sum(made) == PIECES
    assert same_bytes({1: stages[1], 2: folder}, "run/evaluate-id/ranks.parquet")


def test_two_processes_write_the_ranks_of_one(stages):
    assert same_bytes(stages, "run/evaluate-id/ranks.parquet")
    folders = [stages[n]/"run"/"evaluate-id" for n in (1, 2)]
    assert stage_summary(folders[0]) == stage_summary(folders[1])
    assert [p.name for p in sorted(folders[1].iterdir())] == ["manifest.json", "ranks.parquet"]


def test_two_processes_share_the_questions_to_a_language_model(stages):
    assert counted(stages[1], "asked") == [100] and counted(stages[2], "asked") == [50, 50]
    for name in ("llm_text.parquet", "rejected.parquet"):
        assert same_bytes(stages, f"run/enrich/{name}")


def test_two_processes_write_the_recommendations_of_one(stages):
    assert same_bytes(stages, "recommended.parquet")
    assert not (stages[2]/"recommended.parquet.parts").exists()


def test_two_processes_fit_the_neighbours_of_one(stages):
    for folder in (".", "run/train-item-knn-order"):
        for name in ("similarity.safetensors", "neighbours.json"):
            assert same_bytes(stages, f"{folder}/{name}"), (folder, name)
    assert same_bytes(stages, "cells.npy")
