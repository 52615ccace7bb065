"""Our SASRec and BERT4Rec against those of RecTools (MTS), on one split and through our evaluator.

    python -m venv rt && rt/bin/pip install -e ".[rectools]"     an environment of its own
    rt/bin/python benchmarks/against_rectools.py                 the embedded shop
    rt/bin/python benchmarks/against_rectools.py --out RUN       a prepared run folder

Both sides learn from the same windows of the training part with the full softmax, the same width,
layers, heads, feed-forward width, dropout, longest history and epochs, and about as many sequences
in a batch. For both, the epoch is kept whose MRR of the valid users is best. Of RecTools' learning
rates (`--rates`) the best is chosen in the same way: on the shop 0.003 was better for both models
than its default of 0.001. What differs is what the libraries differ in: schedule of the learning
rate, initialisation, blocks, cosine or inner product, and the softmax, which is over the target's
domain in ours and over all items in theirs. RecTools does not know an item that training lacks;
such an item is ranked last there.

A user's reciprocal rank is averaged over the seeds; differences are ours minus theirs, paired by
user, in points of MRR.
"""
import argparse
import logging
import time
import warnings
from dataclasses import asdict, replace
from importlib.metadata import version

import numpy as np
import pandas as pd
import torch
from common import finish, print_table

from llm_emf.core import progress, repair_torchvision
from llm_emf.cli import reopen
from llm_emf.data import flat_positions, shop_dataset, windows
from llm_emf.methods import find_method
from llm_emf.metrics import PROTOCOLS, bootstrap, per_user
from llm_emf.shop import ShopSettings
from llm_emf.task import load_task, make_task

repair_torchvision()
warnings.filterwarnings("ignore")
for logger in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "lightning_fabric"):
    logging.getLogger(logger).setLevel(logging.ERROR)

import pytorch_lightning  # noqa: E402
from rectools import Columns  # noqa: E402
from rectools.dataset import Dataset  # noqa: E402
from rectools.models import BERT4RecModel, SASRecModel  # noqa: E402

THEIRS = {"sasrec": SASRecModel, "bert4rec": BERT4RecModel}


def interactions(task, ranges):
    "RecTools' table of purchases: each range is a user of its own, in order."
    row, place = flat_positions(ranges)
    when = pd.Timestamp("2020-01-01") + pd.to_timedelta(place, unit="s")
    return pd.DataFrame({Columns.User: row, Columns.Item: task.dataset.item[place].astype(int),
                         Columns.Weight: 1.0, Columns.Datetime: when})


class RecToolsScorer:
    "A fitted RecTools transformer as a scorer: its own logits of every item of a domain."

    def __init__(self, model, task):
        prepared = model.data_preparator
        self.model, self.net = model, model.lightning_model.torch_model
        self.domain_range, self.max_history = task.dataset.domain_range, model.session_max_len
        self.number = torch.zeros(task.dataset.n_items + 1, dtype=torch.long) # 0: unknown
        known = torch.from_numpy(np.array(prepared.get_known_item_ids(), dtype=np.int64))
        self.number[known] = torch.from_numpy(prepared.get_known_items_sorted_internal_ids())
        self.mask = prepared.extra_token_ids.get("MASK")

    def inputs(self, histories):
        "Known items at the right end of rows of the full length, BERT4Rec's mask after them."
        x = self.number[histories]
        x = x.gather(1, (x > 0).long().argsort(dim=1, stable=True))
        if self.mask is not None:
            x = torch.cat([x, torch.full_like(x[:, :1], self.mask)], 1)
        missing = max(0, self.max_history - x.shape[1])
        return torch.nn.functional.pad(x, (missing, 0))[:, -self.max_history:]

    @torch.no_grad()
    def score(self, histories, domain):
        "The logits; below all others for items that RecTools does not know."
        self.net.eval()
        items = self.net.item_model.get_all_embeddings()
        state = self.net.encode_sessions({"x": self.inputs(histories)}, items)[:, -1:]
        logits = self.net.similarity_module(state, items)[:, 0]
        first, n = self.domain_range(domain)
        number = self.number[first:first + n]
        return torch.where(number > 0, logits[:, number], torch.finfo(logits.dtype).min)


