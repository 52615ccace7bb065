"""Language model in this process: batches of prompts of similar length, against a loop of single
greedy `generate` calls.

    python benchmarks/llm_throughput.py            the comparison
    python benchmarks/llm_throughput.py --sample   and 500 real titles of food-kitchen: dry run,
                                                   answers, figures (some minutes)
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

parser = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--sample", action="store_true")
parser.add_argument("--batch", type=int, default=128)
options = parser.parse_args()


def load_items() -> pd.DataFrame:
    "The titles of food-kitchen where they are at hand, else those of the shop."
    if REAL.exists():
        return pd.read_parquet(REAL/"items.parquet").rename(columns={"item": "item_id"})
    return make_catalogue()


def answer_one(prompt) -> str:
    "The common way: one prompt after the other."
    text = llm.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    batch = llm.tokenizer(text, return_tensors="pt", add_special_tokens=False).to(llm.device)
    with torch.inference_mode():
        new = llm.model.generate(**batch, max_new_tokens=llm.settings.max_new_tokens,
                                 do_sample=False, pad_token_id=llm.tokenizer.pad_token_id)
    answer = new[0, batch["input_ids"].shape[1]:]
    return llm.tokenizer.decode(answer, skip_special_tokens=True).strip()


def timed(way, prompts) -> tuple: # answers, seconds a prompt
    began = time.perf_counter()
    answers = way(prompts)
    return answers, (time.perf_counter() - began) / len(prompts)


def ask_sample(items) -> dict:
    "A dry run over all titles, and the answers about 500 of them."
    with tempfile.TemporaryDirectory() as tmp:
        cache = Cache(f"{tmp}/cache.sqlite")
        found = {"dry run, all titles": estimate(item_prompts(items)[1], cache)}
        began = time.perf_counter()
        enriched = enrich_items(items.sample(500, random_state=1), cache)
        found |= {"sample": judge(enriched), "sample seconds": round(time.perf_counter() - began),
                  "reasons": enriched["reason"].value_counts().to_dict()}
    print(json.dumps(found, indent=1))
    return found


items = load_items()
some = items.sample(2 * options.batch, random_state=0)
prompts = [build_prompt(t, d) for t, d in zip(some["title"], some["domain"])]
llm = LocalLLM(LLMSettings(), batch_size=options.batch)
llm.load()
list(llm.generate(prompts[:2]))                     # warm-up
fast, seconds = timed(lambda p: dict(llm.generate(p)), prompts)
peak = peak_gib()
slow, single = timed(lambda p: [answer_one(prompt) for prompt in p], prompts[:12])
tokens = sum(a["tokens_out"] for a in fast.values()) / len(fast)
same = sum(fast[k]["answer"] == answer for k, answer in enumerate(slow))
rows = [{"way": f"batches of {options.batch}", "prompts": len(prompts),
         "seconds a prompt": round(seconds, 3), "new tokens/s": round(tokens / seconds, 1),
         "peak GiB": peak},
        {"way": "one generate call a prompt", "prompts": len(slow),
         "seconds a prompt": round(single, 3), "new tokens/s": round(tokens / single, 1)}]
more = ask_sample(items) if options.sample and REAL.exists() else {}
finish("llm_throughput", rows, single / seconds, same_answers=f"{same} of {len(slow)}",
       model="SmolLM2-135M-Instruct", **more)
