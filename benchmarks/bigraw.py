"""Raw reviews through DuckDB within a memory limit, at growing sizes, beside the reader in memory.

    python benchmarks/bigraw.py [--millions 1,3,10] [--memory 2GB] [--threads 2] [--folder FOLDER]

Reviews are drawn in the format of Amazon 2023, as parquet: a user for each 12 reviews and an item
for each 50, both with few that are frequent and many that are rare; a user's reviews lie within two
years. The smallest size is also written as JSON lines, gzipped, and read in both ways. Each reading
has a process of its own. Seconds of processor time are of all threads; they depend less than
seconds on what else the machine does. Needs the extra `duckdb`.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from common import finish, peak_gib

from llm_emf.bigraw import MemorySettings, open_database, sequences_within
from llm_emf.raw import AMAZON
from llm_emf.readers import CleanSettings, clean, cut_windows, read_amazon

DOMAINS, CATEGORIES = tuple(AMAZON), tuple(AMAZON.values())
# drawn(k, seed): 0 … 1, by the hash of a number
DRAWN = "CREATE MACRO drawn(k, seed) AS hash(k * 16 + seed) / 2.0**64"
REVIEWS = """
SELECT upper(substr(md5(person::VARCHAR), 1, 28)) AS user_id,
       'B{d}' || lpad(item::VARCHAR, 9, '0') AS parent_asin,
       (1.1e9 + 4e8 * drawn(person, 7) + 6.3e7 * drawn(i, {d} + 4))::BIGINT * 1000 AS timestamp,
       1.0 + i % 5 AS rating
FROM (SELECT i, ({people} * drawn(i, {d}) ** 1.5)::BIGINT AS person,
             ({items} * drawn(i, {d} + 2) ** 2)::BIGINT AS item
      FROM range({n}) t(i))
"""
META = """
SELECT 'B{d}' || lpad(item::VARCHAR, 9, '0') AS parent_asin, 'Item number ' || item AS title
FROM range({items} + 1) t(item)
"""
AS_JSON = "SELECT *, repeat('Does what it should. ', 10) AS text FROM '{file}'"


def write_parquet(folder: Path, n: int) -> None:
    "Draw n reviews, half of them in each domain."
    folder.mkdir(parents=True)
    with open_database(MemorySettings("4GB")) as con:
        con.execute(DRAWN)
        for d, category in enumerate(CATEGORIES):
            size = {"d": d, "n": n // 2, "items": n // 100, "people": n // 12}
            for query, name in ((REVIEWS, category), (META, f"meta_{category}")):
                con.execute(f"COPY ({query.format(**size)}) TO '{folder}/{name}.parquet'")


def write_json(folder: Path, parquet: Path) -> None:
    "The same as JSON lines, gzipped; reviews with a text."
    folder.mkdir()
    with open_database(MemorySettings("4GB", threads=1)) as con:
        for file in sorted(parquet.iterdir()):
            to = folder/f"{file.stem}.jsonl.gz"
            query = f"FROM '{file}'" if "meta" in file.name else AS_JSON.format(file=file)
            con.execute(f"COPY ({query}) TO '{to}' (FORMAT json, COMPRESSION gzip)")


def size_of(folder: Path) -> float: # GiB
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size
        except OSError: # gone meanwhile
            pass
    return total / 2**30


class Watch(threading.Thread):
    "The most space that a folder takes, in GiB: in all, and in spilled files."
    def __init__(self, folder: Path):
        super().__init__(daemon=True)
        self.folder, self.disk, self.spilled = folder, 0.0, 0.0

    def run(self):
        while True:
            self.disk = max(self.disk, size_of(self.folder))
            spilled = sum(size_of(f) for f in self.folder.glob("*/spilled"))
            self.spilled = max(self.spilled, spilled)
            time.sleep(.1)


def read(way: str, folder: Path, memory: str, threads: int) -> dict: # what came out, and its cost
    "In this process; `memory` and `threads` are for DuckDB."
    began, cpu, watch = time.perf_counter(), time.process_time(), None
    if way == "in memory":
        rules = CleanSettings()
        p = clean(read_amazon(folder, 2023, CATEGORIES, DOMAINS), rules)
        p = p.select(cut_windows(p, rules)[1])
    else:
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            watch = Watch(Path(scratch))
            watch.start()
            limit = MemorySettings(memory, threads, scratch)
            p = sequences_within(folder, 2023, CATEGORIES, DOMAINS, limit=limit)
    user = np.unique(p.user, return_inverse=True)[1] + 1
    row = {"seconds": round(time.perf_counter() - began, 1),
           "cpu seconds": round(time.process_time() - cpu, 1),
           "lines": p.lines, "left": len(user), "check": int((user * (p.time % 10_007)).sum()),
           "peak GiB": peak_gib()}
    if watch:
        row |= {"disk GiB": round(watch.disk, 2), "spilled GiB": round(watch.spilled, 2)}
    return row


def measured(way: str, folder: Path, n: int, options) -> dict: # a row of the table
    "In a process of its own."
    command = [sys.executable, __file__, "--read", way, "--folder", folder,
               "--memory", options.memory, "--threads", str(options.threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True,
                          env=os.environ | {"TQDM_DISABLE": "1"})
    row = {"way": way, "reviews": n} | json.loads(done.stdout)
    print(row, flush=True)
    return row


def exponent(rows: list, what: str) -> float:
    "The slope of time against size, both as logarithms."
    x, y = (np.log([r[key] for r in rows]) for key in ("reviews", what))
    return round(float(np.polyfit(x, y, 1)[0]), 2)


def main(options) -> None:
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder or None) as tmp:
        for k, millions in enumerate(options.millions.split(",")):
            n, folder = round(float(millions) * 1e6), Path(tmp)/"parquet"
            write_parquet(folder, n)
            if k == 0:
                write_json(Path(tmp)/"json", folder)
                rows += [measured(way, Path(tmp)/"json", n, options)
                         for way in ("in memory", "json lines")]
            rows.append(measured("parquet", folder, n, options))
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
            report(rows, options)


def report(rows: list, options) -> None:
    "Keep what is known so far."
    today, lines, *parquet = rows
    if len(parquet) == 1: # no slope yet
        return
    assert today["check"] == lines["check"] == parquet[0]["check"], "the same purchases are left"
    finish("bigraw", [{k: v for k, v in row.items() if k != "check"} for row in rows],
           today["cpu seconds"] / lines["cpu seconds"],
           ratio_means="processor time on the same JSON lines, reader in memory over DuckDB",
           memory=options.memory, threads_of_duckdb=options.threads,
           exponent=exponent(parquet, "cpu seconds"),
           exponent_of_seconds=exponent(parquet, "seconds"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", default="1,3,10")
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", default="", help="for files; they are deleted")
    parser.add_argument("--read", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read:
        print(json.dumps(read(given.read, Path(given.folder), given.memory, given.threads)))
    else:
        main(given)