def check_scorer(scorer, task, users=40):
    "Assert that RecTools' own `recommend` gives the targets of some test users the same ranks."
    column = "rank_seen_too" if task.exclude_seen else "rank"
    some = task.split["test"].sample(users)
    known = scorer.number[task.dataset.item[some.stop - 1].astype(int)].numpy() > 0
    some = some.take(np.flatnonzero(known & (some.stop - some.start > 1)))
    ours = task.rank(scorer, some, sampled=False)
    table = interactions(task, replace(some, stop=some.stop - 1))
    table = table[scorer.number[table[Columns.Item].to_numpy()].numpy() > 0]
    for domain, name in enumerate(task.dataset.domains):
        mine = ours[(ours["domain"] == name) & ours.index.isin(table[Columns.User])]
        first, n = task.dataset.domain_range(domain)
        found = scorer.model.recommend(
            users=mine.index.to_numpy(), dataset=Dataset.construct(table), k=n,
            filter_viewed=False, items_to_recommend=np.arange(first, first + n))
        found = found.set_index([Columns.User, Columns.Item])[Columns.Rank]
        theirs = found.loc[list(zip(mine.index, mine["target"]))].to_numpy()
        # sums of floats in another order may swap two items of almost the same score
        apart = np.abs(mine[column].to_numpy() - theirs)
        assert len(mine) and apart.max() <= 2 and (apart == 0).mean() > .9, (name, apart)


