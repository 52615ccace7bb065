"""A vector index over a trained model's items against exact search: recall, and users a second.

The model (ids, three sequences) is trained with the settings of LLM_EMF_WORDS, for LLM_EMF_USERS
test users. Their vectors are computed once and not timed; exact search is one matrix product, the
exponentials and top-k by torch, in blocks of 128 users.
"""
import os
import time

import numpy as np
import torch
from common import finish, load_data, peak_gib

from llm_emf.export import VectorIndex, index_recall, item_vectors, user_vectors
from llm_emf.methods import find_method
from llm_emf.task import make_task

USERS, K = int(os.environ.get("LLM_EMF_USERS", "2000")), 10

data, _ = load_data()
task = make_task(data, "leave-one-out")
method = find_method("id-three-sequences")
words = os.environ.get("LLM_EMF_WORDS", "epochs=2 valid_cases=500")
scorer = method.fit(task, method.change(method.default_settings(task), words), device="cpu")
model, rows, ratios = scorer.model, [], []


def timed(f) -> tuple: # result, users a second; the better of two runs
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        found = f()
        seconds.append(time.perf_counter() - began)
    return found, USERS / min(seconds)


def exact(u, v): # (users, K) rows
    best = []
    for block in u.split(128):
        scores = (block.flatten(0, 1) @ v.T).exp_().view(len(block), -1, len(v)).sum(1)
        best.append(scores.topk(K).indices)
    return torch.cat(best).numpy()


cases = task.split["test"].take(slice(0, USERS))
for domain, name in enumerate(data.domains):
    items = item_vectors(model, domain)
    parts = [task.histories(cases, np.arange(s, min(s + 128, USERS)), 50)
             for s in range(0, USERS, 128)]
    users = torch.cat([user_vectors(model, h, domain, items) for h in parts])
    truth, fast = timed(lambda: exact(users, items))
    rows.append({"way": f"{name}, {len(items):,} items: exact", "recall@10": 1.0,
                 "users/s": round(fast)})
    began = time.perf_counter()
    index = VectorIndex.build(items.numpy(), threads=torch.get_num_threads())
    built = time.perf_counter() - began
    for wide in (30, 100, 300):
        (found, _), speed = timed(lambda: index.search(users.numpy(), K, wide,
                                                       torch.get_num_threads()))
        rows.append({"way": f"{name}: index, wide = {wide}", "users/s": round(speed),
                     "recall@10": round(index_recall(found, truth), 4),
                     "build, s": round(built, 1), "peak GiB": peak_gib()})
        ratios.append(speed / fast)
finish("vector_index", rows, float(np.median(ratios)), data=data.name, users=USERS,
       settings=words, width=users.shape[-1], sequences=users.shape[1])
