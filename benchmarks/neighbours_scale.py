"""How long item-to-item neighbours take: food-kitchen's size, and a catalogue of 1,000,000 items.

Time does not depend on what is bought or written, but on how much and how evenly. So the large
catalogue is drawn: purchases and words by Zipf's law, vectors around 20,000 centres.
"""
import time

import numpy as np
import pandas as pd
import torch
from common import finish, peak_gib

from llm_emf.data import Dataset
from llm_emf.features import Features
from llm_emf.neighbours import NeighbourParts, NeighbourSettings
from llm_emf.task import make_task

SETTINGS = NeighbourSettings(words=0.5, vectors=0.2, trials=0)


def zipf(rng, n: int, size: int) -> np.ndarray:
    "Numbers below n, number k about as often as 1 / (k + 10)."
    share = np.cumsum(1 / (np.arange(n) + 10))
    return np.searchsorted(share, rng.random(size) * share[-1])


def drawn_titles(rng, n: int) -> list:
    "n titles of four to fifteen words, out of a vocabulary that grows with the catalogue."
    length = rng.integers(4, 16, n)
    different = 25_000 + n // 4
    vocabulary = np.array([f"w{k}" for k in range(different)])
    words = vocabulary[zipf(rng, different, length.sum())]
    return [" ".join(title) for title in np.split(words, np.cumsum(length)[:-1])]


def drawn_data(n: int, users: int, mean_length: int = 8) -> Dataset:
    "Half of the items in each domain; who buys what is drawn."
    rng = np.random.default_rng(0)
    length = 3 + rng.poisson(mean_length - 3, users)
    order = rng.permutation(n)
    items = pd.DataFrame({"item_id": np.arange(1, n + 1), "asin": np.arange(n).astype(str),
                          "domain": np.repeat(["x", "y"], [n // 2, n - n // 2]),
                          "title": drawn_titles(rng, n)})
    bought = 1 + order[zipf(rng, n, length.sum())].astype(np.int32)
    names = np.arange(users).astype(str)
    offset = np.r_[0, np.cumsum(length)]
    return Dataset("drawn", ("x", "y"), items, names, np.zeros(users, np.int8), bought, offset)


def drawn_vectors(n: int, e: int = 384, centres: int = 20_000) -> Features:
    rng = np.random.default_rng(1)
    centre = rng.standard_normal((centres, e), dtype=np.float32)
    v = centre[rng.integers(centres, size=n + 1)]
    for rows in np.array_split(np.arange(n + 1), 50):
        v[rows] += rng.standard_normal((len(rows), e), dtype=np.float32)
    return Features({"tex": v}, {"tex": np.arange(n + 1) > 0})


def measure(n: int, users: int) -> list:
    "Seconds of each step, and users scored in a second."
    task, rows = make_task(drawn_data(n, users), "leave-one-out"), []
    parts = NeighbourParts(task, drawn_vectors(n))

    def step(name, make):
        began = time.perf_counter()
        made = make()
        seconds = time.perf_counter() - began
        rows.append({"step": name, "items": n, "users": users, "seconds": round(seconds, 2),
                     "peak GiB": peak_gib()})
        print(rows[-1], flush=True)
        return made

    step("bought together", lambda: parts.together(SETTINGS))
    step("titles by words", lambda: parts.nearest("words", SETTINGS.nearest))
    step("titles by vectors", lambda: parts.nearest("vectors", SETTINGS.nearest))
    scorer = step("sum of the parts", lambda: parts.scorer(SETTINGS))
    some = task.split["test"].take(np.arange(1000))

    def score():
        for block in task.blocks(some, 0, 64) + task.blocks(some, 1, 64):
            scorer.score(task.histories(some, block.rows, 50), block.domain)

    step("1,000 users scored", score)
    rows[-1] |= {"users/s": round(1000 / max(rows[-1]["seconds"], 0.01)),
                 "entries": scorer.similarity.nnz}
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    small = measure(36_298, 53_061)
    large = measure(1_000_000, 1_000_000)
    seconds = [sum(r["seconds"] for r in rows if "users/s" not in r) for rows in (small, large)]
    growth = (1_000_000 / 36_298) / (seconds[1] / seconds[0])
    finish("neighbours_scale", small + large, growth,
           ratio_means="items per second of building, 1,000,000 items against 36,298",
           seconds={"36,298 items": round(seconds[0], 1), "1,000,000 items": round(seconds[1], 1)})
