"""Every stage of the command line on a large shop: time and peak memory, and what grows with what.

    python benchmarks/large_shop.py --sizes 10000x1000 100000x10000 1000000x100000 --folder DIR

A size is USERSxITEMS. The shop is simulated and written as a data set of one's own (items.parquet
and sequences.parquet, without pictures); then `llm-emf prepare`, `enrich --limit 0`, `encode` (the
titles, by the small CLIP), `train`, `evaluate`, `recommend --out` and `report` read it. Each stage
of each size has a process of its own, which tells its seconds, its processor seconds and its peak
memory; importing the library is not counted. A stage that was killed is begun again, one that is
done is not repeated: the same command goes on where it was. Files of a size stay in DIR.

Two methods are fitted: neighbours (item-kNN by order and text, settings as given), from all users,
and LLM-EMF, for an epoch on the purchases of a sample of the users. Both rank a sample of the test
cases and recommend to a sample of the users, while every table has its full size. The time for all
of them is extrapolated: what is done once (reading the run; of recommending, the whole command for
ten users), and the rest in proportion. The report reads as many ranks as there are test cases:
those of the sample, repeated. Equal titles are encoded once; the time is extrapolated to as many
different ones as there are items.

With --many, a catalogue of so many items, ids alone, d = 16, is ranked and trained on: the memory
of scores must not grow with users x items.

All sizes take about half an hour of processor time, most of it the last.
"""
import argparse
import json
import multiprocessing
import resource
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from common import finish, peak_gib

from llm_emf import cli
from llm_emf.core import InputError, Run, open_run, run_stage
from llm_emf.data import Dataset
from llm_emf.methods import METHODS, find_method
from llm_emf.model import LLMEMF, ModelSettings
from llm_emf.recommend import Recommender
from llm_emf.shop import ShopSettings, make_catalogue, simulate_users
from llm_emf.task import load_task, make_task, rank_pieces, train_method
from llm_emf.train import ModelMethod, ModelScorer, Trainer, TrainSettings

KNN = "item-knn-text"
# one choice for all sizes; the profiles would take the full softmax for the smallest
WORDS = "negatives=2048 dropout=0.4 id_start=features id_length=unit epochs=1 valid_cases=2000"


class Place:
    "The folder of one size."
    def __init__(self, folder, users: int, items: int):
        self.users, self.items = users, items
        self.folder = Path(folder)/f"{users}x{items}"
        self.data, self.out = self.folder/"shop", self.folder/"run"

    def run(self) -> Run:
        return open_run(self.out, str(self.data), "quick", 0, "cpu")


def llm_emf(*words) -> None:
    "A command."
    if code := cli.main([str(w) for w in words]):
        sys.exit(code)


def as_lists(bought: np.ndarray, times: np.ndarray) -> dict: # column → arrow array
    "A block of users; both (users, longest), 0 after the end."
    offset = np.r_[0, np.cumsum((bought > 0).sum(1))].astype(np.int32)
    return {name: pa.ListArray.from_arrays(offset, values[bought > 0])
            for name, values in (("items", bought), ("times", times))}


