"""Training throughput: every position in one pass, against one sample a prefix.

The common formulation explodes a user of n items into n - 1 samples, pads each to the window, runs the encoders one after the
other and scores every item of the domain. It is written here from the same equations with torch's own TransformerEncoder.
Same data, width, depth and number of encoders; random features, for speed does not depend on their values.
"""
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

D, LAYERS, HEADS, HIDDEN, LENGTH, SECONDS = 64, 2, 2, 128, 50, 40
data, split = load_data()
features = random_features(data)
ranges = windows(split["train"], LENGTH)


def timed(step, batches):
    "Interactions (targets) a second, after two steps of warm-up."
    for b in batches[:2]: step(b)
    began, n = time.perf_counter(), 0
    for b in batches[2:]:
        n += step(b)
        if time.perf_counter() - began > SECONDS: break
    return n / (time.perf_counter() - began)


def ours(precision="no"):
    set_seed(0)
    model = LLMEMF(ModelSettings(d=D, layers=LAYERS, heads=HEADS, hidden=HIDDEN, negatives=2048), data.n_items, data.n_x, features).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    count = iter(range(10**9))
    def step(rows):
        items = pad(data, ranges.start[rows], ranges.stop[rows], LENGTH)
        loss, n = model(items, draw_step_negatives(data.n_items, data.n_x, 2048, 0, 0, next(count), "cpu"))
        optimiser.zero_grad(); (loss / n).backward(); optimiser.step()
        return int(n)
    return timed(step, train_batches(ranges, 4096, stream(0, "batches", 0)))


class Prefix(nn.Module):
    "LLM-EMF, one sample a prefix."
    def __init__(self):
        super().__init__()
        self.id, self.project = nn.Embedding(data.n_items + 1, D, padding_idx=0), nn.Linear(features["tex"].shape[1], D, bias=False)
        self.position = nn.ParameterList(torch.randn(LENGTH, D) * .02 for _ in range(6))
        self.encoders = nn.ModuleList(nn.TransformerEncoder(nn.TransformerEncoderLayer(D, HEADS, HIDDEN, 0.2, "gelu", batch_first=True, norm_first=True), LAYERS, enable_nested_tensor=False) for _ in range(6))
        self.causal = nn.Transformer.generate_square_subsequent_mask(LENGTH)

    def forward(self, sequences, domain, target): # three padded (batch, LENGTH) matrices, one domain
        first, n = (1, data.n_x) if domain == 0 else (data.n_x + 1, data.n_items - data.n_x)
        ids = torch.arange(first, first + n)
        keys = [F.normalize(self.id(ids), dim=-1), F.normalize(self.project(features["tex"][ids]), dim=-1)]
        loss = 0
        for s, (items, weight) in enumerate(zip(sequences, (1, .3, .1))):
            embedded = [self.id(items), self.project(features["tex"][items])]
            last = (items > 0).sum(1).clamp(min=1) - 1
            sim = 0
            for m in range(2):
                h = self.encoders[2 * s + m](embedded[m] + self.position[2 * s + m], mask=self.causal, is_causal=True)
                sim = sim + .5 * F.normalize(h[torch.arange(len(items)), last], dim=-1) @ keys[m].T
            loss = loss + weight * F.cross_entropy(sim / .05, target - first)
        return loss


def prefix():
    set_seed(0)
    model = Prefix().train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rng = np.random.default_rng(0)
    at = np.concatenate([np.stack([np.full(b - a - 1, a), np.arange(a + 1, b)], 1) for a, b in zip(ranges.start[:20_000], ranges.stop[:20_000])])
    rng.shuffle(at)
    def step(rows):
        start, stop = at[rows].T
        merged, target = pad(data, start, stop, LENGTH).numpy(), data.item[stop]
        domain = int(target[0] > data.n_x)
        def only(keep):
            out = np.zeros((len(merged), LENGTH), dtype=np.int64)
            for r, row in enumerate(merged):
                kept = row[keep(row) & (row > 0)]; out[r, :len(kept)] = kept
            return torch.from_numpy(out)
        x, y, both = only(lambda r: r <= data.n_x), only(lambda r: r > data.n_x), only(lambda r: r > 0)
        loss = model((x, y, both) if domain == 0 else (y, x, both), domain, torch.from_numpy(target.astype(np.int64)))
        optimiser.zero_grad(); loss.backward(); optimiser.step()
        return len(rows)
    is_y = data.item[at[:, 1]] > data.n_x
    batches = [b for d in (False, True) for b in np.array_split(np.flatnonzero(is_y == d), max(1, (is_y == d).sum() // 128))]
    return timed(step, [batches[k] for k in rng.permutation(len(batches))])


fast = ours(); memory = peak_gib()
slow = prefix()
finish("train_throughput", [{"formulation": "all positions in one pass (ours)", "interactions/s": round(fast), "peak GiB": memory},
                            {"formulation": "one sample a prefix", "interactions/s": round(slow), "peak GiB": peak_gib()}], fast / slow,
       data=data.name, d=D, layers=LAYERS, encoders=6, items=data.n_items, interactions=len(data.item))
