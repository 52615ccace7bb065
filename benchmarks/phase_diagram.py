"""How informative pictures, titles and the other domain must be before each branch pays.

    python benchmarks/phase_diagram.py                         LLM-EMF and item-kNN, hours
    python benchmarks/phase_diagram.py --methods hybrid-rerank --seeds 1

A knob of the embedded shop goes from nothing to everything: the chance that a picture shows its
item, the chance that a title names the category, the correlation of a customer's tastes in the two
domains. At each value LLM-EMF is trained with and without the branch that the knob is about, with
the settings of the profile quick; beside it stand other methods, as a share of the oracle's MRR.
Intervals are over users and seeds (quality.py), each seed with customers of its own. Ranks are kept
in runs/quality/; killed, the same command goes on where it was.
"""
import argparse

import numpy as np
import pandas as pd
from common import finish
from quality import encoded_shop, over_seeds, paired, ranks_of, stop_if_unfinished, task_of

from llm_emf.metrics import per_user
from llm_emf.shop import ShopSettings

# knob → values, LLM-EMF, the same without the branch; titles alone where the titles change,
# because the language model's text was written about the default ones
KNOBS = {"pictures": ((0.0, 0.25, 0.5, 0.75, 1.0), "llm-emf", "no-images"),
         "titles": ((0.0, 0.25, 0.5, 0.75, 1.0), "haf-vt", "no-text"),
         "transfer": ((0.0, 0.2, 0.4, 0.6, 0.8, 1.0), "llm-emf", "no-cross-domain")}


def shop_name(knob: str, value: float) -> str:
    "The folder's name; the default shop is that of the other studies."
    return "default" if value == getattr(ShopSettings(), knob) else f"{knob}={value:g}"


def point(knob: str, value: float, methods: list, seeds) -> dict: # method → rank tables, one a seed
    "The ranks of all methods at one value of a knob, the oracle's included."
    found = {method: [] for method in methods} | {"oracle": []}
    for seed in seeds:
        limit = 0 if knob == "titles" and value < 1 else None
        run = encoded_shop(shop_name(knob, value), ShopSettings(**{knob: value}), seed, limit)
        task = task_of(run, "leave-one-out", seed)
        for method in methods:
            found[method].append(ranks_of(f"shop, {shop_name(knob, value)}", task, method))
        ceiling = pd.read_parquet(run.path/"prepare"/"ceilings.parquet")
        found["oracle"].append(pd.DataFrame({"rank": ceiling["oracle"]}))
    return found


def row(knob: str, value: float, found: dict) -> dict:
    "What the branch brings, and each method's share of the oracle."
    _, whole, without = KNOBS[knob]
    stop_if_unfinished(found)
    mrr = {m: np.mean([per_user(t["rank"], "mrr").mean() for t in tables])
           for m, tables in found.items()}
    more = paired(found[whole], found[without], same_users=False)
    return ({"knob": knob, "value": value} | over_seeds(found[whole])
            | {k: more[k] for k in ("difference", "low", "high")}
            | {f"{m}, of the oracle": f"{v / mrr['oracle']:.0%}" for m, v in mrr.items()
               if m != "oracle"})


def parse():
    "The command line."
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--knobs", nargs="+", choices=list(KNOBS), default=list(KNOBS))
    parser.add_argument("--methods", nargs="*", default=["item-knn-text"],
                        help="beside LLM-EMF with and without the branch")
    return parser.parse_args()


if __name__ == "__main__":
    options, rows = parse(), []
    for seeds in [range(k + 1) for k in range(options.seeds)]: # a seed is finished at all points
        rows = [row(knob, value, point(knob, value, [*KNOBS[knob][1:], *options.methods], seeds))
                for knob in options.knobs for value in KNOBS[knob][0]]
        finish("phase_diagram", rows, rows[-1]["difference"], seeds=len(seeds),
               ratio_means="points of MRR that the last branch brings at its knob's highest value")
