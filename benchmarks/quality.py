"""The quality studies. They train many models and take hours on two cores; killed, they go on where
they were.

    python benchmarks/quality.py shop           LLM-EMF against the baselines, with the settings of
                                                the profile quick and with tuned ones, and the null
                                                checks, pictures=0 and transfer=0; 3 seeds
    python benchmarks/quality.py food-kitchen   LLM-EMF against the baselines, given split and
                                                leave-one-out; 3 seeds

Settings are those of the profile quick; in the study `tuned` those that 12 trials a method found on
the valid users of shop 0 (notebook 09y), with `food-kitchen --tuned` those that they found on a
third of its users (tune_food_kitchen.py), with the epochs of the profile paper. With --refit all
methods learn from the valid targets too, when everything has been chosen (notebook 07a).

Started a second time beside the first (OMP_NUM_THREADS=1 each, on two cores), the processes share
the work; the last one that finds everything done prints the table. Ranks are kept in runs/quality/;
the tables go to benchmarks/results/quality_<name>.json, where rows of methods that were not asked
for stay from the earlier table, with its date. Differences are paired by user: a user's
reciprocal rank is averaged over the seeds first (on the shop each seed has users of its own). The
intervals are over users and seeds: a draw takes seeds with replacement, then users
(interval_coverage.py says how often they hold the true value). p-values are over users, with Holm's
correction.
"""
import argparse
import fcntl
import itertools
import json
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from common import REAL, ROOT, finish, machine

from llm_emf.clip import ClipSettings, encode
from llm_emf.core import open_run, pick_device, read_json
from llm_emf.data import load_dataset, prepare
from llm_emf.enrich import enrich_catalogue
from llm_emf.features import load_features
from llm_emf.methods import find_method
from llm_emf.metrics import bootstrap_means, holm, per_user
from llm_emf.neighbours import NeighbourSettings
from llm_emf.report import user_groups
from llm_emf.shop import ShopSettings
from llm_emf.task import Task, make_task, tuned_settings
from llm_emf.tune import best_trial, read_trials
from scipy import stats

RUNS = ROOT/"runs"/"quality"
THIRD = ROOT/"tuning"/"food-kitchen-third.jsonl" # trials, of tune_food_kitchen.py


