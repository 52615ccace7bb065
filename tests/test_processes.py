"Two processes (gloo, on the CPU) must give the training of one."
import json
import os
import subprocess
import sys

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
data, _ = shop_dataset(ShopSettings(users=150))
set_seed(0)
features = {"tex": torch.randn(data.n_items + 1, 16)}
model = LLMEMF(ModelSettings(d=16, hidden=16, layers=1, dropout=0.0, negatives=int(sys.argv[3])), data.n_items, data.n_x, features)
way = TrainSettings(epochs=3, batch_tokens=200, sparse_ids=int(sys.argv[4]))
curve = fit_model(model, make_task(data), way, device="cpu")
if PartialState().is_main_process:
    json.dump({"processes": PartialState().num_processes, "loss": curve["loss"].tolist(), "mrr": curve["valid mrr"].tolist()}, open(sys.argv[1], "w"))
    np.save(sys.argv[2], model.id_embedding.weight.detach().numpy())
"""


def test_two_processes_give_the_loss_curve_of_one(tmp_path):
    import numpy as np
    script = tmp_path/"train.py"
    script.write_text(SCRIPT)
    for negatives, sparse_ids in ((0, 10**9), (64, 0)):                        # full softmax; sampled, with a sparse id table
        found, tables = {}, {}
        for n in (1, 2):
            out, table = tmp_path/f"{n}.json", tmp_path/f"{n}.npy"
            # accelerate launch starts GPU processes through torchrun; several CPU processes it would start through MPI only
            start = [sys.executable] if n == 1 else [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
            command = [*start, str(script), str(out), str(table), str(negatives), str(sparse_ids)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"})
            assert done.returncode == 0, done.stderr[-3000:]
            found[n], tables[n] = json.loads(out.read_text()), np.load(table)
        assert found[2]["processes"] == 2 and len(found[2]["loss"]) == 3
        assert np.abs(np.array(found[1]["loss"]) - found[2]["loss"]).max() < 1e-5
        assert np.abs(tables[1] - tables[2]).max() < 1e-3 and np.abs(tables[1]).max() > .1
