"""Top-10 over millions of items: blocks of users against blocks of users and items.

A block of users has the scores of all items: one product, the softmax, the ten best. With blocks of
items as well, the softmax's denominator needs a first pass over the catalogue, and the product is
computed twice, but no matrix has a column for each item. Random vectors of the width of LLM-EMF's
queries.

    LLM_EMF_ITEMS    items, default 2000000

    python benchmarks/block_size.py      # ratio: time a user in blocks of 13 over blocks of 128
"""
import os
import time

import torch
from common import finish

ITEMS, WIDTH, K, TILE = int(os.environ.get("LLM_EMF_ITEMS", "2000000")), 192, 10, 2**18


def whole(q, keys): # the ten best of all items at once
    "A matrix of users × items."
    return torch.softmax(q @ keys.T, -1).topk(K)


def tiled(q, keys):
    "A matrix of users × `TILE` items, twice."
    total = torch.full((len(q),), -torch.inf)
    for part in keys.split(TILE):
        total = torch.logaddexp(total, (q @ part.T).logsumexp(1))
    value, item = q.new_full((len(q), K), -torch.inf), torch.zeros(len(q), K, dtype=torch.long)
    for n, part in enumerate(keys.split(TILE)):
        best = (q @ part.T).sub_(total[:, None]).exp_().topk(K)
        item = torch.cat([item, best.indices + n * TILE], 1)
        value, place = torch.cat([value, best.values], 1).topk(K)
        item = item.gather(1, place)
    return value, item


def milliseconds(find, q, keys) -> float: # a user; the better of two
    "Timed."
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        find(q, keys)
        seconds.append(time.perf_counter() - began)
    return 1e3 * min(seconds) / len(q)


torch.manual_seed(0)
keys = torch.nn.functional.normalize(torch.randn(ITEMS, WIDTH), dim=1)
queries = 8 * torch.nn.functional.normalize(torch.randn(128, WIDTH), dim=1)
same = whole(queries[:4], keys).indices == tiled(queries[:4], keys)[1]
rows = [{"users in a block": n, "items in a block": ITEMS, "matrix, MiB": round(n * ITEMS / 2**18),
         "ms a user": round(milliseconds(whole, queries[:n], keys), 1)} for n in (3, 13, 64, 128)]
rows.append({"users in a block": 128, "items in a block": TILE, "matrix, MiB": 128 * TILE // 2**18,
             "ms a user": round(milliseconds(tiled, queries, keys), 1)})
finish("block_size", rows, rows[1]["ms a user"] / rows[3]["ms a user"], items=ITEMS,
       same_ten_best=f"{float(same.float().mean()):.3f}")
