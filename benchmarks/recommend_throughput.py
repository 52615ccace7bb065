"""Recommending from a file to a file with LLM-EMF, against a plain torch matmul and topk.

Food-Kitchen's catalogue (36,298 items) or a shop of about its size; untrained weights and random
vectors, on which speed does not depend. Both domains are ranked, ten items a user. The plain
version multiplies as many queries with the keys of both domains as the model does (three for a
user: own domain, other domain, merged) and takes the ten best of one product for each user; it has
no softmax, no sum over sequences, no exclusion of bought items, no titles and no file. Each number
of users runs in a process of its own, which reports its peak memory. CPU seconds are those of the
process; with several threads they add up.

    python benchmarks/recommend_throughput.py [users ...]
"""
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from common import finish, load_data, random_features

from llm_emf.model import LLMEMF, ModelSettings, final_moments
from llm_emf.recommend import Recommender
from llm_emf.train import ModelScorer

K, LENGTH = 10, 9      # items a user gets; purchases of each user


def make_users(items: pd.DataFrame, n: int, path) -> None:
    "A parquet file of random histories, sorted by user, written in pieces."
    rng, asin = np.random.default_rng(0), items["asin"].to_numpy()
    writer = None
    for start in range(0, n, 10_000):
        user = np.repeat(np.arange(start, min(start + 10_000, n)), LENGTH)
        table = pa.table({"user": user, "item": asin[rng.integers(0, len(asin), len(user))]})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    writer.close()


def make_recommender() -> Recommender:
    data, split = load_data()
    rng = np.random.default_rng(1)
    vectors = random_features(data) | {
        "img": torch.from_numpy(rng.standard_normal((data.n_items + 1, 512), dtype=np.float32))}
    model = LLMEMF(ModelSettings(), data.n_items, data.n_x, vectors)
    return Recommender(ModelScorer(model), data, train=split["train"])


def seconds(work, repeats: int) -> tuple: # wall, CPU: the least of some repeats
    found = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(w for w, _ in found), min(c for _, c in found)


@torch.inference_mode()
def reference(recommender, repeats: int) -> dict:
    "CPU seconds of one block of users: encoding, and a plain matmul with topk."
    model, rows = recommender.scorer.model, recommender.rows_at_a_time
    rng = np.random.default_rng(0)
    items = torch.from_numpy(rng.integers(1, model.n_items + 1, (rows, LENGTH)))
    keys = [model.keys(model.candidates(d), d) for d in (0, 1)]
    moments = [final_moments(items, torch.full((rows,), d)) for d in (0, 1)]
    queries = [model.queries(items, m)[0] for m in moments]
    def encode():
        for m in moments:
            model.queries(items, m)
    def plain():
        for q, k in zip(queries, keys):
            (q @ k.T)[:rows].topk(K)
    return {"rows": rows, "encode": seconds(encode, repeats)[1],
            "plain": seconds(plain, repeats)[1]}


def child(n: int, compare: bool) -> None:
    "One number of users; prints a line of json."
    recommender = make_recommender()
    with tempfile.TemporaryDirectory() as tmp:
        users, out = f"{tmp}/users.parquet", f"{tmp}/recs.parquet"
        make_users(recommender.dataset.items, n, users)
        recommender.recommend([recommender.dataset.items["asin"][0]], k=K) # counts and keys
        wall, cpu = seconds(lambda: recommender.recommend(users, k=K, path=out), 1)
        rows = pq.read_metadata(out).num_rows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = {"users": n, "rows": rows, "wall": wall, "cpu": cpu, "peak_gib": peak,
             "items": recommender.dataset.n_items}
    if compare:
        found["one block"] = reference(recommender, 5)
    print(json.dumps(found))


def measured(n: int, compare: bool) -> dict:
    command = [sys.executable, str(Path(__file__)), "child", str(n), *["compare"] * compare]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def main(counts) -> None:
    found = [measured(n, n == counts[-1]) for n in counts]
    rows = [{"": f"{f['users']:,} users x {f['items']:,} items", "users/s": round(f["users"]
             / f["wall"], 1), "CPU ms a user": round(1000 * f["cpu"] / f["users"], 3),
             "peak GiB": round(f["peak_gib"], 3)} for f in found]
    block, last = found[-1]["one block"], found[-1]
    each = {name: 1000 * block[name] / block["rows"] for name in ("encode", "plain")}
    rows += [{"": "of it encoding", "CPU ms a user": round(each["encode"], 3)},
             {"": "plain matmul and topk", "CPU ms a user": round(each["plain"], 3)}]
    beyond = 1000 * last["cpu"] / last["users"] - each["encode"]
    memory = last["peak_gib"] / found[0]["peak_gib"]
    print(f"peak memory of {last['users']:,} users / of {found[0]['users']:,}: {memory:.3f}")
    finish("recommend_throughput", rows, beyond / each["plain"], k=K, memory_ratio=round(memory, 3),
           compared="CPU time beyond encoding / plain matmul and topk with as many queries")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(int(sys.argv[2]), "compare" in sys.argv)
    else:
        main([int(n) for n in sys.argv[1:]] or [10_000, 100_000])