def simulate(place: Place, options) -> tuple: # users, of all users
    "The shop as a data set of one's own, block by block."
    settings = ShopSettings(users=place.users, items=place.items // 2)
    place.data.mkdir()
    items = make_catalogue(settings)
    table = items[["domain", "asin", "title", "price"]].assign(item=items["item_id"])
    table.to_parquet(place.data/"items.parquet")
    writer = None
    for first, _, bought, times in simulate_users(items, settings):
        names = np.char.mod("U%07d", np.arange(first, first + len(bought)))
        table = pa.table({"user": names} | as_lists(bought, times))
        writer = writer or pq.ParquetWriter(place.data/"sequences.parquet", table.schema)
        writer.write_table(table)
    writer.close()
    return place.users, place.users


def prepare(place: Place, options) -> tuple:
    llm_emf("prepare", "--dataset", place.data, "--out", place.out)
    return place.users, place.users


def enrich(place: Place, options) -> tuple:
    llm_emf("enrich", "--out", place.out, "--limit", 0)
    return place.items, place.items


def encode(place: Place, options) -> tuple: # different titles, items
    llm_emf("encode", "--out", place.out, "--text-encoder", "clip",
            "--settings", "dtype=float16", "--device", "cpu")
    items = pd.read_parquet(place.data/"items.parquet", columns=["title"])
    return items["title"].nunique(), place.items


def neighbours(place: Place, options) -> tuple:
    llm_emf("train", "--method", KNN, "--out", place.out, "--settings", "trials=0")
    return place.users, place.users


class OnSample(ModelMethod):
    "A method that learns from the purchases of some users."
    users = 0

    def fit(self, task, settings=None, folder=None, device="auto"):
        split = task.split | {"train": task.split["train"].sample(self.users)}
        return super().fit(replace(task, split=split), settings, folder, device)


def train(place: Place, options) -> tuple: # users, of all users
    task, of_table = load_task(place.run()), METHODS["llm-emf"]
    method = OnSample(of_table.name, of_table.label, of_table.family)
    method.users = options.trained
    train_method(place.run(), method, method.change(method.default_settings(task), WORDS))
    return min(options.trained, place.users), place.users


def evaluate_by(name: str, place: Place, n: int) -> tuple: # cases, of all cases
    "The stage `evaluate` for a sample of the test cases, whose ranks stand for all."
    run, method = place.run(), find_method(name)
    task, trained = load_task(run), run.path/f"train-{name}"
    every = task.split["test"]
    some = replace(task, split=task.split | {"test": every.sample(n)})
    def make(folder):
        files = rank_pieces(some, method.load(trained, task, "cpu"), place.folder/"pieces")
        found = pd.concat(map(pd.read_parquet, files))
        found = found.iloc[np.resize(np.arange(len(found)), len(every))]
        ranks = task.rank_table(every, found.assign(row=np.arange(len(every))))
        ranks.to_parquet(folder/"ranks.parquet", index=False)
    run_stage(run, f"evaluate-{name}", make, {"cases": n}, [run.path/"prepare", trained])
    return min(n, len(every)), len(every)


def evaluate_knn(place: Place, options) -> tuple:
    return evaluate_by(KNN, place, options.ranked)


def evaluate(place: Place, options) -> tuple:
    return evaluate_by("llm-emf", place, options.ranked)


def write_users(place: Place, n: int) -> Path: # of the file
    "The histories of the first n users."
    data = load_task(place.run()).dataset
    stop, file = int(data.offset[n]), place.folder/"users.parquet"
    user = np.repeat(data.user[:n].astype(str), data.length[:n])
    asin = data.items["asin"].to_numpy()[data.item[:stop] - 1]
    pd.DataFrame({"user": user, "item": asin}).to_parquet(file, index=False)
    return file


def recommend_by(method: str, place: Place, n: int) -> tuple: # users, of all users
    n = min(n, place.users)
    llm_emf("recommend", "--run", place.out, "--users", write_users(place, n), "--method", method,
            "--out", place.folder/"recs.parquet", "--device", "cpu")
    return n, place.users


def recommend_knn(place: Place, options) -> tuple:
    return recommend_by(KNN, place, options.recommended)


def recommend(place: Place, options) -> tuple:
    return recommend_by("llm-emf", place, options.recommended)


def report(place: Place, options) -> tuple:
    llm_emf("report", "--out", place.out)
    return place.users, place.users


# stage → function, what is counted, and what a killed process may have left in the size's folder
STAGES = {
    "simulate": (simulate, "users", ["shop"]),
    "prepare": (prepare, "users", ["run"]),
    "enrich": (enrich, "items", ["run/enrich*", "llm-cache.sqlite*"]),
    "encode": (encode, "items", ["run/encode*", "vectors"]),
    "neighbours": (neighbours, "users", [f"run/train-{KNN}*"]),
    "train": (train, "users", ["run/train-llm-emf*"]),
    "evaluate": (evaluate, "users", ["pieces", "run/evaluate-llm-emf*"]),
    "evaluate neighbours": (evaluate_knn, "users", ["pieces", f"run/evaluate-{KNN}*"]),
    "recommend": (recommend, "users", ["users.parquet", "recs.parquet*"]),
    "recommend neighbours": (recommend_knn, "users", ["users.parquet", "recs.parquet*"]),
    "report": (report, "users", ["run/report*", "run/notebooks", "run/results.csv"]),
}


def many_task(n: int, titles=None): # a `Task`; titles: a function of the items' numbers
    "A catalogue of n items, ten purchases of each of 20,000 users."
    rng = np.random.default_rng(0)
    number = np.arange(1, n + 1, dtype=np.int32)
    asin = pa.array(number).cast(pa.string())
    domain = pa.DictionaryArray.from_arrays((number > n // 2).astype(np.int8), ["x", "y"])
    items = pa.table({"item_id": number, "asin": asin, "title": titles(number) if titles else asin,
                      "domain": domain.cast(pa.string())}).to_pandas()
    bought = rng.integers(1, n + 1, 200_000).astype(np.int32)
    data = Dataset("many", ("x", "y"), items, np.arange(20_000), np.zeros(20_000, np.int8),
                   bought, np.arange(0, 200_001, 10))
    return make_task(data, "leave-one-out")


def many_items(n: int) -> tuple: # Task, model of ids alone
    "The task, and a table of ids of width 16."
    settings = ModelSettings(modalities=("id",), d=16, own=0.0, lambda1=0.0, negatives=2048)
    return many_task(n), LLMEMF(settings, n, n // 2)


def steps_of_many(n: int, options): # a function that does them, how many
    "Training steps with sampled negatives and sparse gradients."
    task, model = many_items(n)
    trainer = Trainer(model, task, TrainSettings(sparse_ids=0), device="cpu")
    batches = trainer.batches(0)
    trainer.model.train()
    trainer.step(0, 0, batches[0])                  # makes the optimisers' tables
    def work():
        for k in range(1, 51):
            trainer.step(0, k, batches[k])
    return work, 50


def ranks_of_many(n: int, options): # a function that makes them, how many
    "Ranks of test cases among all items."
    task, model = many_items(n)
    scorer = ModelScorer(model)
    task.rank(scorer, task.split["test"].sample(2), sampled=False)    # makes the keys
    return lambda: task.rank(scorer, task.split["test"].sample(128), sampled=False), 128


def best_of_many(n: int, options): # a function that finds them, how many users
    "The ten best items of both domains, after the histories of some users."
    task, model = many_items(n)
    recommender = Recommender(ModelScorer(model), task.dataset, train=task.split["train"].take(
        slice(0, 8)))
    asin, split = task.dataset.items["asin"].to_numpy(), task.split["test"].take(slice(0, 128))
    histories = [list(asin[task.dataset.item[a:b] - 1]) for a, b in zip(split.start, split.stop)]
    recommender.recommend(histories[:2])            # counts and keys
    return lambda: recommender.recommend(histories), 128


MANY = {"steps, many items": (steps_of_many, "steps"),
        "ranks, many items": (ranks_of_many, "users"),
        "best, many items": (best_of_many, "users")}


def now() -> np.ndarray: # seconds, processor seconds with those of processes that have ended
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return np.array([time.perf_counter(), sum(u.ru_utime + u.ru_stime for u in used)])


def measure_stage(stage: str, place: Place, options) -> dict: # a row of the table
    "In this process."
    function, unit, _ = STAGES[stage]
    reading = np.zeros(2)
    if stage.split()[0] in ("train", "evaluate", "recommend"): # done for a sample
        before = now()
        if stage.startswith("recommend"): # the whole command, for a few users
            function(place, argparse.Namespace(**vars(options) | {"recommended": 10}))
            clear(place, stage)
        else:
            load_task(place.run())
        reading = now() - before
    before = now()
    done, of = function(place, options)
    seconds, cpu = now() - before
    whole = reading[1] + (cpu - reading[1]) * of / done
    return {"seconds": round(seconds, 1), "CPU s": round(cpu, 1),
            "peak GiB": peak_gib(children=True), "counted": unit, "done": done, "of": of,
            "CPU s for all": round(whole, 1)}


def measure_many(stage: str, place: Place, options) -> dict: # a row of the table
    "In this process; making model and tables is not counted."
    make, unit = MANY[stage]
    work, done = make(place.items, options)
    before = now()
    work()
    seconds, cpu = now() - before
    return {"seconds": round(seconds, 1), "CPU s": round(cpu, 2),
            "peak GiB": peak_gib(children=True), "counted": unit, "done": done}


def measure(stage: str, place: Place, options, record: Path) -> None:
    "In a process of its own: measure, and keep the row."
    found = (measure_stage if stage in STAGES else measure_many)(stage, place, options)
    record.write_text(json.dumps(found))


def clear(place: Place, stage: str) -> None:
    "Remove what a killed process left, so that its time is not missing."
    for pattern in STAGES[stage][2]:
        for path in place.folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def measured(stage: str, place: Place, options) -> dict: # a row of the table
    "By a process of its own, unless it has been measured before."
    record = place.folder/"measured"/f"{stage}.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    if not record.exists():
        if stage in STAGES:
            clear(place, stage)
        # a fork has the library imported; this process computes nothing and stays small
        process = multiprocessing.get_context("fork").Process(
            target=measure, args=(stage, place, options, record))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"{stage} of {place.folder.name} failed")
    row = {"stage": stage, "users": place.users, "items": place.items}
    row |= json.loads(record.read_text())
    print(row, flush=True)
    return row


def exponent(rows: list, against: str, what: str) -> float: # None with fewer than two rows
    "The slope of one column against another, both as logarithms."
    if len(rows) < 2:
        return None
    x, y = (np.log([max(r[key], 0.01) for r in rows]) for key in (against, what))
    return round(float(np.polyfit(x, y, 1)[0]), 2)


def exponents(rows: list) -> dict: # stage → of time and memory, of all sizes and of the last two
    found = {}
    for stage in dict.fromkeys(r["stage"] for r in rows):
        mine = [r for r in rows if r["stage"] == stage]
        time_of = "CPU s for all" if stage in STAGES else "CPU s"
        against = "users" if stage in STAGES else "items"
        found[stage] = {"time": exponent(mine, against, time_of),
                        "time, last two": exponent(mine[-2:], against, time_of),
                        "memory, last two": exponent(mine[-2:], against, "peak GiB")}
    return found


def sizes(text: str) -> tuple: # users, items
    users, _, items = text.partition("x")
    if not (users.isdigit() and items.isdigit()):
        raise InputError(f"a size is USERSxITEMS, e.g. 10000x1000, not {text!r}")
    return int(users), int(items)


def main(options) -> None:
    rows = []
    for size in options.sizes:
        place = Place(options.folder, *sizes(size))
        for stage in STAGES:
            rows.append(measured(stage, place, options))
            keep(rows, options)
    for stage in MANY:
        for n in options.many:
            rows.append(measured(stage, Place(options.folder, 0, n), options))
            keep(rows, options)


def keep(rows: list, options) -> None:
    "The table so far."
    finish("large_shop", rows, max(r["peak GiB"] for r in rows),
           ratio_means="GiB: the peak memory of the most demanding stage",
           exponents=exponents(rows), settings=WORDS, samples={
               name: getattr(options, name) for name in ("trained", "ranked", "recommended")})
    for stage, found in exponents(rows).items():
        print(f"{stage:<24}", found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", default=["10000x1000", "100000x10000"])
    parser.add_argument("--folder", required=True, help="for files; those of a size stay there")
    parser.add_argument("--trained", type=int, default=5000,
                        help="users whose purchases LLM-EMF learns from")
    parser.add_argument("--ranked", type=int, default=5000,
                        help="test cases that each method ranks")
    parser.add_argument("--recommended", type=int, default=20_000,
                        help="users that each method recommends to")
    parser.add_argument("--many", type=int, nargs="*", default=[],
                        help="items of catalogues for single steps, e.g. 100000 1000000 10000000")
    main(parser.parse_args())
