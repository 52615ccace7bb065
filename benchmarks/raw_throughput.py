"""Raw files of the real size: written by the shop's raw writer, prepared by `llm-emf prepare`,
and read plainly with pandas.

    python benchmarks/raw_throughput.py [--reviews 8900000] [--items 370000] [--year 2014]
                                        [--keep FOLDER]

The default is the size of Amazon 2014's Books 5-core: 8.9 million reviews; metadata of 370,000
items. pandas reads the larger reviews file with read_json(lines=True) in chunks, which gives a
table and nothing else: no metadata, no check, no rejects.
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

from llm_emf.core import stage_summary
from llm_emf.raw import AMAZON, raw_names, write_raw
from llm_emf.shop import ShopSettings

parser = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--reviews", type=int, default=8_900_000)
parser.add_argument("--items", type=int, default=370_000)
parser.add_argument("--year", type=int, default=2014)
parser.add_argument("--keep", default="", help="keep the raw files here; used if they are there")
options = parser.parse_args()
MEAN = 15.0     # reviews a user
MAIN = "import sys; from llm_emf.cli import main; sys.exit(main(sys.argv[1:]))"


def shop_settings(reviews: float) -> ShopSettings:
    "A shop with about so many reviews."
    return ShopSettings(users=round(reviews / MEAN), items=options.items // 2,
                        mean_length=MEAN + .1)


def prepared(folder: Path, out: Path, pair: str) -> dict:
    "The stage in a process of its own, so that its peak memory is its own."
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", MAIN, "prepare", "--dataset", pair, "--profile", "quick",
                    "--source", folder, "--out", out], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return {"seconds": round(time.perf_counter() - began, 1), "peak GiB": round(peak, 2)}


def prepare_reviews(n: int, tmp: Path) -> dict: # a row of the table
    "Write raw files with n reviews, if they are not there, and prepare them."
    folder = Path(options.keep or tmp)/f"{options.year}-{n}"
    if not folder.exists():
        began = time.perf_counter()
        write_raw(folder, shop_settings(n), year=options.year, broken=1000)
        print(f"written in {time.perf_counter() - began:.0f} s", flush=True)
    row = prepared(folder, tmp/f"run-{n}", f"amazon{options.year}:food-kitchen")
    summary = stage_summary(tmp/f"run-{n}"/"prepare")
    size = sum(f.stat().st_size for f in folder.iterdir()) / 1e9
    row = {"way": f"llm-emf prepare, {n:,} reviews", "lines": summary["lines"],
           "rejected": summary["rejected"], **row,
           "lines/s": round(summary["lines"] / row["seconds"]), "GB raw": round(size, 2)}
    print(row, flush=True)
    return row


def read_with_pandas(tmp: Path) -> dict: # a row of the table
    "Read an eighth of the reviews plainly."
    reviews, _ = raw_names(options.year, AMAZON["kitchen"])
    write_raw(tmp/"small", shop_settings(options.reviews / 8), year=options.year)
    began, n = time.perf_counter(), 0
    for chunk in pd.read_json(tmp/"small"/reviews, lines=True, chunksize=100_000):
        n += len(chunk)
    seconds = time.perf_counter() - began
    return {"way": "pandas.read_json, reviews only", "lines": n, "seconds": round(seconds, 1),
            "lines/s": round(n / seconds)}


with tempfile.TemporaryDirectory() as name:
    tmp = Path(name)
    # a quarter of the reviews, then all: same catalogue
    rows = [prepare_reviews(options.reviews // share, tmp) for share in (4, 1)]
    rows.append(read_with_pandas(tmp))
finish("raw_throughput", rows, rows[1]["lines/s"] / rows[2]["lines/s"], year=options.year,
       ratio_means="lines/s of the whole stage over pandas reading reviews alone",
       items=options.items)
