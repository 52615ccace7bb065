"Raw files within a memory limit: the same tables as from the reader in memory."
import filecmp
import gzip
import json
import os
import random
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from llm_emf.bigraw import MemorySettings, sequences_within
from llm_emf.core import InputError, open_run
from llm_emf.data import from_purchases, prepare
from llm_emf.fetch import PAIRS
from llm_emf.raw import raw_names, write_raw
from llm_emf.readers import CleanSettings, clean, read_amazon
from llm_emf.shop import ShopSettings

duckdb = pytest.importorskip("duckdb", reason="the extra `duckdb` is not installed")
CATEGORIES, DOMAINS = PAIRS["food-kitchen"]
LIMIT = MemorySettings("300MB", threads=1)
DAY = 86400
BROKEN = [b"", b"{", b"[1]", b"\xff\xfe", b"\x00" * 9, b'{"asin": "B1",}',
          b'{"reviewerID": "U1", "asin": "Y3", "unixReviewTime": 5}',
          b'{"reviewerID": "U1", "asin": "Y3", "unixReviewTime": "now"}',
          b'{"reviewerID": "U1", "reviewerID": "U2", "asin": "Y3", "unixReviewTime": 1e9}',
          b'{"reviewerID": "\\ud800", "asin": "Y3", "unixReviewTime": 1e9}',
          b'{"reviewerID": " ", "asin": "Y3", "unixReviewTime": 1e9}',
          '{"reviewerID": "Zoë", "asin": "Y3", "unixReviewTime": 1000000000.25}'.encode()]


def random_lines(rng, d): # of reviews of 2014; ties, duplicates, bots, an item of the other domain
    lines = []
    for k in range(1500):
        user = "bot" if rng.random() < .04 else f"U{int(90 * rng.random() ** 2)}"
        item = ("Y3" if rng.random() < .02 else f"{'XY'[d]}{int(40 * rng.random() ** 2)}")
        time = 10**9 + DAY * rng.randrange(20) ** 2 + rng.choice([0, 0, 0, 3600])
        review = {"reviewerID": user, "asin": item, "overall": 5.0, "unixReviewTime": time}
        lines.append(json.dumps(review).encode())
    for line in BROKEN:
        lines.insert(rng.randrange(len(lines)), line)
    return lines


def random_folder(folder, seed):
    "Both domains; some items have no title, some no metadata, some two lines."
    rng = random.Random(seed)
    folder.mkdir()
    for d, category in enumerate(CATEGORIES):
        reviews, meta = raw_names(2014, category)
        (folder/reviews.removesuffix(".gz")).write_bytes(b"\n".join(random_lines(rng, d)))
        items = [{"asin": f"{'XY'[d]}{k}", "title": "" if k == 7 else f"Item &amp; {k}"}
                 for k in range(38) for _ in range(1 + (k == 5))]
        items.insert(3, {"asin": f"{'XY'[d]}5", "title": "the first line counts"})
        with gzip.open(folder/meta, "wb") as file:
            file.write(b"\n".join(repr(o).encode() for o in items) + b"\n{'asin': 7}\n")
    return folder


def in_memory(folder, year, rules): # the data set, and the purchases with their steps
    p = read_amazon(folder, year, CATEGORIES, DOMAINS, rules.allow_damaged)
    return from_purchases("raw", clean(p, rules), rules)


def within(folder, year, rules):
    p = sequences_within(folder, year, CATEGORIES, DOMAINS, rules, LIMIT)
    return from_purchases("raw", p, rules)


def assert_same(folder, year, rules):
    (a, p), (b, q) = (read(folder, year, rules) for read in (in_memory, within))
    pd.testing.assert_frame_equal(a.items, b.items)
    for field in ("user", "item", "offset", "time"):
        one, two = getattr(a, field), getattr(b, field)
        assert one.dtype == two.dtype and np.array_equal(one, two), field
    assert p.steps == q.steps and p.lines == q.lines and len(a.user) > 3
    pd.testing.assert_frame_equal(p.rejected, q.rejected)
    return q


