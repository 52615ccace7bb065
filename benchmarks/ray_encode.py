"""A catalogue encoded by Ray with a worker killed half-way, against the same without Ray.

The text vectors of 50,000 titles by the small CLIP: food-kitchen's where they are at hand (with
their first ones again, numbered, for what is missing), else a shop's. One worker with one thread
on both sides. The worker is killed from outside when half of the result's files are there. Needs
the extra `ray`.
"""
import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from importlib import util
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import REAL, finish

from llm_emf.clip import ClipSettings, encode_texts_clip, load_clip
from llm_emf.ray_batches import Division, EncodeItems, encode_parquet, import_ray, read_vectors
from llm_emf.readers import clean_text
from llm_emf.shop import make_catalogue

parser = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--items", type=int, default=50_000)
parser.add_argument("--rows", type=int, default=1024)
options = parser.parse_args()
if util.find_spec("ray") is None:
    sys.exit(print('left out: this needs Ray, pip install "llm-emf[ray]"'))
ray = import_ray()
torch.set_num_threads(1)


def titles(n: int) -> tuple: # n strings, where they are from
    "Titles of a catalogue; from its end on with a number."
    real = REAL/"items.parquet"
    known = (pd.read_parquet(real) if real.exists() else make_catalogue())["title"].tolist()
    found = [known[k % len(known)] + f" {k // len(known)}" * (k >= len(known)) for k in range(n)]
    found = [clean_text(title) for title in found] # as `encode_parquet` reads them
    return found, "food-kitchen" if real.exists() else "shop"


def noting(folder: str) -> type:
    "A worker that notes its process number, so that it can be killed."
    class Noting(EncodeItems):
        def __init__(self, **options):
            import os
            import time
            from pathlib import Path
            super().__init__(**options)
            (Path(folder)/f"{time.time()}").write_text(str(os.getpid()))
    return Noting


def kill_half_way(parts: Path, files: int, noted: Path, done: list) -> None:
    "Kill the worker once half of the files are there."
    while len(list(parts.glob("*.parquet"))) < files // 2:
        time.sleep(.1)
    pid = int(sorted(noted.iterdir())[0].read_text())
    os.kill(pid, signal.SIGKILL)
    done.append(time.time())


def with_ray(tmp: Path) -> dict: # seconds, killed at, files: when each was there
    "Encode on a local Ray, with the kill."
    noted, killed = tmp/"noted", []
    noted.mkdir()
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False,
             logging_level="error", object_store_memory=2**28)
    ray.data.DataContext.get_current().enable_progress_bars = False
    files = -(-options.items // options.rows)
    killer = threading.Thread(target=kill_half_way, daemon=True, args=(
        tmp/"vectors.aside", files, noted, killed))
    began = time.time()
    killer.start()
    encode_parquet(tmp/"items.parquet", tmp/"vectors", ClipSettings(text="title"),
                   Division(rows=options.rows), noting(str(noted)))
    seconds = time.time() - began
    ray.shutdown()
    workers = [float(f.name) - began for f in sorted(noted.iterdir())]
    assert len(killed) == 1 and len(workers) == 2, "one worker was killed, another took its place"
    there = sorted(f.stat().st_mtime - began for f in (tmp/"vectors").glob("*.parquet"))
    return {"seconds": seconds, "killed": killed[0] - began, "workers": workers, "there": there}


with tempfile.TemporaryDirectory() as tmp:
    texts, data = titles(options.items)
    items = pd.DataFrame({"asin": [f"A{k}" for k in range(len(texts))], "title": texts})
    items.to_parquet(Path(tmp)/"items.parquet", index=False)
    model, _, tokenizer = load_clip(device="cpu")
    began = time.time()
    alone = encode_texts_clip(texts, model, tokenizer, device="cpu")
    seconds = time.time() - began
    run = with_ray(Path(tmp))
    found = read_vectors(Path(tmp)/"vectors", items)
    assert found.has["tex"][1:].all(), "an item is missing"
    written = sum(pd.read_parquet(f, columns=["asin"]).size
                  for f in (Path(tmp)/"vectors").glob("*.parquet"))
    assert written == len(items), "an item was written twice"
difference = float(np.abs(found.vectors["tex"][1:] - alone).max())
rate, bare = len(items) / run["seconds"], len(items) / seconds
first, again = run["workers"]
finish("ray_encode", [
    {"way": "without Ray", "seconds": round(seconds, 1), "items/s": round(bare, 1)},
    {"way": "Ray, one worker, killed once", "seconds": round(run["seconds"], 1),
     "items/s": round(rate, 1)}], rate / bare,
    items=len(items), rows_a_batch=options.rows, data=data, encoder="llm-emf-small, texts",
    same_bytes=bool(difference == 0), largest_difference=difference,
    worker_ready_s=round(first, 1), killed_s=round(run["killed"], 1),
    next_worker_ready_s=round(again, 1), files_there_s=[round(t, 1) for t in run["there"]],
    ray=ray.__version__, ratio_means="items/s on Ray, start and kill included, over without Ray")
