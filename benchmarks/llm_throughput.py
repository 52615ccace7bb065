"""Language model in this process: batches of prompts of similar length, against a loop of single greedy `generate` calls.

    python benchmarks/llm_throughput.py            the comparison
    python benchmarks/llm_throughput.py --sample   and 500 real titles of food-kitchen: dry run, answers, figures (some minutes)
"""
import argparse
import json
import tempfile
import time

import pandas as pd
import torch
from common import REAL, finish, peak_gib

from llm_emf.enrich import Cache, enrich_items, estimate, item_prompts, judge
from llm_emf.llm import LLMSettings, LocalLLM, build_prompt
from llm_emf.shop import make_catalogue

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--sample", action="store_true")
parser.add_argument("--batch", type=int, default=128)
options = parser.parse_args()

if REAL.exists(): items = pd.read_parquet(REAL/"items.parquet").rename(columns={"item": "item_id"})
else: items = make_catalogue()
some = items.sample(2 * options.batch, random_state=0)
prompts = [build_prompt(t, d) for t, d in zip(some["title"], some["domain"])]
llm = LocalLLM(LLMSettings(), batch_size=options.batch)
llm.load()
list(llm.generate(prompts[:2]))                                                 # warm-up


def loop(prompts):
    "The common way: one prompt after the other."
    out = []
    for p in prompts:
        text = llm.tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True)
        batch = llm.tokenizer(text, return_tensors="pt", add_special_tokens=False).to(llm.device)
        with torch.inference_mode(): new = llm.model.generate(**batch, max_new_tokens=llm.settings.max_new_tokens, do_sample=False, pad_token_id=llm.tokenizer.pad_token_id)
        out.append(llm.tokenizer.decode(new[0, batch["input_ids"].shape[1]:], skip_special_tokens=True).strip())
    return out


began = time.perf_counter()
fast = dict(llm.generate(prompts))
seconds = (time.perf_counter() - began) / len(prompts)
n = 12
began = time.perf_counter()
slow = loop(prompts[:n])
single = (time.perf_counter() - began) / n
tokens = sum(a["tokens_out"] for a in fast.values()) / len(fast)
same = sum(fast[k]["answer"] == slow[k] for k in range(n))
rows = [{"way": f"batches of {options.batch}", "prompts": len(prompts), "seconds a prompt": round(seconds, 3), "new tokens/s": round(tokens / seconds, 1), "peak GiB": peak_gib()},
        {"way": "one generate call a prompt", "prompts": n, "seconds a prompt": round(single, 3), "new tokens/s": round(tokens / single, 1)}]
more = {}
if options.sample and REAL.exists():
    with tempfile.TemporaryDirectory() as tmp:
        cache = Cache(f"{tmp}/cache.sqlite")
        more["dry run, all titles"] = estimate(item_prompts(items)[1], cache)
        began = time.perf_counter()
        enriched = enrich_items(items.sample(500, random_state=1), cache)
        more |= {"sample": judge(enriched), "sample seconds": round(time.perf_counter() - began), "reasons": enriched["reason"].value_counts().to_dict()}
    print(json.dumps(more, indent=1))
finish("llm_throughput", rows, single / seconds, same_answers=f"{same} of {n}", model="SmolLM2-135M-Instruct", **more)
