"""Equal tuning on real data: 12 trials for each trained method on a third of Food-Kitchen's users.

    python benchmarks/tune_food_kitchen.py                      all methods, some hours on one core
    python benchmarks/tune_food_kitchen.py --methods sasrec     a second process may do others

Every third user of ../shared/data/food-kitchen is kept with all purchases, and split leave-one-out:
a trial takes one to six minutes. The text is the titles. The settings of the profile paper are the
first trial; the width is 64 for all, so that the models stay as fast as they are. Trials are kept
in tuning/food-kitchen-third.jsonl, and the script goes on from there. With --save the best settings
become the defaults of Food-Kitchen.
"""
import argparse

import pandas as pd
from common import REAL, ROOT
from quality import THIRD, food_kitchen_run

from llm_emf.clip import ClipSettings, encode
from llm_emf.methods import find_method
from llm_emf.tune import save_tuned, tune_methods, tuning_table

NAME = THIRD.stem
TUNED = ("sasrec", "llm-emf", "sasrec-text", "gru4rec", "bert4rec", "abxi", "c2dsr")
FIXED = "d=64"
TRIALS = 12


def write_third(folder) -> None:
    "Every third user, whatever split the source puts them in, and the items that they bought."
    folder.mkdir(parents=True, exist_ok=True)
    users = pd.read_parquet(REAL/"sequences.parquet").sort_values("user").iloc[::3]
    users.drop(columns="split").to_parquet(folder/"sequences.parquet", index=False)
    items = pd.read_parquet(REAL/"items.parquet")
    bought = items["item"].isin(users["items"].explode().unique())
    items[bought].to_parquet(folder/"items.parquet", index=False)


def third_run(): # the run, prepared and encoded
    "The third as a data set of its own."
    data = ROOT/"runs"/"data"/NAME
    if not (data/"items.parquet").exists():
        write_third(data)
    run = food_kitchen_run(ROOT/"runs"/NAME, data, "paper", "leave-one-out")
    encode(run, ClipSettings(text="title", text_encoder="minilm")) # what SASRec with text reads
    return run


def parse():
    "The command line."
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=TUNED)
    parser.add_argument("--save", action="store_true",
                        help="make the best settings the defaults of Food-Kitchen")
    return parser.parse_args()


if __name__ == "__main__":
    options = parse()
    found = tune_methods(third_run(), [find_method(m) for m in options.methods], TRIALS,
                         file=THIRD, fixed=FIXED)
    print(tuning_table(found).to_string())
    if options.save:
        print("saved:", *save_tuned([t for t in found if len(t) >= TRIALS], "food-kitchen"))
