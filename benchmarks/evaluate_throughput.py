"""Full-ranking evaluation: blocks of users and counting, against a loop over users with top-k.

The loop is the common one: encode one user, score every item of the domain, sort, look for the target's place.
"""
import time

import torch
from common import finish, load_data, peak_gib, random_features

from llm_emf.core import set_seed
from llm_emf.model import LLMEMF, ModelSettings
from llm_emf.task import Task
from llm_emf.train import ModelScorer

data, split = load_data()
set_seed(0)
model = LLMEMF(ModelSettings(d=64), data.n_items, data.n_x, random_features(data)).eval()
cases = split["test"]
task = Task(data, split)

scorer = ModelScorer(model)
task.rank(scorer, cases.take(slice(0, 50)), sampled=False)    # warm-up
began = time.perf_counter()
ranks = task.rank(scorer, cases, sampled=False)
fast = len(ranks) / (time.perf_counter() - began)

began, n, agree = time.perf_counter(), 0, 0
for k in range(min(60, len(cases))):
    history = torch.from_numpy(data.item[cases.start[k]:cases.stop[k] - 1][-50:].astype("int64"))[None]
    target = int(data.item[cases.stop[k] - 1])
    domain = int(target > data.n_x)
    scores = model.scores(history, domain)[0]
    order = scores.topk(len(scores)).indices.tolist()
    agree += order.index(target - 1 - domain * data.n_x) + 1 == ranks["rank"].iloc[k]
    n += 1
slow = n / (time.perf_counter() - began)
finish("evaluate_throughput", [{"way": "blocks, counted (ours)", "users/s": round(fast), "peak GiB": peak_gib()}, {"way": "a user at a time, top-k", "users/s": round(slow, 1)}],
       fast / slow, data=data.name, items=data.n_items, users=len(ranks), same_rank=f"{agree} of {n}")