def make_theirs(name, s, rate, sequences):
    "RecTools' model with the settings of ours."
    more = {}
    if name == "bert4rec":
        more = {"mask_prob": s.model.masked,
                "transformer_layers_kwargs": {"ff_factors_multiplier": s.model.hidden//s.model.d}}
    return THEIRS[name](
        n_blocks=s.model.layers, n_heads=s.model.heads, n_factors=s.model.d, loss="softmax",
        dropout_rate=s.model.dropout, session_max_len=s.model.max_length, lr=rate,
        batch_size=sequences, epochs=s.train.epochs, deterministic=True, **more)


def valid_mrr(scorer, task, s):
    "What early stopping looks at, for both sides."
    watched = task.split["valid"].sample(s.train.valid_cases)
    return float(per_user(task.rank(scorer, watched, sampled=False)["rank"], "mrr").mean())


def fit_theirs(name, task, s, rate): # the scorer at its best epoch, and notes
    "Train RecTools' model epoch by epoch."
    ranges = windows(task.split["train"], s.model.max_length)
    sequences = max(1, round(s.train.batch_tokens/ranges.length.mean()))
    pytorch_lightning.seed_everything(task.seed)
    model = make_theirs(name, s, rate, sequences)
    data, mrr, best, seconds = Dataset.construct(interactions(task, ranges)), [], None, 0.0
    for _ in progress(range(s.train.epochs), f"RecTools' {name}, {rate}", unit="epoch"):
        began = time.monotonic()
        model.fit_partial(data, min_epochs=1, max_epochs=1)
        seconds += time.monotonic() - began
        mrr.append(valid_mrr(RecToolsScorer(model, task), task, s))
        if mrr[-1] == max(mrr):
            weights = model.lightning_model.torch_model.state_dict()
            best = {k: v.clone() for k, v in weights.items()}
    model.lightning_model.torch_model.load_state_dict(best)
    return RecToolsScorer(model, task), {
        "learning rate": rate, "sequences in a batch": sequences, "best valid MRR": max(mrr),
        "best epoch": 1 + int(np.argmax(mrr)), "seconds an epoch": seconds/len(mrr),
        "parameters": sum(p.numel() for p in model.lightning_model.torch_model.parameters())}


def fit_ours(name, task, s): # the scorer at its best epoch, and notes
    "Train our model, without stopping early."
    scorer = find_method(name).fit(task, s, device="cpu")
    curve = scorer.curve
    return scorer, {
        "learning rate": s.train.learning_rate, "best valid MRR": float(curve["valid mrr"].max()),
        "best epoch": 1 + int(curve["valid mrr"].argmax()),
        "seconds an epoch": float(curve["seconds"].mean()),
        "parameters": sum(p.numel() for p in scorer.model.parameters())}


def settings_of(name, task, options):
    "Our settings: RecTools' width of the feed-forward layer in SASRec is d."
    epochs = options.epochs * (2 if name == "bert4rec" else 1)
    words = (f"d={options.d} heads={options.heads} layers={options.layers} negatives=0 "
             f"dropout={options.dropout} max_length={options.max_length} "
             f"epochs={epochs} patience={epochs} "
             f"hidden={options.d * (2 if name == 'bert4rec' else 1)}")
    method = find_method(name)
    return method.change(method.default_settings(task), words)


def run_seed(name, task, options): # ranks of ours and theirs, notes
    "Both sides with one seed."
    s = settings_of(name, task, options)
    ours, our_notes = fit_ours(name, task, s)
    fitted = [fit_theirs(name, task, s, rate) for rate in options.rates]
    theirs, their_notes = max(fitted, key=lambda f: f[1]["best valid MRR"])
    check_scorer(theirs, task)
    found = [task.rank(scorer) for scorer in (ours, theirs)]
    target = found[0]["target"].to_numpy()
    unknown = float((theirs.number[target] == 0).float().mean())
    notes = {"method": name, "seed": task.seed, "ours": our_notes, "RecTools": their_notes,
             "targets unknown to RecTools": unknown}
    print(notes)
    return *found, notes


def table(name, ours, theirs): # lists of ranks, one a seed → rows
    "MRR of both, and the difference, by domain and protocol."
    rows = []
    for protocol, column in PROTOCOLS.items():
        if column not in ours[0]:
            continue
        a, b = (np.mean([100*per_user(r[column], "mrr") for r in side], 0)
                for side in (ours, theirs))
        for domain in [*ours[0]["domain"].unique(), "all"]:
            mine = (ours[0]["domain"] == domain).to_numpy() | (domain == "all")
            low, high = bootstrap((a - b)[mine, None])
            rows.append({"model, protocol, domain": f"{name}, {protocol}, {domain}",
                         "ours MRR %": round(a[mine].mean(), 2),
                         "RecTools MRR %": round(b[mine].mean(), 2),
                         "difference": round((a - b)[mine].mean(), 2),
                         "low": round(float(low[0]), 2), "high": round(float(high[0]), 2),
                         "users": int(mine.sum())})
    return rows


def parse(arguments=None):
    "The command line."
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="a prepared run folder; default: the embedded shop")
    parser.add_argument("--users", type=int, default=ShopSettings().users, help="of the shop")
    parser.add_argument("--models", nargs="+", choices=list(THEIRS), default=list(THEIRS))
    parser.add_argument("--epochs", type=int, default=20, help="BERT4Rec has twice as many")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.003],
                        help="learning rates of RecTools")
    for name, value in {"d": 64, "heads": 2, "layers": 2, "max_length": 50}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--only-print", action="store_true", help="leave benchmarks/results alone")
    return parser.parse_args(arguments)


def main(options): # the rows of the table
    "Fit, rank, compare."
    if options.out:
        task = load_task(reopen(options.out))
    else:
        task = make_task(shop_dataset(ShopSettings(users=options.users))[0])
    rows, notes = [], []
    for name in options.models:
        seeds = [run_seed(name, replace(task, seed=k), options) for k in range(options.seeds)]
        rows += table(name, [s[0] for s in seeds], [s[1] for s in seeds])
        notes += [s[2] for s in seeds]
    if options.only_print:
        print_table(rows)
        return rows
    at = next(r for r in rows if r["model, protocol, domain"].endswith("full, all"))
    name = "against_rectools" + (f"_{task.dataset.name}" if options.out else "")
    finish(name, rows, at["ours MRR %"]/at["RecTools MRR %"], notes=notes, split=task.how,
           ratio_means=f"MRR of our {options.models[0]} over RecTools', full ranking",
           settings={m: asdict(settings_of(m, task, options)) for m in options.models},
           versions={p: version(p) for p in ("rectools", "pytorch_lightning", "numpy", "pandas")})
    return rows


if __name__ == "__main__":
    main(parse())
