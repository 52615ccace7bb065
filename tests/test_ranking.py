"Ranking of many cases: bounded memory, and the same ranks whatever the size of the blocks."
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch

from llm_emf.data import Dataset, Ranges
from llm_emf.task import Task

ITEMS, LENGTH = 3_000, 6        # of each domain; purchases of a user


class Hashed:
    "A scorer whose scores follow from history and item by arithmetic."
    def __init__(self, dataset):
        self.dataset = dataset

    def score(self, histories, domain):
        first, n = self.dataset.domain_range(domain)
        items = torch.arange(first, first + n)
        return ((histories.sum(1, keepdim=True) * 7919 + items * 104729) % 10007).float()


def make_cases(users: int, exclude_seen: bool = False) -> Task:
    "A task of random purchases, half of them in each domain."
    rng = np.random.default_rng(0)
    n, purchases = 2 * ITEMS, users * LENGTH
    domains = ("a", "b")
    items = pd.DataFrame({"item_id": np.arange(1, n + 1), "title": "", "description": "",
                          "domain": np.repeat(domains, ITEMS), "asin": np.arange(n).astype(str)})
    offset = np.arange(users + 1) * LENGTH
    data = Dataset("random", domains, items, user=np.arange(users).astype(str),
                   split=np.zeros(users, np.int8), offset=offset,
                   item=rng.integers(1, n + 1, purchases).astype(np.int32))
    cases = Ranges(np.arange(users), offset[:-1], offset[1:])
    return Task(data, {"test": cases}, exclude_seen=exclude_seen)


def peak_of_ranking(users: int) -> int: # bytes
    "The most memory that arrays take while cases are ranked, over what was there before."
    task = make_cases(users)
    task.rank(Hashed(task.dataset), task.split["test"].take(slice(0, 300)))     # imports, caches
    tracemalloc.start()
    task.rank(Hashed(task.dataset))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_ranking_does_not_hold_the_negatives_of_all_cases():
    "999 negatives are 8 kB a case. What grows with the cases is the table of ranks."
    few, many = peak_of_ranking(2_000), peak_of_ranking(8_000)
    assert (many - few) / 6_000 < 1_000, f"{(many - few) / 6_000:.0f} bytes a case"
    assert many < 8_000 * 999 * 8 / 2, f"{many / 2**20:.0f} MiB"


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_the_size_of_a_block_changes_no_rank(exclude_seen):
    task = make_cases(700, exclude_seen)
    whole = task.rank(Hashed(task.dataset), block=10_000)
    columns = ["rank", "rank999"] + ["rank_seen_too"] * exclude_seen
    assert list(whole.columns) == ["user", "target", "domain", *columns]
    for block in (1, 37, 0):
        assert task.rank(Hashed(task.dataset), block=block).equals(whole)


def test_a_part_of_the_cases_has_the_ranks_that_it_has_among_all():
    "Negatives depend on the user and the seed, not on which other cases are ranked."
    task = make_cases(400)
    whole = task.rank(Hashed(task.dataset))
    part = task.rank(Hashed(task.dataset), task.split["test"].take(slice(100, 250)))
    assert part.equals(whole[100:250].reset_index(drop=True))


def test_ranks_are_those_of_a_sort():
    task = make_cases(60)
    ranks = task.rank(Hashed(task.dataset))
    data, cases = task.dataset, task.split["test"]
    for k in range(60):
        target = int(data.item[cases.stop[k] - 1])
        domain = int(target > data.n_x)
        history = data.item[cases.start[k]:cases.stop[k] - 1].astype(np.int64)
        scores = Hashed(data).score(torch.from_numpy(history)[None], domain)[0]
        place = target - data.domain_range(domain)[0]
        ahead = int((scores >= scores[place]).sum())
        assert ranks["rank"][k] == ahead and ranks["domain"][k] == data.domains[domain]
