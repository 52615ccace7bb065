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
    above = anchor["llm-emf"] > anchor["item-knn-text"]
    where = {(True, True): "behind item-kNN with text on one of them",
             (True, False): "behind item-kNN with text"}.get((behind, above), "second")
    return f"On both sets our hybrid-rerank is first;\nLLM-EMF is {where}"


def draw() -> None:
    "Write the picture; without a date or random ids, so that the same figures give the same file."
    panels = figures()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "llm-emf", "font.size": 9,
                         "font.family": "sans-serif", "text.color": INK, "axes.edgecolor": INK,
                         "xtick.color": INK, "ytick.color": INK}):
        fig, axes = plt.subplots(2, 1, figsize=(4.8, 4.4), layout="constrained")
        for ax, (panel, found) in zip(axes, panels.items()):
            colours = [OURS if m.startswith("hybrid") else PAPER if m == "llm-emf" else OTHER
                       for m in found]
            ax.barh(list(found), list(found.values()), color=colours)
            for y, value in enumerate(found.values()):
                ax.annotate(f"{value:.2f}", (value, y), (4, 0), textcoords="offset points",
                            va="center")
            ax.set(xlim=(0, 1.12 * max(found.values())), xticks=[])
            ax.set_title(f"{panel}; MRR, %", fontsize=9, loc="left")
            ax.invert_yaxis()
            ax.spines[["top", "right", "bottom"]].set_visible(False)
        fig.suptitle(title(panels), fontsize=10, fontweight="bold", x=.02, ha="left")
        PICTURE.parent.mkdir(exist_ok=True)
        fig.savefig(PICTURE, transparent=True, metadata={"Date": None})
    text = PICTURE.read_text(encoding="utf-8")
    PICTURE.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n",
                       encoding="utf-8")


if __name__ == "__main__":
    matplotlib.use("Agg")
    draw()