@contextmanager
def locked(name: str, wait: bool): # yields whether the lock is ours
    "A lock that ends with its process, however that ends."
    RUNS.mkdir(parents=True, exist_ok=True)
    with open(RUNS/f".{name.replace('/', ' ')}.lock", "w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def ranks_of(name: str, task: Task, method: str, words: str = ""): # changes of the settings
    """The test ranks of a method under the task's seed, kept from before if they were made before.
    None if another process is at it."""
    with locked(f"{name}, {method}, {words}, {task.seed}", wait=False) as mine:
        return make_ranks(name, task, method, words) if mine else None


def rank_folder(name: str, method: str, words: str, seed: int) -> Path:
    "Where the ranks of a method are kept."
    return RUNS/name/f"{' '.join([method, *words.split()])}-{seed}"


def note_of(name: str, task: Task, method: str, words: str = "") -> dict: # empty: not made yet
    "What a fitted method said of itself, and on what it was trained."
    note = rank_folder(name, method, words, task.seed)/"note.json"
    return read_json(note) if note.exists() else {}


REFIT = ", refit" # the end of a study's name, if its methods are refitted
TUNED = ", tuned" # the same, before it, if they have tuned settings


def tuned_words(name: str, method: str) -> str: # the name of a study
    "The tuned settings of a method; none in a study that is not of tuned ones."
    if not name.removesuffix(REFIT).endswith(TUNED):
        return ""
    found = of_third() if name.startswith("food-kitchen") else tuned_settings()["shop"]
    return find_method(method).tuned_words(found)


@cache
def of_third() -> dict: # name of the method → words of settings
    "The best settings of the trials on a third of Food-Kitchen's users."
    trials = read_trials(THIRD)
    return {name: best_trial([t for t in trials if t.about["method"] == name]).words()
            for name in {t.about["method"] for t in trials}}


def untuned(name: str) -> str: # the name of a study
    "The study with the settings of the profile quick."
    return name.replace("shop, tuned", "shop, default").replace(TUNED, "")


def own_study(name: str, method: str) -> str: # a study, without `REFIT`
    "The study that keeps a method's ranks: where no settings were found for it, the untuned one."
    return name if tuned_words(name, method) else untuned(name)


def make_ranks(name: str, task: Task, method: str, words: str) -> pd.DataFrame:
    "Fit a method and rank the test cases."
    folder = rank_folder(name, method, words, task.seed)
    if (folder/"ranks.parquet").exists():
        return pd.read_parquet(folder/"ranks.parquet")
    folder.mkdir(parents=True, exist_ok=True)
    chosen, tuned = find_method(method), tuned_words(name, method)
    changes = (tuned, words, memory_words(name, method, task.seed))
    long = tuned and name.startswith("food-kitchen") # the profile of its trials
    settings = chosen.default_settings(task, "paper" if long else "quick")
    settings = chosen.change(settings, " ".join(changes).strip())
    scorer = chosen.fit(task, settings, folder)
    if getattr(scorer, "curve", None) is not None:
        scorer.curve.to_csv(folder/"curve.csv", index=False)
    if name.endswith(REFIT):
        plain = name.removesuffix(REFIT)
        if not (rank_folder(plain, method, words, task.seed)/"ranks.parquet").exists():
            keep_stages(plain, task, scorer, method, words)
        scorer = chosen.refit(scorer, task.with_valid(), settings)
    return keep_stages(name, task, scorer, method, words)


def keep_stages(name: str, task: Task, scorer, method: str, words: str) -> pd.DataFrame:
    "Keep the ranks of a method; of `hybrid-rerank` also its stages', which are methods themselves."
    folder = rank_folder(name, method, words, task.seed)
    if method == "hybrid-rerank" and not words.strip():
        stages = {"hybrid": scorer.blend.scorers[0], "hybrid-blend": scorer.blend}
        for stage, part in stages.items():
            keep_ranks(RUNS/name/f"{stage}-{task.seed}", task, part, stage)
    return keep_ranks(folder, task, scorer, method)


def keep_ranks(folder, task: Task, scorer, method: str) -> pd.DataFrame:
    "Rank the test cases and keep the ranks; checkpoints are removed."
    folder.mkdir(parents=True, exist_ok=True)
    ranks = task.rank(scorer, device=pick_device("auto"), what=f"{method}, test")
    made = {"device": machine()["gpu"] or "cpu"}
    (folder/"note.json").write_text(json.dumps(getattr(scorer, "notes", {}) | made))
    for f in folder.rglob("*.safetensors*"):
        f.unlink()
    ranks.to_parquet(folder/"ranks.aside")
    (folder/"ranks.aside").rename(folder/"ranks.parquet")
    return ranks


def memory_words(name: str, method: str, seed: int) -> str:
    "The settings that item-kNN with text found, for the neighbours of a blend; searched only once."
    name = untuned(name.removesuffix(REFIT))
    notes = [RUNS/name/f"item-knn-text-{k}"/"note.json" for k in (seed, 0)]
    note = next((n for n in notes if n.exists()), None)
    if method not in ("blend", "hybrid-blend", "hybrid-rerank") or not note:
        return ""
    fields = NeighbourSettings.__dataclass_fields__
    found = {k: v for k, v in read_json(note).items() if k in fields and k != "trials"}
    return " ".join(["trials=0", *(f"memory.{k}={v}" for k, v in found.items())])


def task_of(run, how: str, seed: int) -> Task:
    "The task of a prepared and encoded run under another split and seed."
    data = load_dataset(run.path/"prepare")
    features = load_features(run.path/"encode", data.items)
    titles = run.path/"encode-title"
    title = load_features(titles, data.items) if titles.exists() else features
    return make_task(data, how, {"title+llm": features, "title": title}, seed)


def interval(differences: list, same_users: bool, draws: int = 1000) -> tuple: # low, high
    """95% interval of the mean over users and seeds: seeds are drawn with replacement, then users.
    One array a seed; with `same_users` a draw takes the same users for each seed."""
    means = np.stack([bootstrap_means(d[:, None], 0 if same_users else k, draws)[:, 0]
                      for k, d in enumerate(differences)])
    seeds = np.random.default_rng(0).integers(len(means), size=means.shape)
    return tuple(np.percentile(np.take_along_axis(means, seeds, 0).mean(0), [2.5, 97.5]))


def paired(a: list, b: list, same_users: bool) -> dict: # lists of rank tables, one a seed
    "MRR of a minus b, in points, paired by user and seed."
    differences = [100 * (per_user(x["rank"], "mrr") - per_user(y["rank"], "mrr"))
                   for x, y in zip(a, b)]
    d = np.mean(differences, 0) if same_users else np.concatenate(differences)
    low, high = interval(differences, same_users)
    return {"difference": round(float(d.mean()), 3), "low": round(float(low), 3),
            "high": round(float(high), 3), "p": float(stats.ttest_1samp(d, 0).pvalue),
            "pairs": len(d)}


def stop_if_unfinished(found: dict) -> None:
    "Stop here if another process is still making some of the ranks."
    at = [name for name, tables in found.items() if any(t is None for t in tables)]
    if at:
        sys.exit(f"another process is still at {', '.join(at)}; for the table, run this again "
                 "when it has ended")


def over_seeds(tables: list) -> dict: # of rank tables, one a seed
    "The mean MRR, that of each seed, and by domain under both protocols."
    mrr = [100 * per_user(t["rank"], "mrr").mean() for t in tables]
    found = {"MRR %": round(float(np.mean(mrr)), 3), "by seed": " ".join(f"{m:.2f}" for m in mrr)}
    for kind, protocol in (("rank", "full"), ("rank999", "999")):
        if all({kind, "domain"} <= set(t) for t in tables):
            values = [100 * per_user(t[kind], "mrr") for t in tables]
            means = [pd.Series(v).groupby(t["domain"].to_numpy()).mean()
                     for v, t in zip(values, tables)]
            found |= {f"{domain}, {protocol}": round(float(x), 2)
                      for domain, x in pd.concat(means, axis=1).mean(axis=1).items()}
    return found


def compare(name: str, found: dict, same_users: bool, reference: str = "llm-emf") -> list: # of rows
    "Each method's MRR over the seeds, and the reference's difference to the others."
    rows = []
    for method, tables in found.items():
        row = {"study": f"{name}: {method}"} | over_seeds(tables)
        if TUNED in name and method != "oracle":
            row["settings"] = tuned_words(name, method)
        if method not in (reference, "oracle"):
            row |= paired(found[reference], tables, same_users)
        rows.append(row)
    compared = [row for row in rows if "p" in row]
    for row, p in zip(compared, holm([row["p"] for row in compared])):
        row["p (Holm)"] = float(f"{p:.3g}")
        row.pop("p")
    return rows


SHOP_METHODS = ("popularity", "item-knn", "item-knn-order", "item-knn-text", "id", "sasrec",
                "sasrec-text", "gru4rec", "bert4rec", "abxi", "c2dsr", "llm-emf", "hybrid-rerank",
                "hybrid-blend", "hybrid")
SHOPS = { # study → settings of the shop, methods
    "default": (ShopSettings(), SHOP_METHODS),
    "tuned": (ShopSettings(), SHOP_METHODS),
    "pictures=0": (ShopSettings(pictures=0.0), ["no-images", "llm-emf"]),
    "transfer=0": (ShopSettings(transfer=0.0), ["no-cross-domain", "llm-emf"]),
}


def shop_run(name: str, seed: int): # the run
    "The shop of a study."
    name = "default" if name == "tuned" else name
    return encoded_shop(name, SHOPS[name][0], seed)


def encoded_shop(name: str, shop: ShopSettings, seed: int, limit: int = None): # the run
    "Prepare and encode a shop, once however many processes there are. `limit`: of `enrich`."
    run = open_run(RUNS/f"shop, {name}, {seed}", "shop", "quick", seed)
    with locked(f"shop, {name}, {seed}", wait=True):
        prepare(run, shop=shop)
        enrich_catalogue(run, limit=limit)
        encode(run)
        encode(run, ClipSettings(text="title"))
    return run


def shop_ranks(name: str, seeds, methods=SHOP_METHODS, refit: str = "") -> dict:
    """Method → rank tables, one a seed, of one study; on the default shop those of the oracle too.
    `refit`: empty, or `REFIT`."""
    both = name in ("default", "tuned")
    found = {method: [] for method in SHOPS[name][1] if not both or method in methods}
    for seed in seeds:
        run = shop_run(name, seed)
        task = task_of(run, "leave-one-out", seed)
        for method in (m for m in found if m != "oracle"):
            study = own_study(f"shop, {name}", method) + refit
            found[method].append(ranks_of(study, task, method))
        if both:
            ceiling = pd.read_parquet(run.path/"prepare"/"ceilings.parquet")
            found.setdefault("oracle", []).append(pd.DataFrame({"rank": ceiling["oracle"]}))
    return found


def shop(seeds, studies=tuple(SHOPS), methods=SHOP_METHODS, reference="llm-emf", refit="") -> None:
    "Default shop, and the two knobs at zero."
    all_found = {name: shop_ranks(name, seeds, methods, refit) for name in studies}
    for found in all_found.values():
        stop_if_unfinished(found)
    rows = []
    for name, found in all_found.items():
        rows += compare(f"shop, {name}{refit}", found, same_users=False, reference=reference)
    whole = [r for r in rows if "=" not in r["study"]]
    value = {r["study"].rpartition(": ")[2]: r["MRR %"] for r in whole} # of the last study
    for r in whole:
        r["share of the oracle"] = f"{r['MRR %'] / value['oracle']:.0%}"
    best = max((m for m in value if m.startswith("item-knn")), key=value.get)
    name, last = f"quality_shop{suffix(reference, refit)}", whole[-1]["study"].partition(":")[0]
    finish(name, with_earlier(name, rows), value[reference] / value[best],
           seeds=len(seeds), ratio_means=f"MRR of {reference} over {best}'s, {last}")


def earlier(name: str) -> dict: # of the results' folder; without rows if there is none
    "The table that a benchmark wrote before."
    file = ROOT/"benchmarks"/"results"/f"{name}.json"
    return read_json(file) if file.exists() else {"rows": []}


def with_earlier(name: str, rows: list, key: str = "study") -> list:
    "The rows, and those of the earlier table whose `key` is not among them, with their origin."
    old, new = earlier(name), {row[key] for row in rows}
    made = {"made": old.get("date"), "commit": old.get("commit")}
    return rows + [made | row for row in old["rows"] if row[key] not in new]


def suffix(reference: str, refit: str) -> str:
    "The end of the name of a table's file."
    of = "" if reference == "llm-emf" else f"_{reference.replace('-', '_')}"
    return of + ("_refit" if refit else "")


SPLITS = ("leave-one-out", "given")
FOOD_KITCHEN = ("item-knn-text", "hybrid-rerank", "hybrid-blend", "hybrid", "llm-emf", "sasrec",
                "item-knn-order", "item-knn")


def food_kitchen_run(folder, data=REAL, profile: str = "quick", split: str = ""): # the run
    "The text is the titles, read by the offline sentence encoder."
    run = open_run(folder, str(data), profile, 0)
    with locked("food-kitchen", wait=True):
        prepare(run, split)
        enrich_catalogue(run, limit=0)
        encode(run, ClipSettings(text_encoder="minilm"))
    return run


def by_group(tables: list, found: list) -> dict: # group → MRR in %, mean over the seeds
    "The MRR of each group of users; `found` has the `user_groups` of each table."
    reciprocal = np.concatenate([100 * per_user(t["rank"], "mrr") for t in tables])
    masks = {name: np.concatenate([f[name] for f in found]) for name in found[0]}
    return {f"{name} ({users.sum() // len(found):,})": round(float(reciprocal[users].mean()), 2)
            for name, users in masks.items() if users.any()}


def food_kitchen(seeds, run_folder, splits=SPLITS, methods=FOOD_KITCHEN, reference="llm-emf",
                 refit="", tuned=""):
    "Both splits of the real data. `tuned`: empty, or `TUNED`."
    run = food_kitchen_run(run_folder)
    found = {how: {method: [] for method in methods} for how in splits}
    for seed, how, method in itertools.product(seeds, splits, methods):
        # there is nothing random in neighbours but the 999 negatives
        if not method.startswith("item-knn") or seed == seeds[0]:
            study = own_study(f"food-kitchen, {how}{tuned}", method) + refit
            found[how][method].append(ranks_of(study, task_of(run, how, seed), method))
    for tables in found.values():
        stop_if_unfinished(tables)
    rows, ratio = [], {}
    for how, tables in found.items():
        tables = {k: t * len(seeds) if len(t) < len(seeds) else t for k, t in tables.items()}
        new = compare(f"food-kitchen, {how}{tuned}{refit}", tables, True, reference)
        of_users = user_groups(task_of(run, how, 0))
        for row, of in zip(new, tables.values()):
            row |= by_group(of, [of_users] * len(of))
        rows += new
        value = {row["study"].partition(": ")[2]: row["MRR %"] for row in new}
        best = max((m for m in value if m.startswith("item-knn")), key=value.get)
        ratio[how] = round(value[reference] / value[best], 3)
    name = f"quality_food_kitchen{suffix(reference, refit)}"
    finish(name, with_earlier(name, rows), ratio[splits[0]], seeds=len(seeds),
           ratios=ratio, ratio_means=f"MRR of {reference} over the best item-kNN's, {splits[0]}")


def make_parser(about: str) -> argparse.ArgumentParser:
    "The options that this study and the ablations have in common."
    parser = argparse.ArgumentParser(description=about,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=["shop", "food-kitchen"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--run", default=str(ROOT/"runs"/"food-kitchen-quick-0"),
                        help="food-kitchen: the run whose features are used; made if missing")
    return parser


def parse():
    "The command line."
    parser = make_parser(__doc__)
    parser.add_argument("--studies", nargs="+", choices=list(SHOPS), default=list(SHOPS),
                        help="of the shop")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS,
                        help="of food-kitchen")
    parser.add_argument("--tuned", action="store_const", const=TUNED, default="",
                        help="of food-kitchen: with tuned settings")
    parser.add_argument("--methods", nargs="+", help="default: all of the study")
    parser.add_argument("--reference", default="llm-emf",
                        help="the method that the others are compared with")
    parser.add_argument("--refit", action="store_const", const=REFIT, default="",
                        help="learn from the valid targets too; tables of their own")
    return parser.parse_args()


if __name__ == "__main__":
    options = parse()
    if options.data == "shop":
        shop(range(options.seeds), options.studies, options.methods or SHOP_METHODS,
             options.reference, options.refit)
    else:
        food_kitchen(range(options.seeds), options.run, options.splits,
                     options.methods or FOOD_KITCHEN, options.reference, options.refit,
                     options.tuned)
