"""What each part of LLM-EMF brings: the same model without it, or with another choice.

    python benchmarks/ablations.py shop            the embedded shop, 3 seeds
    python benchmarks/ablations.py food-kitchen    Food-Kitchen, leave-one-out

Settings are those of LLM-EMF on the data set, tuned where it has been tuned. Differences are the
changed model minus LLM-EMF, in points of MRR under full ranking, paired by user; intervals are over
users and seeds (`interval` in quality.py). Ranks are kept in runs/quality/; killed, the same
command goes on where it was. The two null checks replace the text's vectors: by random ones, and by
those of other items of the same domain.
"""
from dataclasses import replace

import numpy as np
from common import finish
from quality import by_group, device_of, food_kitchen_run, groups, make_parser, over_seeds
from quality import paired, ranks_of, shop_run, stop_if_unfinished, task_of

from llm_emf.core import derive

# what is changed → method, words of settings, what happens to the text's vectors
ABLATIONS = {
    "LLM-EMF": ("llm-emf", "", ""),
    "titles alone, no LLM text": ("haf-vt", "", ""),
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
    "ids start at random": ("llm-emf", "id_start=random", ""),
    "id vectors of length 1": ("llm-emf", "id_length=unit", ""),
    "null: random text vectors": ("llm-emf", "", "random"),
    "null: texts of other items": ("llm-emf", "", "shuffled"),
    "SASRec": ("sasrec", "", ""),
    "SASRec, ids start at the titles": ("sasrec-start", "", ""),
}
NO_PICTURES = ("no-images", "no-text") # left out where the data have no pictures


def with_text(task, how: str): # the task with other text vectors
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


def row(label: str, tables: list, base: list, same_users: bool) -> dict:
    "The MRR, and the difference to LLM-EMF."
    found = {"changed": label} | over_seeds(tables)
    if label == "LLM-EMF":
        return found
    more = paired(tables, base, same_users)
    return found | {k: more[k] for k in ("difference", "low", "high")}


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
    return parser.parse_args()


def main(options) -> None:
    "Fit what is missing; the table has the rows that are there for every seed."
    shop = options.data == "shop"
    name = "shop, default" if shop else "food-kitchen, leave-one-out"
    wanted = {k: ABLATIONS[k] for k in ["LLM-EMF", *options.only]}
    found, made_on, of_users = {label: [] for label in wanted}, set(), []
    for task in tasks(options.data, range(options.seeds), options.run):
        of_users.append(groups(task))
        pictures = "img" in task.features("title+llm").vectors
        for label, (method, words, text) in wanted.items():
            if pictures or method not in NO_PICTURES:
                changed = with_text(task, text) if text else task
                folder = f"{name}, {text} text" if text else name
                found[label].append(ranks_of(folder, changed, method, words))
                made_on.add(device_of(folder, changed, method, words))
    stop_if_unfinished(found)
    base = found["LLM-EMF"]
    rows = [row(label, tables, base, not shop) for label, tables in found.items() if tables]
    in_groups = {label: by_group(tables, of_users) for label, tables in found.items() if tables}
    worst = min(rows[1:], key=lambda r: r["MRR %"]) if len(rows) > 1 else rows[0]
    finish(f"ablations_{options.data.replace('-', '_')}", rows, rows[0]["MRR %"]/worst["MRR %"],
           seeds=options.seeds, trained_on=sorted(made_on - {""}), groups=in_groups,
           ratio_means=f"MRR of LLM-EMF over that of: {worst['changed']}")


if __name__ == "__main__":
    main(parse())
