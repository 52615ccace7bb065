"""Full-ranking evaluation: blocks of users and counting, against a loop over users with top-k.

The loop is the common one: encode one user, score every item of the domain, sort, look for the
target's place. LLM_EMF_USERS limits the users of the first way, for a check that this runs.
"""
import os
import time

import torch
from common import finish, load_data, peak_gib, random_features

from llm_emf.core import set_seed
from llm_emf.model import LLMEMF, ModelSettings
from llm_emf.task import Task
from llm_emf.train import ModelScorer

data, split = load_data()
task = Task(data, split)
cases = split["test"].take(slice(0, int(os.environ.get("LLM_EMF_USERS", "0")) or None))
set_seed(0)
model = LLMEMF(ModelSettings(d=64), data.n_items, data.n_x, random_features(data)).eval()


def rank_in_blocks() -> tuple: # ranks, users a second
    "The package's way."
    scorer = ModelScorer(model)
    task.rank(scorer, cases.take(slice(0, 50)), sampled=False)      # warm-up
    began = time.perf_counter()
    ranks = task.rank(scorer, cases, sampled=False)
    return ranks["rank"], len(ranks) / (time.perf_counter() - began)


def rank_one(k: int) -> int:
    "The rank of a case's target by sorting all items of its domain."
    bought = data.item[cases.start[k]:cases.stop[k]].astype("int64")
    history, target = torch.from_numpy(bought[:-1][-50:])[None], int(bought[-1])
    domain = int(target > data.n_x)
    scores = model.scores(history, domain)[0]
    order = scores.topk(len(scores)).indices.tolist()
    return order.index(target - 1 - domain * data.n_x) + 1


def rank_one_by_one(n: int) -> tuple: # n ranks, users a second
    "The common way."
    began = time.perf_counter()
    ranks = [rank_one(k) for k in range(n)]
    return ranks, n / (time.perf_counter() - began)


ranks, fast = rank_in_blocks()
blocks = {"way": "blocks, counted (ours)", "users/s": round(fast), "peak GiB": peak_gib()}
slow_ranks, slow = rank_one_by_one(min(60, len(cases)))
agree = sum(a == b for a, b in zip(slow_ranks, ranks))
rows = [blocks, {"way": "a user at a time, top-k", "users/s": round(slow, 1)}]
finish("evaluate_throughput", rows, fast / slow, data=data.name, items=data.n_items,
       users=len(ranks), same_rank=f"{agree} of {len(slow_ranks)}")
