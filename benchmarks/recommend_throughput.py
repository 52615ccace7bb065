"""Recommending from a file to a file with LLM-EMF, against a plain torch matmul and topk.

Food-Kitchen's catalogue (36,298 items) or a shop of about its size; untrained weights and random
vectors, on which speed does not depend. Both domains are ranked, ten items a user. The plain
version multiplies as many queries with the keys of both domains as the model does (three for a
user: own domain, other domain, merged) and takes the ten best of one product for each user; it has
no softmax, no sum over sequences, no exclusion of bought items, no titles and no file.

The ratio is (recommending - encoding) / plain, of 2,048 users each; encoding is timed inside the
recommending. Both take turns in one process, and the ratio is the median over the turns, so that a
machine in use by others slows both. Each number of users then runs in a process of its own, which
reports its peak memory; the last is compared with the first. 100,000 users take some minutes:

    python benchmarks/recommend_throughput.py            # 4,096 and 20,000 users
    python benchmarks/recommend_throughput.py 10000 100000
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

K, LENGTH = 10, 9 # items a user gets; purchases of each user
TURNS, USERS = 9, 2048 # of the comparison; users of each turn


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


def now() -> np.ndarray: # wall, CPU
    "Seconds."
    return np.array([time.perf_counter(), time.process_time()])


class Timed:
    "A function that adds up how long its calls take."
    def __init__(self, call):
        self.call, self.seconds = call, np.zeros(2)

    def __call__(self, *arguments, **named):
        before = now()
        try:
            return self.call(*arguments, **named)
        finally:
            self.seconds += now() - before


@torch.inference_mode()
def plain_version(recommender, users): # a function without arguments
    "The products of blocks of users as `recommend` makes them, with queries made beforehand."
    model, rows, blocks = recommender.scorer.model, recommender.rows_at_a_time, []
    keys = [model.keys(model.candidates(d), d) for d in (0, 1)]
    for start in range(0, len(users), rows):
        items = users.part(start, start + rows).padded(LENGTH)
        moments = [final_moments(items, torch.full((len(items),), d)) for d in (0, 1)]
        blocks.append((len(items), [model.queries(items, m)[0] for m in moments]))
    def multiply():
        for n, queries in blocks:
            for q, k in zip(queries, keys):
                (q @ k.T)[:n].topk(K)
    return multiply


def compare() -> None:
    "Recommending and the plain version in turn; prints a line of json."
    recommender, turns = make_recommender(), []
    with tempfile.TemporaryDirectory() as tmp, torch.inference_mode():
        users, out = f"{tmp}/users.parquet", f"{tmp}/recs.parquet"
        make_users(recommender.dataset.items, USERS, users)
        multiply = plain_version(recommender, next(recommender.read_users(users)))
        recommender.recommend([recommender.dataset.items["asin"][0]], k=K) # counts and keys
        for _ in range(TURNS):
            model = recommender.scorer.model
            encode = model.queries = Timed(type(model).queries.__get__(model))
            ours, plain = Timed(recommender.recommend), Timed(multiply)
            ours(users, k=K, path=out)
            plain()
            turns.append([ours.seconds, encode.seconds, plain.seconds])
    print(json.dumps(np.array(turns).tolist()))


def child(n: int) -> None:
    "One number of users; prints a line of json."
    recommender = make_recommender()
    with tempfile.TemporaryDirectory() as tmp:
        users, out = f"{tmp}/users.parquet", f"{tmp}/recs.parquet"
        make_users(recommender.dataset.items, n, users)
        recommender.recommend([recommender.dataset.items["asin"][0]], k=K) # counts and keys
        ours = Timed(recommender.recommend)
        ours(users, k=K, path=out)
        rows = pq.read_metadata(out).num_rows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    wall, cpu = ours.seconds
    print(json.dumps({"users": n, "rows": rows, "wall": wall, "cpu": cpu, "peak_gib": peak,
                      "items": recommender.dataset.n_items}))


def measured(*what):
    "What a process of its own prints."
    command = [sys.executable, str(Path(__file__)), *map(str, what)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def main(counts) -> None:
    turns = np.array(measured("compare")) # (turns, 3, 2): recommend, encode, plain; wall, CPU
    ratios = np.median((turns[:, 0] - turns[:, 1]) / turns[:, 2], 0)
    found = [measured("child", n) for n in counts]
    rows = [{"": f"{f['users']:,} users x {f['items']:,} items",
             "users/s": round(f["users"] / f["wall"], 1), "ms a user":
             round(1000 * f["wall"] / f["users"], 3), "CPU ms a user":
             round(1000 * f["cpu"] / f["users"], 3), "peak GiB": round(f["peak_gib"], 3)}
            for f in found]
    names = ("recommending", "encoding", "plain matmul and topk")
    rows += [{"": f"in turn: {name}", "ms a user": round(1000 * wall / USERS, 3),
              "CPU ms a user": round(1000 * cpu / USERS, 3)}
             for name, (wall, cpu) in zip(names, np.median(turns, 0))]
    memory = found[-1]["peak_gib"] / found[0]["peak_gib"]
    print(f"peak memory of {counts[-1]:,} users / of {counts[0]:,}: {memory:.3f}")
    finish("recommend_throughput", rows, float(ratios[0]), k=K, memory_ratio=round(memory, 3),
           ratio_of_cpu_time=round(float(ratios[1]), 2),
           compared="time beyond encoding / plain matmul and topk with as many queries")


if __name__ == "__main__":
    if sys.argv[1:] == ["compare"]:
        compare()
    elif sys.argv[1:2] == ["child"]:
        child(int(sys.argv[2]))
    else:
        main([int(n) for n in sys.argv[1:]] or [4096, 20_000])
