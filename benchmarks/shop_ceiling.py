"""How well the shop's next item can be ranked by anyone who sees purchases, not tastes.

    python benchmarks/shop_ceiling.py            3 shops, 100 draws after 100 for warming up

The oracle of notebook 01 knows each customer's tastes. No recommender does: it has to infer them
from a dozen purchases. This script knows the simulator and all its constants, the attributes of all
items included, and infers the tastes of each customer from the history before the test item by
Hamiltonian Monte Carlo (Neal, "MCMC Using Hamiltonian Dynamics", 2011). The mean of the next-item
probabilities over the draws is the best ranking that the purchases allow; its MRR is the ceiling of
every method. On a few customers the likelihood is compared with `true_probability` of notebook 01.
"""
import argparse
import math

import numpy as np
import torch
from common import finish
from quality import shop_run, task_of

from llm_emf.core import progress
from llm_emf.metrics import per_user
from llm_emf.shop import CATEGORIES, CELLS, N_CIRCLES, THEMES, ShopSettings, Tastes
from llm_emf.shop import _chain_matrix, true_probability

SIZES = (len(THEMES), *CELLS[:3], N_CIRCLES) # theme, colour, pattern, tier, circle


class Purchases:
    "The histories of the test users: one row a purchase, and what stood before it."
    def __init__(self, task):
        data, test = task.dataset, task.split["test"]
        category, none = data.items["category"].to_numpy(), len(CATEGORIES)
        self.domain = (data.item > data.n_x).astype(int)
        self.last = np.full((len(data.item), 2), none)
        for start, stop in zip(test.start, test.stop):
            for p in range(start + 1, stop):
                self.last[p] = self.last[p - 1]
                self.last[p, self.domain[p - 1]] = category[data.item[p - 1] - 1]
        self.item, self.target = data.item - 1, test.stop - 1
        self.user = np.repeat(np.arange(len(test)), test.length - 1)
        self.rows = np.concatenate([np.arange(a, b - 1) for a, b in zip(test.start, test.stop)])


class Posterior:
    "The logarithm of prior times likelihood of z, from which the tastes are made."
    def __init__(self, task, purchases: Purchases, settings: ShopSettings):
        items, n_x = task.dataset.items, task.dataset.n_x
        self.settings, self.n, self.parts = settings, len(task.split["test"]), []
        weights = (settings.look, settings.look, settings.price, settings.circle)
        names = ("colour", "pattern", "tier", "circle")
        hot = [w * np.eye(k)[items[a]] for w, a, k in zip(weights, names, SIZES[1:])]
        hot, theme = np.concatenate(hot, 1), np.array([THEMES.index(c.theme) for c in CATEGORIES])
        for d, part in ((0, slice(0, n_x)), (1, slice(n_x, None))):
            mine = purchases.domain[purchases.rows] == d
            rows, matrix = purchases.rows[mine], _chain_matrix()
            chain = matrix[purchases.last[rows, d]]
            chain = chain + settings.transfer * matrix[purchases.last[rows, 1 - d]]
            outside = np.array([(c.domain == "kitchen") != bool(d) for c in CATEGORIES])
            found = {"hot": hot[part], "pop": np.log(items["popularity"].to_numpy()[part]),
                     "theme": settings.theme * np.eye(SIZES[0])[theme],
                     "chain": np.where(outside, -1e9, settings.chain * chain)}
            found = {k: torch.tensor(v).float() for k, v in found.items()}
            ids = {"category": items["category"].to_numpy()[part], "user": purchases.user[mine],
                   "item": purchases.item[rows] - d * n_x}
            self.parts.append(found | {k: torch.tensor(v).long() for k, v in ids.items()})

    def tastes(self, z): # (n, 2, k) standard normal → two of (n, k)
        "The tastes in both domains, correlated as in the simulator."
        t = self.settings.transfer
        return z[:, 0], t * z[:, 0] + math.sqrt(1 - t * t) * z[:, 1]

    def log_likelihood(self, z): # (n,)
        "Of the purchases in each history, given which domain each lies in."
        total = z.new_zeros(self.n)
        for p, taste in zip(self.parts, self.tastes(z)):
            affinity = taste[:, SIZES[0]:] @ p["hot"].T + p["pop"]
            shelf = z.new_zeros(self.n, len(CATEGORIES))
            shelf = shelf.index_add(1, p["category"], affinity.exp()).clamp(min=1e-30).log()
            kind = ((taste[:, :SIZES[0]] @ p["theme"].T)[p["user"]] + p["chain"]).log_softmax(1)
            category = p["category"][p["item"]]
            of_item = affinity[p["user"], p["item"]] - shelf[p["user"], category]
            of_kind = kind.gather(1, category[:, None])[:, 0]
            total = total.index_add(0, p["user"], of_item + of_kind)
        return total

    def gradient(self, z): # (n,), (n, 2, k)
        "The logarithm of the posterior, and its gradient."
        z = z.detach().requires_grad_(True)
        value = self.log_likelihood(z) - z.square().sum((1, 2)) / 2
        return value.detach(), *torch.autograd.grad(value.sum(), z)


