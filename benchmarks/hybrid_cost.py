"""What an epoch of the hybrid model costs beside one of LLM-EMF: time, memory, parameters.

    python benchmarks/hybrid_cost.py                     10,000 users of Food-Kitchen
    python benchmarks/hybrid_cost.py --items 1000000     the same for a catalogue of so many items
    python benchmarks/hybrid_cost.py --whole             whole trainings on Food-Kitchen, 15 minutes

Food-Kitchen where it is at hand, else a shop of about its size; the settings of the profile quick;
an epoch over 10,000 users, after a warm-up, each method in a process of its own. The large
catalogue has titles of five words drawn from 20,000, and 16-bit vectors of a sentence encoder's
size; 2,000 users are trained on, and 128 test cases ranked among all items of their domain. A whole
training is that of all users, with all epochs, and for `hybrid-rerank` the search for the
neighbours' settings, the mixing and the re-ranker. Of the large catalogue and of whole trainings
the seconds are the processor's, which depend less on what else the machine does.
"""
import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from common import finish, load_data, peak_gib, random_features
from large_shop import many_task

from llm_emf.features import Features
from llm_emf.methods import find_method
from llm_emf.task import make_task

METHODS = ("llm-emf", "hybrid", "hybrid-rerank")


def prepared(): # the task
    "Food-Kitchen or a shop, with random vectors for its texts."
    data, split = load_data()
    vectors = {m: v.numpy() for m, v in random_features(data).items()}
    features = Features(vectors, {m: v.any(1) for m, v in vectors.items()})
    return make_task(data, "leave-one-out", {"title+llm": features, "title": features})


def measure_whole(name: str) -> dict:
    "A whole training."
    task, method, began = prepared(), find_method(name), time.process_time()
    with TemporaryDirectory() as folder:
        scorer = method.fit(task, method.default_settings(task), Path(folder), device="cpu")
    seconds, bought = time.process_time() - began, int(task.split["train"].length.sum())
    return {"method": name, "users": len(task.split["train"]), "seconds": round(seconds, 1),
            "purchases/s": int(bought / seconds), "peak GiB": peak_gib(),
            "parameters": scorer.notes.get("parameters")}


def measure(name: str, users: int) -> dict:
    "One epoch of a method."
    task, method = prepared(), find_method(name)
    task.split["valid"] = task.split["valid"].take(slice(0, 20)) # its time is not asked for
    every = task.split["train"]
    settings = method.change(method.default_settings(task), "epochs=1")
    for n in (500, users):
        task.split["train"], scorer = every.sample(n), None # frees the model of the warm-up
        with TemporaryDirectory() as folder: # with checkpoints, as everywhere
            scorer = method.fit(task, settings, Path(folder), device="cpu")
    row = scorer.curve.iloc[0]
    return {"method": name, "users": users, "seconds": round(float(row["seconds"]), 1),
            "targets/s": int(row["targets per second"]), "peak GiB": peak_gib(),
            "parameters": scorer.notes["parameters"]}


def large_titles(number: np.ndarray) -> pa.Array: # one title an item
    "Five words of 20,000, frequent ones and rare ones."
    rng = np.random.default_rng(1)
    words = pa.array([f"word{k}" for k in range(20_000)])
    drawn = [words.take(pa.array((20_000 * rng.random(len(number)) ** 2).astype(np.int32)))
             for _ in range(5)]
    return pc.binary_join_element_wise(*drawn, " ")


def large_features(n: int, e: int = 384) -> Features:
    "Random 16-bit vectors; row 0, which is no item, is 0."
    rng, vectors = np.random.default_rng(2), np.zeros((n + 1, e), np.float16)
    for at in range(1, n + 1, 10_000):
        part = vectors[at:at + 10_000]
        part[:] = rng.standard_normal(part.shape, dtype=np.float32)
    return Features({"tex": vectors}, {"tex": np.arange(n + 1) > 0})


def measure_large(name: str, users: int, n: int) -> dict:
    "An epoch, and ranks, with a catalogue of n items."
    task, features = many_task(n, large_titles), large_features(n)
    task = replace(task, loader=lambda kind: features)
    task.split["valid"] = task.split["valid"].take(slice(0, 20))
    task.split["train"] = task.split["train"].sample(users)
    method = find_method(name)
    settings = method.change(method.default_settings(task), "epochs=1")
    began = time.process_time()
    with TemporaryDirectory() as folder:
        scorer = method.fit(task, settings, Path(folder), device="cpu")
    fitted = time.process_time()
    task.split["test"] = task.split["test"].take(slice(0, 128))
    task.rank(scorer, sampled=False, device="cpu")
    return {"method": name, "items": n, "users": users, "seconds": round(fitted - began, 1),
            "targets/s": int(scorer.curve.iloc[0]["targets per second"]),
            "ranks, seconds": round(time.process_time() - fitted, 1), "peak GiB": peak_gib(),
            "parameters": scorer.notes["parameters"]}


def parse():
    "The command line."
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int)
    parser.add_argument("--items", type=int, default=0, help="of a simulated catalogue")
    parser.add_argument("--whole", action="store_true", help="whole trainings")
    parser.add_argument("--method", choices=METHODS, help="measure this one alone, print JSON")
    return parser.parse_args()


def main(options) -> None:
    "Each method in a process of its own."
    users = options.users or (2_000 if options.items else 10_000)
    if options.method:
        if options.whole:
            row = measure_whole(options.method)
        elif options.items:
            row = measure_large(options.method, users, options.items)
        else:
            row = measure(options.method, users)
        print(json.dumps(row))
        return
    rows, ours = [], "hybrid-rerank" if options.whole else "hybrid"
    for name in ("llm-emf", ours):
        command = [sys.executable, __file__, "--users", str(users), "--method", name,
                   "--items", str(options.items), *["--whole"] * options.whole]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    kind = "_whole" if options.whole else "_large" if options.items else ""
    of = "a whole training" if options.whole else "an epoch"
    finish(f"hybrid_cost{kind}", rows, rows[1]["seconds"]/rows[0]["seconds"],
           ratio_means=f"seconds of {of}: {ours} over LLM-EMF")


if __name__ == "__main__":
    main(parse())
