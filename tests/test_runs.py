"Skipping, resuming after SIGKILL, and the same ranks twice."
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

TRAIN = ("--method", "id", "--epochs", "6", "--device", "cpu")


RESULTS = ("model.safetensors", "ranks.parquet", "items.parquet", "purchases.parquet")


def digest(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.iterdir()) if p.name in RESULTS}


@pytest.fixture(scope="module")
def prepared(cli, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared")/"run"
    assert cli("prepare", "--dataset", "shop", "--profile", "smoke", "--out", out)[0] == 0
    return out


def test_same_seed_same_ranks_and_done_is_skipped(cli, prepared, tmp_path):
    found = []
    for name in ("a", "b"):
        out = tmp_path/name
        code, _, err = cli("prepare", "--profile", "smoke", "--out", out)
        assert code == 0, err
        for command in (("train", *TRAIN[:2], "--epochs", "2"), ("evaluate", "--method", "id")):
            code, _, err = cli(*command, "--out", out)
            assert code == 0, err
        found.append(digest(out/"evaluate-id") | digest(out/"train-id") | digest(out/"prepare"))
    assert len(found[0]) == 4 and found[0] == found[1]
    before = (tmp_path/"b"/"train-id"/"model.safetensors").stat().st_mtime_ns
    code, out, _ = cli("train", *TRAIN[:2], "--epochs", "2", "--out", tmp_path/"b")
    assert code == 0 and "skipped" in out
    assert (tmp_path/"b"/"train-id"/"model.safetensors").stat().st_mtime_ns == before


def files_of(run) -> dict: # path → hash; curves without their columns of time
    "What a run holds, but for logs and manifests, which name times, folders and versions."
    found = {}
    for file in sorted(run.rglob("*")):
        if file.name == "curve.csv":
            curve = pd.read_csv(file).drop(columns=["seconds", "targets per second"])
            found[file.relative_to(run)] = curve.to_csv()
        elif file.suffix in (".parquet", ".safetensors", ".csv", ".html"):
            found[file.relative_to(run)] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


@pytest.mark.slow # all notebooks twice
def test_two_whole_runs_with_one_seed_give_the_same_report(cli, tmp_path):
    found = []
    for name in ("a", "b"):
        out = tmp_path/name/"run"
        code, _, err = cli("reproduce", "--profile", "smoke", "--out", out, seconds=1800)
        assert code == 0, err
        found.append(files_of(out))
    assert found[0] == found[1]
    assert {"report.html", "results.csv", "ranks.parquet"} <= {path.name for path in found[0]}


def test_killed_training_resumes_to_the_same_weights(cli, prepared, tmp_path):
    whole, killed = tmp_path/"whole", tmp_path/"killed"
    shutil.copytree(prepared, whole)
    shutil.copytree(prepared, killed)
    assert cli("train", *TRAIN, "--out", whole)[0] == 0
    process = cli("train", *TRAIN, "--out", killed, wait=False)
    checkpoint, waited = killed/"train-id.partial"/"last.safetensors", time.monotonic()
    while not checkpoint.exists():
        assert process.poll() is None and time.monotonic() - waited < 120, "no checkpoint appeared"
        time.sleep(.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed/"train-id").exists(), "a killed stage leaves nothing under its final name"
    code, out, err = cli("train", *TRAIN, "--out", killed)
    assert code == 0 and "resumed at epoch" in out, err
    assert digest(whole/"train-id") == digest(killed/"train-id")
    curves = [pd.read_csv(folder/"train-id"/"curve.csv") for folder in (killed, whole)]
    assert len(curves[0]) == len(curves[1])


def test_a_refit_is_another_stage_and_learns_from_the_valid_targets(cli, prepared, tmp_path):
    out = tmp_path/"run"
    shutil.copytree(prepared, out)
    found = []
    for more in ((), ("--refit",), ("--refit",)):
        code, text, err = cli("train", "--method", "popularity", *more, "--out", out)
        assert code == 0, err
        found.append(int(np.load(out/"train-popularity"/"count.npy").sum()))
    assert "skipped" in text, "the same refit is not made twice"
    assert found[1] == found[2] == found[0] + 200, "a valid target of each of the 200 customers"


def test_a_run_folder_of_another_version_is_refused(cli, prepared, tmp_path):
    out = tmp_path/"old"
    shutil.copytree(prepared, out)
    text = (out/"run.json").read_text()
    (out/"run.json").write_text(text.replace('"format": 1', '"format": 0'))
    code, _, err = cli("prepare", "--profile", "smoke", "--out", out)
    assert code == 1 and "Traceback" not in err
    assert "another version of llm-emf" in err and "--out" in err


def test_every_method_trains_and_stands_in_the_report(tmp_path):
    from llm_emf.clip import ClipSettings, encode
    from llm_emf.core import open_run
    from llm_emf.data import prepare
    from llm_emf.enrich import enrich_catalogue
    from llm_emf.methods import METHODS
    from llm_emf.model import ModelSettings
    from llm_emf.report import write_results
    from llm_emf.task import evaluate_method, load_task, train_method
    run = open_run(tmp_path/"run", "shop", "smoke", 0, "cpu")
    prepare(run)
    enrich_catalogue(run)
    encode(run)
    encode(run, ClipSettings(text="title"))
    ranks = {}
    for name, method in METHODS.items():
        settings = method.default_settings(load_task(run), "smoke")
        if isinstance(getattr(settings, "model", None), ModelSettings):
            settings = method.change(settings, "d=16 hidden=16 layers=1 epochs=1")
        train_method(run, method, settings, refit=True)
        ranks[name] = pd.read_parquet(evaluate_method(run, method)/"ranks.parquet")["rank"]
    results = pd.read_csv(write_results(run)/"results.csv", keep_default_na=False)
    full = results[(results["protocol"] == "full") & (results["domain"] == "all")]
    mrr = full[full["metric"] == "mrr"]
    assert set(METHODS) <= set(mrr["method"]) and mrr["value"].between(0, 1).all()
    assert (ranks["llm-emf"] != ranks["haf-vt"]).any(), "titles and LLM text must differ"


OPEN = """
import sys
from llm_emf.core import open_run
print("ready", flush=True)
sys.stdin.readline()                            # all begin together
for k in range(300): open_run(f"{sys.argv[1]}/{k}", "shop", "smoke", 0, "cpu")
"""


def test_several_processes_open_one_run_at_once(tmp_path):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-c", OPEN, str(tmp_path)]
    processes = [subprocess.Popen(command, **pipes, text=True) for _ in range(3)]
    assert all(p.stdout.readline() == "ready\n" for p in processes)
    for p in processes:
        print("go", file=p.stdin, flush=True)
    for p in processes:
        _, err = p.communicate(timeout=120)
        assert p.returncode == 0, err
    for k in range(300):
        assert json.loads((tmp_path/str(k)/"run.json").read_text())["profile"] == "smoke"
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) == 300, "nothing half written is left"
