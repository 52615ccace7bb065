"""Keep the report of a run as a page of the site, nbs/reports/<data set>_<profile>.ipynb:

    llm-emf reproduce --dataset shop --profile quick
    python .ci/keep_report.py runs/shop-quick-0
    python .ci/keep_report.py runs/shop-quick-0 "an H100"     # made on another machine

The page is notebook 11 as that run executed it: text, tables and figures, without the code.
"""
import base64
import datetime
import io
import os
import platform
import sys
from pathlib import Path

import nbformat
import torch
from nbdev.clean import nbdev_clean
from PIL import Image

from llm_emf.core import InputError, check_inputs, open_run, read_identity
from llm_emf.report import report_cells, shown_run

ROOT = Path(__file__).parent.parent
HIDE = "#| eval: false\n#| echo: false"
STANDS_FOR = {
    "smoke": "Profile smoke trains for one epoch: the page shows that everything runs, no more.",
    "quick": "Profile quick trains a few methods once, with one seed. The page shows what such a "
             "run gives; what follows for the paper's claims needs all methods and several seeds, "
             "and is [another page](../guides/results.ipynb).",
    "paper": "Profile paper trains every method, with one seed. Without a GPU the trainings take "
             "about one hour of processor time on the shop and four and a half on Food–Kitchen (one "
             "thread). What follows for the paper's claims needs several seeds, and is "
             "[another page](../guides/results.ipynb).",
}


def small_png(text: str) -> str: # both base64
    "The figure with 128 colours, which are enough for bars and lines: under half of the bytes."
    picture, out = Image.open(io.BytesIO(base64.b64decode(text))), io.BytesIO()
    few = picture.convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(out, "PNG", optimize=True)
    return min(base64.b64encode(out.getvalue()).decode(), text, key=len)


def kept_output(output: dict) -> dict:
    "An output in its richest form only: a figure as PNG, a table as HTML."
    data = output["data"]
    for kind in ("image/png", "text/html", "text/markdown"):
        if kind in data:
            kept = small_png(data[kind]) if kind == "image/png" else data[kind]
            return nbformat.from_dict({**output, "data": {kind: kept}})
    return output


def kept_cells(cells: list) -> list:
    "The report's cells, code left out and outputs kept."
    kept = []
    for cell in report_cells(cells)[1:]: # the heading is written anew
        if cell["cell_type"] == "markdown":
            kept.append(nbformat.v4.new_markdown_cell(cell["source"]))
        else:
            outputs = [kept_output(o) for o in cell["outputs"]]
            kept.append(nbformat.v4.new_code_cell(HIDE, outputs=outputs))
    return kept


def this_machine() -> str:
    "Processor, cores and GPU."
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{platform.machine()}, {os.cpu_count()} cores, {gpu}"


def head(run, machine: str) -> list: # of cells: title, and what the page is
    "What a reader must know first: which run, when, where, and what it stands for."
    shown = shown_run(run)
    made = datetime.date.fromtimestamp((run.path/"report"/"manifest.json").stat().st_mtime)
    where = shown.dataset if shown.dataset == run.dataset else f"path/to/{shown.dataset}"
    title = (f"# Report: {shown.dataset}, profile {run.profile}\n\n"
             f"> The report that a run of {made} wrote: notebook 11, executed.")
    text = (f"Made on {made} on {machine}, by the commands at the end of this page. "
            f"{STANDS_FOR[run.profile]} [Notebook 11](../11_report.ipynb) has the code. "
            "To make the page again:\n\n"
            f"```bash\nllm-emf reproduce --dataset {where} --profile {run.profile}\n"
            f"python .ci/keep_report.py runs/{shown.dataset}-{run.profile}-{run.seed}\n```")
    return [nbformat.v4.new_markdown_cell(source) for source in (title, text)]


def keep(folder: str, machine: str) -> Path:
    "Write the page of a run. Raises `InputError` if the run's report is missing or stale."
    identity = read_identity(folder)
    run = open_run(folder, identity["dataset"], identity["profile"], identity["seed"])
    executed = run.path/"notebooks"/"11_report.ipynb"
    if not executed.exists() or not (run.path/"report").exists():
        raise InputError(f"{folder} has no report yet; make it with llm-emf report --out {folder}")
    check_inputs(run, [run.path/"report"], "keep_report")
    cells = head(run, machine) + kept_cells(nbformat.read(executed, as_version=4)["cells"])
    name = f"{shown_run(run).dataset}_{run.profile}".replace("-", "_")
    page = ROOT/"nbs"/"reports"/f"{name}.ipynb"
    page.parent.mkdir(exist_ok=True)
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbformat.write(notebook, page)
    nbdev_clean(fname=page)
    return page


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    try:
        made = keep(sys.argv[1], *(sys.argv[2:] or [this_machine()]))
        print(f"kept: {made.relative_to(ROOT)}")
    except InputError as e:
        sys.exit(str(e))
