"The landing page's picture, nbs/images/results.svg, drawn from benchmarks/results/."
import json
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent
RESULTS, PICTURE = ROOT/"benchmarks"/"results", ROOT/"nbs"/"images"/"results.svg"
OURS, PAPER, OTHER, INK = "#c0762b", "#4c86c6", "#9aa4ae", "#7b8591" # seen on white and on black


def rows_of(name):
    return json.loads((RESULTS/f"{name}.json").read_text(encoding="utf-8"))["rows"]


def figures() -> dict: # panel → method → MRR in %, best first
    "What the picture shows."
    study = "food-kitchen, leave-one-out: "
    real = {r["study"].removeprefix(study): r["MRR %"]
            for name in ("quality_food_kitchen", "quality_food_kitchen_hybrid_rerank")
            for r in rows_of(name) if r["study"].startswith(study)}
    anchor = {r["method"]: r["food MRR full"] for r in rows_of("public_anchor")
              if r["ties"] == "as-given"}
    panels = {"Food–Kitchen, 53,061 users": real, "ABXI's data, food, 7,144 users": anchor}
    return {p: dict(sorted(f.items(), key=lambda x: -x[1])[:8]) for p, f in panels.items()}


def title(panels: dict) -> str:
    "The finding, as far as the figures say it."
    real, anchor = panels.values()
    first = {next(iter(f)) for f in panels.values()}
    if first != {"hybrid-rerank"}:
        return f"MRR, full ranking: first are {' and '.join(sorted(first))}"
    behind = real["llm-emf"] < real["item-knn-text"]
    return ("Real purchases: our hybrid-rerank is first; LLM-EMF is "
            + ("behind an item-kNN with text" if behind else "above an item-kNN with text")
            + " on one of two sets" * (behind and anchor["llm-emf"] > anchor["item-knn-text"]))


def draw() -> None:
    "Write the picture; without a date or random ids, so that the same figures give the same file."
    panels = figures()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "llm-emf", "font.size": 9,
                         "font.family": "sans-serif", "text.color": INK, "axes.edgecolor": INK,
                         "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK}):
        fig, axes = plt.subplots(1, 2, figsize=(8.6, 2.9), layout="constrained")
        for ax, (panel, found) in zip(axes, panels.items()):
            colours = [OURS if m.startswith("hybrid") else PAPER if m == "llm-emf" else OTHER
                       for m in found]
            ax.barh(list(found), list(found.values()), color=colours)
            for y, value in enumerate(found.values()):
                ax.text(value, y, f" {value:.2f}", va="center", fontsize=8)
            ax.set(title=panel, xlabel="MRR, full ranking, %", xlim=(0, 1.15*max(found.values())))
            ax.title.set_fontsize(9)
            ax.invert_yaxis()
            ax.spines[["top", "right"]].set_visible(False)
        fig.suptitle(title(panels), fontsize=10, fontweight="bold")
        PICTURE.parent.mkdir(exist_ok=True)
        fig.savefig(PICTURE, transparent=True, metadata={"Date": None})
    text = PICTURE.read_text(encoding="utf-8")
    PICTURE.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n",
                       encoding="utf-8")


if __name__ == "__main__":
    matplotlib.use("Agg")
    draw()