def draws(posterior: Posterior, warm: int, n: int, leaps: int = 8, seed: int = 0): # yields z
    "Hamiltonian Monte Carlo, a chain a user; step sizes are adapted to 80% acceptance at first."
    generator = torch.Generator().manual_seed(seed)
    z, step = torch.zeros(posterior.n, 2, sum(SIZES)), torch.full((posterior.n, 1, 1), 0.3)
    value, slope = posterior.gradient(z)
    for k in progress(range(warm + n), "draws", unit="draw"):
        start = torch.randn(z.shape, generator=generator)
        e = step * (0.8 + 0.4 * torch.rand(step.shape, generator=generator))
        there, momentum, new_slope = z, start + e / 2 * slope, slope
        for leap in range(leaps):
            there = there + e * momentum
            new_value, new_slope = posterior.gradient(there)
            momentum = momentum + (e if leap < leaps - 1 else e / 2) * new_slope
        energy = (start.square() - momentum.square()).sum((1, 2)) / 2
        chance = (new_value - value + energy).exp().nan_to_num(0).clamp(max=1)
        taken = torch.rand(len(chance), generator=generator) < chance
        value = torch.where(taken, new_value, value)
        z, slope = (torch.where(taken[:, None, None], a, b)
                    for a, b in ((there, z), (new_slope, slope)))
        if k < warm:
            step = step * torch.exp(0.1 * (chance - 0.8))[:, None, None]
        else:
            yield z


def as_tastes(posterior: Posterior, z) -> Tastes:
    "What `true_probability` reads."
    both = torch.stack(posterior.tastes(z)).numpy()
    parts = np.split(both, np.cumsum(SIZES)[:-1], axis=2)
    return Tastes(*parts, kitchen=None, length=None)


def check(posterior: Posterior, purchases: Purchases, items, users: int = 20) -> None:
    "The likelihood is that of notebook 01, purchase by purchase."
    z = torch.randn(posterior.n, 2, sum(SIZES), generator=torch.Generator().manual_seed(1))
    tastes, slow = as_tastes(posterior, z), np.zeros(users)
    for row, user in zip(purchases.rows, purchases.user):
        if user < users:
            d = purchases.domain[row]
            p = true_probability(items, posterior.settings, tastes, np.array([user]),
                                 purchases.last[[row]], d)
            slow[user] += np.log(p[0, purchases.item[row] - d * (len(items) // 2)])
    fast = posterior.log_likelihood(z)[:users].numpy()
    assert np.allclose(fast, slow, rtol=1e-4, atol=1e-3), abs(fast - slow).max()


def target_ranks(posterior, purchases, items, tastes_drawn: list): # (n,)
    "The ranks of the targets by the mean probability over the draws."
    ranks, n_x = np.zeros(posterior.n, int), len(items) // 2
    for d in (0, 1):
        users = np.flatnonzero(purchases.domain[purchases.target] == d)
        rows = purchases.target[users]
        p = sum(true_probability(items, posterior.settings, tastes, users, purchases.last[rows], d)
                for tastes in tastes_drawn)
        own = p[np.arange(len(users)), purchases.item[rows] - d * n_x]
        ranks[users] = (p > own[:, None]).sum(1) + 1
    return ranks


def main(seeds: int, warm: int, n: int) -> None:
    "A row for each shop: the ceiling beside the oracle's, for all targets, repeats and new items."
    rows, settings = [], ShopSettings()
    for seed in range(seeds):
        run = shop_run("default", seed)
        task = task_of(run, "leave-one-out", seed)
        data, test, items = task.dataset, task.split["test"], task.dataset.items
        purchases = Purchases(task)
        posterior = Posterior(task, purchases, settings)
        check(posterior, purchases, items)
        found = [as_tastes(posterior, z) for z in draws(posterior, warm, n, seed=seed)]
        mrr = 100 * per_user(target_ranks(posterior, purchases, items, found), "mrr")
        half = 100 * per_user(target_ranks(posterior, purchases, items, found[::2]), "mrr")
        again = np.array([data.item[b - 1] in data.item[a:b - 1]
                          for a, b in zip(test.start, test.stop)])
        rows.append({"shop": seed, "MRR %": round(mrr.mean(), 2),
                     "with half of the draws": round(half.mean(), 2),
                     "repeats": round(mrr[again].mean(), 2), "new": round(mrr[~again].mean(), 2)})
        print(rows[-1])
    mean = {k: round(float(np.mean([r[k] for r in rows])), 2) for k in rows[0] if k != "shop"}
    rows.append({"shop": "mean"} | mean)
    finish("shop_ceiling", rows, mean["MRR %"] / mean["with half of the draws"], draws=n,
           ratio_means="MRR with all draws over that with every second one")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--warm", type=int, default=100)
    parser.add_argument("--draws", type=int, default=100)
    options = parser.parse_args()
    main(options.seeds, options.warm, options.draws)
