"""What each part of LLM-EMF brings: the same model without it, or with another choice.

    python benchmarks/ablations.py shop            the embedded shop, 3 seeds
    python benchmarks/ablations.py food-kitchen    Food-Kitchen, leave-one-out

Settings are those of the profile quick. Differences are the changed model minus LLM-EMF, in points
of MRR under full ranking, paired by user; intervals are over users and seeds (`interval` in
quality.py). Ranks are kept in runs/quality/; killed, the same command goes on where it was. The two
null checks replace the text's vectors: by random ones, and by those of other items of the same
domain.

With --epochs N all models train for up to N epochs, or until the valid MRR has not risen for three;
the learning rate falls over N epochs, and the table has a file of its own. On a large catalogue the
profile quick stops after six epochs, when models without text still improve. With --tuned (the
shop) all have the settings that twelve trials found for LLM-EMF; that table has its own file too.
"""
from dataclasses import replace
from functools import cache

import numpy as np
from common import finish
from quality import by_group, earlier, food_kitchen_run, locked, make_parser, note_of
from quality import over_seeds, paired, ranks_of, shop_run, stop_if_unfinished, task_of
from quality import with_earlier

from llm_emf.clip import ClipSettings, encode
from llm_emf.core import derive, open_run, read_manifest
from llm_emf.data import prepare
from llm_emf.enrich import TEXTS, enrich_catalogue
from llm_emf.features import load_features
from llm_emf.report import user_groups

# what is changed → method, words of settings, what happens to the text's vectors
ABLATIONS = {
    "LLM-EMF": ("llm-emf", "", ""),
    "titles alone, no LLM text": ("haf-vt", "", ""),
    "titles and LLM text": ("llm-emf", "", "title+llm"),
    "LLM text alone": ("llm-emf", "", "llm"),
    "no pictures": ("no-images", "", ""),
    "no text": ("no-text", "", ""),
    "no cross-domain terms": ("no-cross-domain", "", ""),
    "no pictures, no text": ("id-three-sequences", "", ""),
    "one encoder in place of nine": ("llm-emf", "encoders=one", ""),
    "fusion with fixed weights": ("llm-emf", "fusion=fixed", ""),
    "one fusion for both domains": ("llm-emf", "fusion_per_domain=False", ""),
    "loss: sequence": ("llm-emf", "loss=sequence", ""),
    "loss: mixture": ("llm-emf", "loss=mixture", ""),
    "λ1 = 0": ("llm-emf", "lambda1=0", ""),
    "λ1 = 1": ("llm-emf", "lambda1=1", ""),
    "λ2 = 0": ("llm-emf", "lambda2=0", ""),
    "λ2 = 0.1": ("llm-emf", "lambda2=0.1", ""),
    "λ2 = 3": ("llm-emf", "lambda2=3", ""),
    "ids start at the features": ("llm-emf", "id_start=features", ""),
    "id vectors of length 1": ("llm-emf", "id_length=unit", ""),
    "ids start at random": ("llm-emf", "id_start=random", ""),
    "id vectors of any length": ("llm-emf", "id_length=free", ""),
    "batches of 2,048, learning rate × 4": ("llm-emf", "batch_tokens=2048 learning_rate=0.012", ""),
    "null: random text vectors": ("llm-emf", "", "random"),
    "null: texts of other items": ("llm-emf", "", "shuffled"),
    "SASRec": ("sasrec", "", ""),
    "SASRec, ids start at the titles": ("sasrec-start", "", ""),
}
# whose differences are also told by group of users
PARTS = ("no pictures", "no text", "no pictures, no text", "no cross-domain terms")
# LLM-EMF reads titles and LLM text on the shop, and titles on Food-Kitchen, which has no pictures;
# there its ids start at the features, with length 1; on the shop at random, of any length
LEFT_OUT = {"shop": ["titles and LLM text", "ids start at random", "id vectors of any length"],
            "food-kitchen": ["titles alone, no LLM text", "no pictures", "no text",
                             "ids start at the features", "id vectors of length 1"]}


def other_text(task, data: str, text: str, run_folder): # the task with other text vectors
    "What the text encoder makes of SmolLM2's text of all items, with or without the titles."
    @cache
    def load(kind): # called when a model is fitted, not where its ranks are kept
        run = shop_run("default", task.seed) if data == "shop" else food_kitchen_run(run_folder)
        encoder = read_manifest(run.path/"encode")["key"]["settings"]["text_encoder"]
        other = open_run(f"{run.path}, {text}", run.dataset, run.profile, run.seed)
        with locked(other.path.name, wait=True):
            prepare(other)
            enrich_catalogue(other, limit=-1) # the answers ship with the package
            folder = encode(other, ClipSettings(text=text, text_encoder=encoder))
        return load_features(folder, task.dataset.items)
    return replace(task, loader=load)


