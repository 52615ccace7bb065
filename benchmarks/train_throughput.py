"""Training throughput: every position in one pass, against one sample a prefix.

The common formulation explodes a user of n items into n - 1 samples, pads each to the window, runs
the encoders one after the other and scores every item of the domain. It is written here from the
same equations with torch's own TransformerEncoder. Same data, width, depth and number of encoders;
random features, for speed does not depend on their values.

LLM_EMF_SECONDS is how long each way is measured (40).
"""
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from common import finish, load_data, peak_gib, random_features
from torch import nn

from llm_emf.core import set_seed, stream
from llm_emf.data import pad, train_batches, windows
from llm_emf.model import LLMEMF, ModelSettings
from llm_emf.train import draw_step_negatives

D, LAYERS, HEADS, HIDDEN, LENGTH = 64, 2, 2, 128, 50
SECONDS = float(os.environ.get("LLM_EMF_SECONDS", "40"))
data, split = load_data()
features = random_features(data)
ranges = windows(split["train"], LENGTH)


def timed(step, batches) -> float:
    "Interactions (targets) a second, after two steps of warm-up."
    for b in batches[:2]:
        step(b)
    began, n = time.perf_counter(), 0
    for b in batches[2:]:
        n += step(b)
        if time.perf_counter() - began > SECONDS:
            break
    return n / (time.perf_counter() - began)


def update(optimiser, loss) -> None:
    "One step of an optimiser."
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def ours() -> float:
    "LLM-EMF, all positions in one pass, with 2,048 sampled negatives of each domain."
    set_seed(0)
    settings = ModelSettings(d=D, layers=LAYERS, heads=HEADS, hidden=HIDDEN, negatives=2048)
    model = LLMEMF(settings, data.n_items, data.n_x, features).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    count = iter(range(10**9))
    def step(rows):
        items = pad(data, ranges.start[rows], ranges.stop[rows], LENGTH)
        negatives = draw_step_negatives(data.n_items, data.n_x, 2048, 0, 0, next(count))
        loss, n = model(items, negatives)
        update(optimiser, loss / n)
        return int(n)
    return timed(step, train_batches(ranges, 4096, stream(0, "batches", 0)))


def encoder() -> nn.Module:
    "One of the six encoders."
    layer = nn.TransformerEncoderLayer(D, HEADS, HIDDEN, 0.2, "gelu", batch_first=True,
                                       norm_first=True)
    return nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)


class Prefix(nn.Module):
    "LLM-EMF, one sample a prefix."
    def __init__(self):
        super().__init__()
        self.id = nn.Embedding(data.n_items + 1, D, padding_idx=0)
        self.project = nn.Linear(features["tex"].shape[1], D, bias=False)
        self.position = nn.ParameterList(torch.randn(LENGTH, D) * .02 for _ in range(6))
        self.encoders = nn.ModuleList(encoder() for _ in range(6))
        self.causal = nn.Transformer.generate_square_subsequent_mask(LENGTH)

    def embed(self, items): # of both modalities
        return [self.id(items), self.project(features["tex"][items])]

    def similarity(self, number, items, keys): # of one sequence to all items of the domain
        last, total = (items > 0).sum(1).clamp(min=1) - 1, 0
        for m, embedded in enumerate(self.embed(items)):
            k = 2 * number + m
            h = self.encoders[k](embedded + self.position[k], mask=self.causal, is_causal=True)
            state = F.normalize(h[torch.arange(len(items)), last], dim=-1)
            total = total + .5 * state @ keys[m].T
        return total

    def forward(self, sequences, domain, target): # three padded (batch, LENGTH), one domain
        first, n = data.domain_range(domain)
        keys = [F.normalize(k, dim=-1) for k in self.embed(torch.arange(first, first + n))]
        loss = 0
        for number, (items, weight) in enumerate(zip(sequences, (1, .3, .1))):
            logits = self.similarity(number, items, keys) / .05
            loss = loss + weight * F.cross_entropy(logits, target - first)
        return loss


def prefixes(rng) -> np.ndarray: # (samples, 2): where a history begins, where its target is
    "Every prefix of the first 20,000 windows, shuffled."
    at = np.concatenate([np.stack([np.full(b - a - 1, a), np.arange(a + 1, b)], 1)
                         for a, b in zip(ranges.start[:20_000], ranges.stop[:20_000])])
    rng.shuffle(at)
    return at


def only(merged: np.ndarray, keep: np.ndarray) -> torch.Tensor: # (batch, LENGTH)
    "Some items of each row, moved to its beginning."
    out = np.zeros((len(merged), LENGTH), dtype=np.int64)
    for r, row in enumerate(merged):
        kept = row[keep[r]]
        out[r, :len(kept)] = kept
    return torch.from_numpy(out)


def three_sequences(start, stop, domain: int) -> tuple: # own, other, both
    "The sequences of the target's domain, of the other one, and the merged one."
    merged = pad(data, start, stop, LENGTH).numpy()
    bought, is_x = merged > 0, merged <= data.n_x
    x, y = only(merged, bought & is_x), only(merged, bought & ~is_x)
    return (x, y, only(merged, bought)) if domain == 0 else (y, x, only(merged, bought))


def batches_of_one_domain(at: np.ndarray) -> list: # of arrays of rows
    "About 128 samples each."
    is_y, parts = data.item[at[:, 1]] > data.n_x, []
    for d in (False, True):
        rows = np.flatnonzero(is_y == d)
        parts += np.array_split(rows, max(1, len(rows) // 128))
    return parts


def prefix() -> float:
    "The common formulation."
    set_seed(0)
    model, rng = Prefix().train(), np.random.default_rng(0)
    at = prefixes(rng)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    def step(rows):
        start, stop = at[rows].T
        target = torch.from_numpy(data.item[stop].astype(np.int64))
        domain = int(target[0] > data.n_x)
        update(optimiser, model(three_sequences(start, stop, domain), domain, target))
        return len(rows)
    batches = batches_of_one_domain(at)
    return timed(step, [batches[k] for k in rng.permutation(len(batches))])


fast = ours()
rows = [{"formulation": "all positions in one pass (ours)", "interactions/s": round(fast),
         "peak GiB": peak_gib()}]
slow = prefix()
rows.append({"formulation": "one sample a prefix", "interactions/s": round(slow),
             "peak GiB": peak_gib()})
finish("train_throughput", rows, fast / slow, data=data.name, d=D, layers=LAYERS, encoders=6,
       items=data.n_items, interactions=len(data.item))
