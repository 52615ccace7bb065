"""What an epoch of the hybrid model costs beside one of LLM-EMF: time, memory, parameters.

    python benchmarks/hybrid_cost.py

Food-Kitchen where it is at hand, else a shop of about its size; the settings of the profile quick;
an epoch over 10,000 users, after a warm-up, each method in a process of its own.
"""
import argparse
import json
import subprocess
import sys

from common import finish, load_data, peak_gib, random_features

from llm_emf.features import Features
from llm_emf.methods import find_method
from llm_emf.task import make_task

METHODS = ("llm-emf", "hybrid")


def measure(name: str, users: int) -> dict:
    "One epoch of a method."
    data, split = load_data()
    vectors = {m: v.numpy() for m, v in random_features(data).items()}
    features = Features(vectors, {m: v.any(1) for m, v in vectors.items()})
    task = make_task(data, "leave-one-out", {"title+llm": features, "title": features})
    method = find_method(name)
    task.split["valid"] = task.split["valid"].take(slice(0, 20)) # its time is not asked for
    every = task.split["train"]
    for n in (500, users):
        task.split["train"] = every.sample(n)
        settings = method.change(method.default_settings(task), "epochs=1")
        scorer = method.fit(task, settings, device="cpu")
    row = scorer.curve.iloc[0]
    return {"method": name, "users": users, "seconds": round(float(row["seconds"]), 1),
            "targets/s": int(row["targets per second"]), "peak GiB": peak_gib(),
            "parameters": scorer.notes["parameters"]}


def parse():
    "The command line."
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--method", choices=METHODS, help="measure this one alone, print JSON")
    return parser.parse_args()


def main(options) -> None:
    "Each method in a process of its own."
    if options.method:
        print(json.dumps(measure(options.method, options.users)))
        return
    rows = []
    for name in METHODS:
        command = [sys.executable, __file__, "--users", str(options.users), "--method", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    finish("hybrid_cost", rows, rows[1]["seconds"]/rows[0]["seconds"],
           ratio_means="seconds of an epoch: hybrid over LLM-EMF")


if __name__ == "__main__":
    main(parse())
