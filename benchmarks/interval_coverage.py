"""How often do the studies' 95% intervals hold the true difference?

    python benchmarks/interval_coverage.py

Differences are simulated: each seed has a mean of its own around the true value 0, and 400 users
around that mean. `interval` (quality.py) is to hold 0 in 95% of the studies. With two to five seeds
that depends on how much seeds differ: the column says the variance between seeds over the variance
that the users of one seed bring into its mean. `shop` in the result is the mean of that ratio over
the ablations of the shop whose ranks are at hand, less the 1 that users alone explain. Two minutes.
"""
import numpy as np
import pandas as pd
from common import finish
from quality import RUNS, interval

from llm_emf.metrics import per_user

USERS, STUDIES = 400, 1000


def coverage(seeds: int, ratio: float) -> float:
    "The share of simulated studies whose interval holds the true value."
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(STUDIES):
        means = rng.normal(0, np.sqrt(ratio / USERS), seeds)
        low, high = interval([m + rng.standard_normal(USERS) for m in means], False, draws=300)
        held += low <= 0 <= high
    return held / STUDIES


def on_the_shop() -> dict: # what was measured, of how many changes
    "How much the differences to LLM-EMF vary between seeds, over what users alone explain."
    folder, ratios = RUNS/"shop, default", []
    def values(name): # one array a seed
        files = sorted(folder.glob(f"{name}-[0-9]/ranks.parquet"))
        return [100 * per_user(pd.read_parquet(f)["rank"], "mrr") for f in files]
    base = values("llm-emf")
    for name in {f.name[:-2] for f in folder.glob("*-2")} - {"llm-emf"}:
        differences = [a - b for a, b in zip(base, values(name))]
        means = [d.mean() for d in differences]
        ratios.append(np.var(means, ddof=1) / np.mean([d.var() / len(d) for d in differences]))
    return {"ratio": round(np.mean(ratios) - 1, 2), "changes": len(ratios)} if ratios else {}


def main() -> None:
    "The table."
    rows = [{"variance between seeds over users'": ratio}
            | {f"{seeds} seeds": coverage(seeds, ratio) for seeds in (2, 3, 5)}
            for ratio in (0, 1, 3)]
    finish("interval_coverage", rows, rows[1]["3 seeds"] / .95, studies=STUDIES, shop=on_the_shop(),
           ratio_means="coverage over 95%: three seeds that differ as much again as users explain")


if __name__ == "__main__":
    main()
