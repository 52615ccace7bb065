"""Raw files of the real size: written by the shop's raw writer, prepared by `llm-emf prepare`, and read plainly with pandas.

    python benchmarks/raw_throughput.py [--reviews 8900000] [--items 370000] [--year 2014] [--keep FOLDER]

The default is the size of Amazon 2014's Books 5-core: 8.9 million reviews; metadata of 370,000 items. pandas reads the larger
reviews file with read_json(lines=True) in chunks, which gives a table and nothing else: no metadata, no check, no rejects.
"""
import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from common import finish

from llm_emf.raw import AMAZON, raw_names, write_raw
from llm_emf.shop import ShopSettings

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--reviews", type=int, default=8_900_000)
parser.add_argument("--items", type=int, default=370_000)
parser.add_argument("--year", type=int, default=2014)
parser.add_argument("--keep", default="", help="keep the raw files here, and use them if they are there")
options = parser.parse_args()


def prepared(folder: Path, out: Path, pair: str) -> dict:
    "The stage in a process of its own, so that its peak memory is its own."
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import sys; from llm_emf.cli import main; sys.exit(main(sys.argv[1:]))", "prepare", "--dataset", pair, "--profile", "quick", "--source", folder, "--out", out], check=True)
    return {"seconds": round(time.perf_counter() - began, 1), "peak GiB": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2)}


with tempfile.TemporaryDirectory() as tmp:
    rows, mean = [], 15.0
    for share in (4, 1):                                                        # a quarter of the reviews, then all: same catalogue
        n = options.reviews // share
        folder = Path(options.keep or tmp)/f"{options.year}-{n}"
        settings = ShopSettings(users=round(n / mean), items=options.items // 2, mean_length=mean + .1)
        if not folder.exists():
            began = time.perf_counter()
            write_raw(folder, settings, year=options.year, broken=1000)
            print(f"written in {time.perf_counter() - began:.0f} s", flush=True)
        row = prepared(folder, Path(tmp)/f"run-{n}", f"amazon{options.year}:food-kitchen")
        from llm_emf.core import stage_summary
        summary = stage_summary(Path(tmp)/f"run-{n}"/"prepare")
        rows.append({"way": f"llm-emf prepare, {n:,} reviews", "lines": summary["lines"], "rejected": summary["rejected"], **row, "lines/s": round(summary["lines"] / row["seconds"]),
                     "GB raw": round(sum(f.stat().st_size for f in folder.iterdir()) / 1e9, 2)})
        print(rows[-1], flush=True)
    reviews, _ = raw_names(options.year, AMAZON["kitchen"])
    settings = ShopSettings(users=round(options.reviews / mean / 8), items=options.items // 2, mean_length=mean + .1)
    write_raw(Path(tmp)/"small", settings, year=options.year)
    began, n = time.perf_counter(), 0
    for chunk in pd.read_json(Path(tmp)/"small"/reviews, lines=True, chunksize=100_000): n += len(chunk)
    seconds = time.perf_counter() - began
    rows.append({"way": "pandas.read_json, reviews only", "lines": n, "seconds": round(seconds, 1), "lines/s": round(n / seconds)})
    finish("raw_throughput", rows, rows[1]["lines/s"] / rows[2]["lines/s"], ratio_means="lines/s of the whole stage over pandas reading reviews alone", year=options.year, items=options.items)
