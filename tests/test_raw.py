"From raw files: killed at random moments and started again, the same bytes; ten thousand broken lines; the sample lines."
import hashlib
import random
import signal
import time

import pandas as pd
import pytest

from llm_emf.raw import BREAKS, write_raw
from llm_emf.shop import ShopSettings

SETTINGS = ShopSettings(users=2500, items=150)


def digest(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    return folder, write_raw(folder, SETTINGS, year=2014, broken=10_000)


def test_killed_at_random_moments_gives_the_same_bytes(cli, raw, tmp_path):
    command = ("prepare", "--dataset", "amazon2014:food-kitchen", "--profile", "smoke", "--source", raw[0])
    began = time.monotonic()
    code, _, err = cli(*command, "--out", tmp_path/"whole")
    assert code == 0, err
    whole, killed, rng = time.monotonic() - began, 0, random.Random(0)
    for _ in range(6):
        process = cli(*command, "--out", tmp_path/"killed", wait=False)
        time.sleep(whole * rng.uniform(.3, .95))
        if process.poll() is None: killed += 1
        process.send_signal(signal.SIGKILL)
        process.communicate()
    code, _, err = cli(*command, "--out", tmp_path/"killed")
    assert code == 0 and killed >= 3, err
    assert digest(tmp_path/"whole"/"prepare") == digest(tmp_path/"killed"/"prepare")


def test_ten_thousand_broken_lines_end_among_the_rejected(cli, raw, tmp_path):
    folder, spoilt = raw
    code, out, err = cli("prepare", "--dataset", "amazon2014:food-kitchen", "--profile", "smoke", "--source", folder, "--out", tmp_path/"run")
    assert code == 0, err
    rejected = pd.read_parquet(tmp_path/"run"/"prepare"/"rejected.parquet")
    assert len(spoilt) > 10_000 and spoilt["kind"].nunique() == len(BREAKS) >= 12
    assert set(zip(rejected["file"], rejected["line"])) == set(zip(spoilt["file"], spoilt["line"]))
    assert (rejected["reason"].str.len() > 3).all() and rejected["reason"].nunique() >= 9
    clean = tmp_path/"clean"
    write_raw(clean, SETTINGS, year=2014)
    code, _, err = cli("prepare", "--dataset", "amazon2014:food-kitchen", "--profile", "smoke", "--source", clean, "--out", tmp_path/"run2")
    assert code == 0, err
    assert len(pd.read_parquet(tmp_path/"run2"/"prepare"/"rejected.parquet")) == 0
    a, b = (pd.read_parquet(tmp_path/r/"prepare"/"purchases.parquet") for r in ("run", "run2"))
    assert len(a) > 1000 and a.equals(b), "the good lines are unharmed"
    assert not any(p.name == "PWNED" for p in tmp_path.rglob("*"))


def test_files_that_are_not_there_are_named(cli, tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"): monkeypatch.setenv(name, "http://127.0.0.1:9")   # no network for this test
    (tmp_path/"empty").mkdir()
    code, _, err = cli("prepare", "--dataset", "amazon2014:movie-book", "--source", tmp_path/"empty", "--out", tmp_path/"run")
    assert code == 1 and "reviews_Books_5.json.gz" in err and "--source" in err and "Traceback" not in err
