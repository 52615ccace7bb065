"Two processes (gloo, on the CPU) must give the training of one."
import json

import numpy as np
import pytest

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