@pytest.mark.parametrize("rules", [
    CleanSettings(),
    CleanSettings(core_user=2, core_item=2, window_days=90, each_domain=1, titled=False),
    CleanSettings(core_user=12, core_item=9, core_user_each=4, window_days=0),
    CleanSettings(duplicates="keep", users="either", most_a_day=4, window_days=30, each_domain=1),
    CleanSettings(most_purchases=60, most_a_day=0, core_user_each=0, each_domain=2),
], ids=["default", "loose", "strict", "duplicates", "bots"])
def test_same_tables_as_in_memory(tmp_path, rules):
    for seed in range(2):
        found = assert_same(random_folder(tmp_path/str(seed), seed), 2014, rules)
        assert found.time.dtype == np.float64, "a line has a time with a fraction"
        assert len(found.rejected) >= 2 * 9


@pytest.mark.parametrize("year", [2018, 2023])
def test_same_tables_of_the_shop(tmp_path, year):
    write_raw(tmp_path/"raw", ShopSettings(users=500, items=150), year=year, broken=100)
    found = assert_same(tmp_path/"raw", year, CleanSettings())
    assert found.time.dtype == (np.float64 if year == 2023 else np.int64)


def test_a_damaged_archive(tmp_path):
    write_raw(tmp_path, ShopSettings(users=500, items=150), year=2014)
    file = tmp_path/raw_names(2014, CATEGORIES[1])[0]
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(InputError, match="is damaged: after"):
        within(tmp_path, 2014, CleanSettings())
    assert_same(tmp_path, 2014, CleanSettings(allow_damaged=True))


def test_nothing_is_left_and_nothing_is_read(tmp_path):
    rules = CleanSettings(core_user=1000)
    random_folder(tmp_path/"raw", 0)
    for read in (in_memory, within):
        with pytest.raises(InputError, match="no purchase is left after cleaning"):
            read(tmp_path/"raw", 2014, rules)
    for category in CATEGORIES:
        name = raw_names(2014, category)[0].removesuffix(".gz")
        (tmp_path/"raw"/name).write_bytes(b"nothing\n")
    for read in (in_memory, within):
        with pytest.raises(InputError, match="not one review could be read"):
            read(tmp_path/"raw", 2014, rules)


def test_the_stage_prepare_gives_the_same_files(tmp_path, monkeypatch):
    scratch = tmp_path/"scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    write_raw(tmp_path/"raw", ShopSettings(users=500, items=150), year=2014, broken=100)
    folders = []
    for memory in ("", "300MB"):
        run = open_run(tmp_path/f"run{memory}", "amazon2014:food-kitchen", "smoke", 0, "cpu")
        folders.append(prepare(run, source=str(tmp_path/"raw"),
                               clean_settings=CleanSettings(memory=memory)))
    names = sorted(p.name for p in folders[0].iterdir())
    assert filecmp.cmpfiles(*folders, [n for n in names if n != "manifest.json"],
                            shallow=False)[1:] == ([], [])
    assert len(names) >= 8 and not list(scratch.iterdir()), "temporary files are gone"
    assert prepare(run, source=str(tmp_path/"raw")) == folders[1], "a limit changes no result"


def test_without_duckdb_the_option_names_what_to_install(tmp_path):
    (tmp_path/"duckdb.py").write_text("raise ImportError\n")
    main = "import sys; from llm_emf.cli import main; sys.exit(main(sys.argv[1:]))"
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", main, "prepare", "--dataset",
                           "amazon2014:food-kitchen", "--memory", "4GB", "--out", tmp_path/"run"],
                          capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 1
    assert done.stderr.strip() == ('llm-emf: a memory limit needs DuckDB: pip install '
                                   '"llm-emf[duckdb]"')
