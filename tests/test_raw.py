"From raw files: killed and started again, the same bytes; ten thousand broken lines."
import hashlib
import random
import shutil
import signal
import time

import pandas as pd
import pytest

from llm_emf.raw import BREAKS, write_raw
from llm_emf.shop import ShopSettings

SETTINGS = ShopSettings(users=2500, items=150)
COMMAND = ("prepare", "--dataset", "amazon2014:food-kitchen", "--profile", "smoke", "--source")


def digest(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    return folder, write_raw(folder, SETTINGS, year=2014, broken=10_000)


def kill_when(process, seconds): # whether it was still running
    time.sleep(seconds)
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return running


@pytest.mark.parametrize("kills", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_killed_at_random_moments_gives_the_same_bytes(cli, raw, tmp_path, kills):
    command, began = (*COMMAND, raw[0]), time.monotonic()
    code, _, err = cli(*command, "--out", tmp_path/"whole")
    assert code == 0, err
    whole, rng = time.monotonic() - began, random.Random(0)
    killed = 0
    for _ in range(kills):
        process = cli(*command, "--out", tmp_path/"killed", wait=False)
        if kill_when(process, whole * rng.uniform(.3, .95)):
            killed += 1
        else: # the machine is faster than at first; begin again and kill earlier
            shutil.rmtree(tmp_path/"killed")
            whole *= .6
    code, _, err = cli(*command, "--out", tmp_path/"killed")
    assert code == 0 and killed >= kills / 2, err
    assert digest(tmp_path/"whole"/"prepare") == digest(tmp_path/"killed"/"prepare")


def test_ten_thousand_broken_lines_end_among_the_rejected(cli, raw, tmp_path):
    folder, spoilt = raw
    code, _, err = cli(*COMMAND, folder, "--out", tmp_path/"run")
    assert code == 0, err
    rejected = pd.read_parquet(tmp_path/"run"/"prepare"/"rejected.parquet")
    assert len(spoilt) > 10_000 and spoilt["kind"].nunique() == len(BREAKS) >= 12
    found, expected = (set(zip(t["file"], t["line"])) for t in (rejected, spoilt))
    assert found == expected
    assert (rejected["reason"].str.len() > 3).all() and rejected["reason"].nunique() >= 9
    write_raw(tmp_path/"clean", SETTINGS, year=2014)
    code, _, err = cli(*COMMAND, tmp_path/"clean", "--out", tmp_path/"run2")
    assert code == 0, err
    assert len(pd.read_parquet(tmp_path/"run2"/"prepare"/"rejected.parquet")) == 0
    a, b = (pd.read_parquet(tmp_path/r/"prepare"/"purchases.parquet") for r in ("run", "run2"))
    assert len(a) > 1000 and a.equals(b), "the good lines are unharmed"
    assert not any(p.name == "PWNED" for p in tmp_path.rglob("*"))


def test_files_that_are_not_there_are_named(cli, tmp_path, monkeypatch):
    "Without a network: a proxy that nobody answers."
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (tmp_path/"empty").mkdir()
    code, _, err = cli("prepare", "--dataset", "amazon2014:movie-book",
                       "--source", tmp_path/"empty", "--out", tmp_path/"run")
    assert code == 1 and "Traceback" not in err
    assert "reviews_Books_5.json.gz" in err and "--source" in err
