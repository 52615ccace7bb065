"""How an epoch's time grows: with the purchases (×1, ×2, ×4) and with the catalogue (10,000,
100,000 and 1,000,000 items), on shop data.

The exponent is the slope of log time over log size; 1 is linear, 0 constant. From 200,000 items
on the id table has sparse gradients (TrainSettings.sparse_ids), which is why the last step of the
catalogue need not cost a hundred times the first.
"""
import matplotlib
import numpy as np
import torch
from common import ROOT, finish, peak_gib

from llm_emf.core import COLOUR, set_seed, tidy
from llm_emf.data import shop_dataset
from llm_emf.model import LLMEMF, ModelSettings
from llm_emf.shop import ShopSettings
from llm_emf.task import make_task
from llm_emf.train import TrainSettings, fit_model

USERS, ITEMS = 4_000, 10_000
LABELS = {"purchases": "purchases in the data", "items": "items in the catalogue"}


def epoch(users: int, items: int) -> dict:
    "One epoch's time and size."
    data, _ = shop_dataset(ShopSettings(users=users, items=items // 2))
    task = make_task(data)
    # the time of validation is not asked for
    task.split["valid"] = task.split["valid"].take(slice(0, 20))
    set_seed(0)
    features = {"tex": torch.randn(data.n_items + 1, 64)}
    model = LLMEMF(ModelSettings(negatives=2048), data.n_items, data.n_x, features)
    curve = fit_model(model, task, TrainSettings(epochs=1), device="cpu",
                      what=f"{users:,} users, {items:,} items")
    return {"users": users, "items": items, "purchases": len(data.item),
            "seconds": float(curve["seconds"].iloc[0]),
            "targets/s": int(curve["targets per second"].iloc[0]), "peak GiB": peak_gib()}


def exponent(rows: list, key: str) -> float:
    "The slope of log seconds over log size."
    size, seconds = (np.log([r[k] for r in rows]) for k in (key, "seconds"))
    return float(np.polyfit(size, seconds, 1)[0])


def draw(ax, rows: list, key: str) -> None:
    "Seconds over size, both on a logarithmic axis."
    x, y = [r[key] for r in rows], [r["seconds"] for r in rows]
    ax.loglog(x, y, marker="o", color=COLOUR["id"])
    for at in zip(x, y):
        ax.annotate(f"{at[1]:.1f} s", at, (0, 7), textcoords="offset points", ha="center")
    ax.set(xlabel=LABELS[key], ylabel="seconds an epoch", ylim=(1, 100),
           title=f"An epoch's time grows as {key}$^{{{exponent(rows, key):.2f}}}$")
    ax.set_xticks(x, [f"{n:,}" for n in x])
    ax.set_yticks([1, 10, 100], ["1", "10", "100"])
    ax.minorticks_off()
    ax.margins(x=.12)
    tidy(ax)


def save_figure(more_users: list, more_items: list) -> None:
    "Both curves, in benchmarks/results/training_cost.png."
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    draw(axes[0], more_users, "purchases")
    draw(axes[1], more_items, "items")
    fig.tight_layout()
    (ROOT/"benchmarks"/"results").mkdir(exist_ok=True)
    fig.savefig(ROOT/"benchmarks"/"results"/"training_cost.png", dpi=130)


epoch(200, ITEMS)                                   # warm-up
more_users = [epoch(USERS * k, ITEMS) for k in (1, 2, 4)]
more_items = [more_users[0]] + [epoch(USERS, ITEMS * k) for k in (10, 100)]
save_figure(more_users, more_items)
finish("training_cost", more_users + more_items[1:],
       more_items[-1]["seconds"] / more_items[0]["seconds"],
       exponent_purchases=round(exponent(more_users, "purchases"), 3),
       exponent_items=round(exponent(more_items, "items"), 3),
       ratio_means="epoch time with 1,000,000 items over that with 10,000",
       sparse_ids_from=TrainSettings().sparse_ids)
