"""Each stage that divides its work, in one process and in two: same result, and how much sooner.

A shop of 4,000 customers and 600 items, one thread a process. Enrich (SmolLM2 about 64 titles, none
answered before), encode and train start from the same prepared data; evaluate, recommend and the
neighbours from the same trained model and features. `seconds` are of the wall clock, between two
barriers; imports and the start of the processes (some seconds) are not in them. On a machine that
others use as well, the wall clock says little, and two processes get more of the machine than one.
So the ratio is of processor time: of two processes that of the busier one, which is what a wall
clock would show on two idle cores if waiting cost nothing. Needs about five minutes of processor
time:

    python benchmarks/processes.py
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import finish

from llm_emf.clip import encode
from llm_emf.core import gathered, open_run, processes
from llm_emf.data import load_dataset, prepare
from llm_emf.enrich import enrich_catalogue
from llm_emf.features import load_features
from llm_emf.methods import find_method
from llm_emf.recommend import Recommender
from llm_emf.shop import ShopSettings
from llm_emf.task import evaluate_method, load_task, train_method

SHOP = ShopSettings(users=4000, items=300)
USERS = 32_768 # who are recommended something
TITLES = 64 # about which SmolLM2 is asked
MODEL, NEIGHBOURS = find_method("id"), find_method("item-knn-text")
STAGES = ("enrich", "encode", "train", "evaluate", "recommend", "neighbours")


def opened(folder):
    return open_run(folder, "shop", "quick", 0, "cpu")


def model_settings(run):
    "One epoch, without dropout, whose masks depend on the number of the process."
    return MODEL.change(MODEL.default_settings(load_task(run)), "epochs=1 dropout=0")


def make_inputs(tmp: Path) -> None:
    "A run that is only prepared, one with features and a model, and a file of users."
    bare, full = opened(tmp/"bare"/"run"), opened(tmp/"full"/"run")
    asked = opened(tmp/"asked"/"run")
    prepare(bare, shop=SHOP)
    shutil.copytree(bare.stage("prepare"), asked.stage("prepare"))
    enrich_catalogue(bare, limit=0)
    for name in ("prepare", "enrich"):
        shutil.copytree(bare.stage(name), full.stage(name))
    encode(full)
    train_method(full, MODEL, model_settings(full))
    data = load_dataset(bare.stage("prepare"))
    asin, user = data.items["asin"].to_numpy(), np.arange(USERS) % len(data.user)
    bought = [asin[data.item[a:b] - 1] for a, b in zip(data.offset, data.offset[1:])]
    pd.DataFrame({"user": np.arange(USERS), "items": [bought[u] for u in user]}
                 ).to_parquet(tmp/"users.parquet", row_group_size=8192)


def run_stage_of(name: str, folder: Path):
    "A function that makes the stage; what has to be read before is read."
    bare, full = opened(folder/"bare"/"run"), opened(folder/"full"/"run")
    if name == "enrich":
        run, answers = opened(folder/"asked"/"run"), folder/"asked"/"answers.sqlite"
        return lambda: enrich_catalogue(run, limit=TITLES, cache=answers, use_packaged=False)
    if name == "encode":
        return lambda: encode(bare)
    if name == "train":
        return lambda: train_method(bare, MODEL, model_settings(bare))
    if name == "evaluate":
        return lambda: evaluate_method(full, MODEL)
    if name == "recommend":
        recommender = Recommender.load(full.path, MODEL.name, "cpu")
        return lambda: recommender.recommend(folder/"users.parquet", path=folder/"recs.parquet")
    settings = NEIGHBOURS.change(NEIGHBOURS.default_settings(load_task(full)), "trials=20")
    return lambda: train_method(full, NEIGHBOURS, settings)


def child(folder: Path, out: Path) -> None:
    "All stages in this process and its like; the first writes the seconds."
    torch.set_num_threads(1)
    world, found = processes("cpu"), {}
    for name in STAGES:
        make = run_stage_of(name, folder)
        world.wait_for_everyone()
        wall, cpu = time.perf_counter(), time.process_time()
        make()
        world.wait_for_everyone()
        cpu = gathered([time.process_time() - cpu], world).max()
        found[name] = time.perf_counter() - wall, float(cpu)
    if world.is_main_process:
        out.write_text(json.dumps(found))


def measured(n: int, tmp: Path) -> dict: # stage → seconds, processor seconds of the busiest
    "What n processes need, in a folder of their own."
    shutil.copytree(tmp/"inputs", tmp/str(n))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n)]
    command = [sys.executable, *(launch if n > 1 else []), str(Path(__file__).resolve()), "child"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([*command, str(tmp/str(n)), str(tmp/f"{n}.json")], capture_output=True,
                          text=True, env=env)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return json.loads((tmp/f"{n}.json").read_text())


def differences(tmp: Path) -> dict: # stage → what differs between one process and two
    "The largest difference of a vector and of a loss; for the others, whether the bytes are equal."
    one, two = (load_features(tmp/str(n)/"bare"/"run"/"encode") for n in (1, 2))
    curves = [pd.read_csv(tmp/str(n)/"bare"/"run"/"train-id"/"curve.csv") for n in (1, 2)]
    vectors = max(np.abs(np.asarray(one.vectors[m]) - two.vectors[m]).max() for m in one.vectors)
    losses = (curves[0]["loss"] - curves[1]["loss"]).abs().max()
    found = {"encode": float(f"{vectors:.1e}"), "train": float(f"{losses:.1e}")}
    files = {"enrich": "asked/run/enrich/llm_text.parquet",
             "evaluate": "full/run/evaluate-id/ranks.parquet", "recommend": "recs.parquet",
             "neighbours": "full/run/train-item-knn-text/similarity.safetensors"}
    same = {name: (tmp/"1"/f).read_bytes() == (tmp/"2"/f).read_bytes() for name, f in files.items()}
    return found | {name: "same bytes" if equal else "differ" for name, equal in same.items()}


def main() -> None:
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as name:
        tmp = Path(name)
        (tmp/"inputs").mkdir()
        make_inputs(tmp/"inputs")
        one, two = measured(1, tmp), measured(2, tmp)
        differ = differences(tmp)
    load.append(os.getloadavg()[0])
    rows = [{"stage": s, "seconds, 1": round(one[s][0], 1), "seconds, 2": round(two[s][0], 1),
             "speed-up": round(one[s][0] / two[s][0], 2), "CPU s, 1": round(one[s][1], 1),
             "CPU s, busier of 2": round(two[s][1], 1),
             "by CPU time": round(one[s][1] / two[s][1], 2), "difference": differ[s]}
            for s in STAGES]
    ratio = sum(t[1] for t in one.values()) / sum(t[1] for t in two.values())
    finish("processes", rows, ratio, cores=os.cpu_count(), load_average=np.round(load, 1).tolist(),
           ratio_means="processor seconds of all stages: one process over the busier of two")
    bad = [s for s in STAGES if differ[s] == "differ" or not isinstance(differ[s], str)
           and differ[s] > 1e-3]
    assert not bad, f"not the same result: {bad}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["child"]:
        child(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
