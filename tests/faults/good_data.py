"A good data set, which the fault tests spoil."
import numpy as np
import pandas as pd


def good_tables():
    "A catalogue of 40 items and 30 users with six purchases each."
    rng = np.random.default_rng(0)
    items = pd.DataFrame({"item": range(40), "domain": ["a"] * 20 + ["b"] * 20,
                          "title": [f"thing {k}" for k in range(40)]})
    bought = [rng.integers(0, 40, 6).tolist() for _ in range(30)]
    sequences = pd.DataFrame({"user": [f"u{k}" for k in range(30)], "items": bought,
                              "times": [[10, 20, 30, 40, 50, 60]] * 30})
    return items, sequences


def write_tables(folder, items, sequences):
    folder.mkdir(parents=True, exist_ok=True)
    items.to_parquet(folder/"items.parquet")
    sequences.to_parquet(folder/"sequences.parquet")
    return folder
