"""What SmolLM2 says about the items of Food-Kitchen, and how many answers can be used.

    python benchmarks/llm_text.py        two minutes; needs the data set

The answers ship with the package, so nothing is asked. They were made by `LocalLLM` in batches of
2,048 prompts, bfloat16, on one NVIDIA H100. What the text is worth to a recommender is measured by
`ablations.py food-kitchen`.
"""
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from common import REAL, finish

from llm_emf.data import read_folder
from llm_emf.enrich import USABLE, Cache, enrich_items, judge, packaged_answers


def main() -> None:
    "The kinds of answers, the reasons of those that are not used, and the figures of `judge`."
    items = read_folder(REAL).items
    file = str(packaged_answers("food-kitchen"))
    with TemporaryDirectory() as tmp:
        cache = Cache(Path(tmp)/"cache.sqlite")
        cache.merge_parquet(file)
        table = enrich_items(items, cache)
    reasons = table["reason"].value_counts()
    rows = [{"answer": reason, "used": reason in USABLE, "items": int(n),
             "share": f"{n / len(table):.1%}"} for reason, n in reasons.items()]
    answers = pd.read_parquet(file, columns=["settings", "tokens_out", "seconds"])
    most = json.loads(answers["settings"][0])["max_new_tokens"]
    seconds = float(answers["seconds"].sum())
    finish("llm_text", rows, float(reasons[reasons.index.isin(USABLE)].sum() / len(table)),
           ratio_means="share of the items with a usable answer", found=judge(table),
           model="SmolLM2-135M-Instruct, 4 bits, read as bfloat16",
           answered_on="NVIDIA H100 80GB HBM3, batches of 2,048 prompts",
           prompts=len(answers), seconds=round(seconds, 1),
           prompts_per_second=round(len(answers) / seconds),
           tokens_out_per_second=round(int(answers["tokens_out"].sum()) / seconds),
           cut_off=f"{(answers['tokens_out'] >= most).mean():.1%}")


if __name__ == "__main__":
    main()