def null_text(task, how: str): # the task with other text vectors
    "Replace the text's vectors by random ones, or shuffle them among the items of a domain."
    features = task.features("title+llm")
    text = np.asarray(features.vectors["tex"])
    rng = np.random.default_rng(derive(task.seed, "null", how))
    if how == "random":
        other = rng.standard_normal(text.shape, dtype=np.float32)
    else:
        other = text.copy()
        for domain in (0, 1):
            first, n = task.dataset.domain_range(domain)
            other[first:first + n] = text[first + rng.permutation(n)]
    other[0] = 0
    changed = replace(features, vectors=features.vectors | {"tex": other})
    return replace(task, loader=lambda kind: changed)


def fitted(task, options, label: str) -> tuple: # its ranks; its note
    "The changed model on one task."
    method, words, text = ABLATIONS[label]
    shop = "shop, tuned" if options.tuned else "shop, default"
    name = shop if options.data == "shop" else "food-kitchen, leave-one-out"
    if text in TEXTS:
        task = other_text(task, options.data, text, options.run)
    elif text:
        task = null_text(task, text)
    folder = f"{name}, {text} text" if text else name
    if options.epochs:
        words = f"{words} epochs={options.epochs}".strip()
    ranks = ranks_of(folder, task, method, words)
    return ranks, note_of(folder, task, method, words)


def row(label: str, tables: list, notes: list, base: list, same_users: bool) -> dict:
    "The MRR, for how many epochs each seed trained, and the difference to LLM-EMF."
    epochs = " ".join(str(note["epochs"]) for note in notes)
    found = {"changed": label} | over_seeds(tables) | {"epochs": epochs}
    if label == "LLM-EMF":
        return found
    more = paired(tables, base, same_users)
    return found | {k: more[k] for k in ("difference", "low", "high")}


def group_differences(tables: list, base: list, of_users: list, same_users: bool) -> dict:
    "What `paired` tells of each group of at least 50 users. `of_users`: `user_groups` by seed."
    found = {}
    for name in of_users[0]:
        parts = [[t[of[name]] for t, of in zip(of_seeds, of_users)] for of_seeds in (tables, base)]
        users = round(np.mean([len(t) for t in parts[0]]))
        if users >= 50:
            more = paired(*parts, same_users)
            found[f"{name} ({users:,})"] = {k: more[k] for k in ("difference", "low", "high")}
    return found


def tasks(data: str, seeds, run_folder): # yields one a seed
    "The prepared and encoded data; on the shop each seed is a shop of its own."
    for seed in seeds:
        if data == "shop":
            yield task_of(shop_run("default", seed), "leave-one-out", seed)
        else:
            yield task_of(food_kitchen_run(run_folder), "leave-one-out", seed)


def parse():
    "The command line."
    parser = make_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=list(ABLATIONS), default=list(ABLATIONS))
    parser.add_argument("--epochs", type=int, help="at most; by default those of the profile quick")
    parser.add_argument("--tuned", action="store_true", help="LLM-EMF's tuned settings (the shop)")
    options = parser.parse_args()
    if options.tuned and options.data != "shop":
        parser.error("--tuned: only the shop has tuned settings")
    return options


def main(options) -> None:
    """Fit what is missing; the table has the rows that are there for every seed, and those of the
    earlier table that were not asked for, with their date."""
    wanted = [k for k in ABLATIONS if k == "LLM-EMF" or k in options.only]
    wanted = [k for k in wanted if k not in LEFT_OUT[options.data]]
    found, of_users = {label: [] for label in wanted}, []
    notes = {label: [] for label in wanted}
    for task in tasks(options.data, range(options.seeds), options.run):
        of_users.append(user_groups(task))
        for label in wanted:
            ranks, note = fitted(task, options, label)
            found[label].append(ranks)
            notes[label].append(note)
    stop_if_unfinished(found)
    base, same_users = found["LLM-EMF"], options.data == "food-kitchen"
    rows = [row(label, tables, notes[label], base, same_users) for label, tables in found.items()]
    in_groups = {label: by_group(tables, of_users) for label, tables in found.items()}
    made_on = {note.get("device", "cpu") for of_seeds in notes.values() for note in of_seeds}
    more = "_tuned" if options.tuned else ""
    more += f"_{options.epochs}_epochs" if options.epochs else ""
    name = f"ablations_{options.data.replace('-', '_')}{more}"
    gains = {label: group_differences(found[label], base, of_users, same_users)
             for label in PARTS if label in found}
    old, order = earlier(name), list(ABLATIONS).index
    rows = sorted(with_earlier(name, rows, "changed"), key=lambda r: order(r["changed"]))
    in_groups = old.get("groups", {}) | in_groups
    gains = old.get("group differences", {}) | gains
    if any("made" in r for r in rows): # rows of the earlier table
        made_on |= set(old["trained_on"])
    worst = min(rows, key=lambda r: r["MRR %"])
    finish(name, rows, rows[0]["MRR %"]/worst["MRR %"],
           seeds=options.seeds, trained_on=sorted(made_on), groups=in_groups,
           ratio_means=f"MRR of LLM-EMF over that of: {worst['changed']}",
           **{"group differences": gains})


if __name__ == "__main__":
    main(parse())
