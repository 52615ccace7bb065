"Tuning: kills, two processes at one file, what is missing, and settings that become defaults."
import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("optuna")

SMALL = ["--settings", "epochs=1 layers=1 hidden=32 batch_tokens=4096"]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    "A prepared run of sixty users of the shop, profile quick, whose tuned settings count."
    from llm_emf.cli import main
    out = tmp_path_factory.mktemp("runs")/"small"
    knobs = "users=60 items=60 pictures=0"
    assert main(["prepare", "--out", str(out), "--profile", "quick", "--knobs", knobs]) == 0
    return out


def tune(run, file, *more):
    return ["tune", "--out", run, "--method", "id", "--file", file, "--device", "cpu", *SMALL,
            *more]


def results(file, method="id"):
    "The trials of a method, without what they cost."
    from llm_emf.tune import read_trials
    trials = read_trials(file, {"method": method})
    return [(t.trial, t.settings, t.state, t.mrr, t.curve) for t in trials]


@pytest.fixture(scope="module")
def undisturbed(small_run, tmp_path_factory):
    from llm_emf.cli import main
    file = tmp_path_factory.mktemp("tuning")/"shop.jsonl"
    assert main([str(a) for a in tune(small_run, file, "--trials", "6")]) == 0
    return results(file)


def test_two_trials_and_then_six_are_the_six_of_an_undisturbed_tuning(
        here, small_run, undisturbed, tmp_path):
    file = tmp_path/"shop.jsonl"
    assert here(*tune(small_run, file, "--trials", "2"))[0] == 0
    assert results(file) == undisturbed[:2]
    code, out, _ = here(*tune(small_run, file, "--trials", "6"))
    assert code == 0 and results(file) == undisturbed
    assert f"Figure: {small_run}/tuning.png" in out and "best settings" in out
    assert len(undisturbed) == 6 and undisturbed[0][1]["d"] == 64


def test_a_killed_tuning_goes_on_where_it_was(cli, small_run, undisturbed, tmp_path):
    file = tmp_path/"shop.jsonl"
    process = cli(*tune(small_run, file, "--trials", "6"), wait=False)
    end = time.monotonic() + 120
    while time.monotonic() < end and not (file.exists() and file.read_bytes().count(b"\n")):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert file.exists() and results(file)
    with open(file, "ab") as f:
        f.write(b'{"dataset": "shop", "content": ')       # as if the kill had come while writing
    code, out, err = cli(*tune(small_run, file, "--trials", "6"))
    assert code == 0 and "is no trial; it is left out, and stays in the file" in out, err
    assert [r[:3] for r in results(file)] == [r[:3] for r in undisturbed]
    assert all(abs(a[3] - b[3]) < 1e-6 for a, b in zip(results(file), undisturbed))


WRITE = """
import sys
from llm_emf.tune import Trial, append_trial
for n in range(200):
    append_trial(sys.argv[1], Trial({"method": sys.argv[2]}, n, {"d": n}, "complete", 0.5,
                                    [0.1] * 100, 0, 0.0, 1, "cpu"))
"""


def test_lines_of_two_processes_do_not_mix(tmp_path):
    file = tmp_path/"shop.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", WRITE, str(file), name])
               for name in ("a", "b")]
    assert [w.wait(timeout=120) for w in writers] == [0, 0]
    found = [json.loads(line) for line in file.read_text().splitlines()]
    for name in ("a", "b"):
        assert [t["trial"] for t in found if t["method"] == name] == list(range(200))
    assert len(found) == 400


WITHOUT = """
import sys
sys.modules["optuna"] = None
from llm_emf import cli, methods, task, tune
sys.exit(cli.main(sys.argv[1:]))
"""


def test_without_optuna_one_line_says_what_to_install(small_run, tmp_path):
    "And everything else can be imported and run."
    args = [str(a) for a in tune(small_run, tmp_path/"t.jsonl")]
    done = subprocess.run([sys.executable, "-c", WITHOUT, *args], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("llm-emf: ")]
    assert said == ['llm-emf: tuning needs Optuna; install it with: pip install "llm-emf[tune]"']
    train = ["train", "--out", str(small_run), "--method", "popularity"]
    assert subprocess.run([sys.executable, "-c", WITHOUT, *train], timeout=120).returncode == 0


@pytest.mark.parametrize("args, said", [
    (("--method", "popularity"), "popularity has no search space"),
    (("--method", "gpt"), "unknown method 'gpt'"),
    (("--method", "haf-vt"), "llm-emf encode --text title --out"),
    (("--settings", "colour=red"), "there is no setting 'colour'")])
def test_what_is_wrong_is_said_before_the_first_trial(here, small_run, tmp_path, args, said):
    code, _, err = here("tune", "--out", small_run, "--method", "id", "--file",
                        tmp_path/"t.jsonl", *args)
    assert code == 1 and said in err and not (tmp_path/"t.jsonl").exists()


def test_saved_settings_are_the_defaults_of_the_data_set(here, small_run, tmp_path, monkeypatch):
    "Only of methods with enough trials; the manifest of a training shows them."
    from llm_emf.task import tuned_settings
    from llm_emf.tune import append_trial, best_trial, read_trials
    (tmp_path/"assets").mkdir()
    (tmp_path/"assets"/"tuned.json").write_text("{}")
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    file = tmp_path/"shop.jsonl"
    late = here(*tune(small_run, file, "--minutes", "0", "--save"))
    assert late[0] == 0 and "no method: not enough trials" in late[1] and tuned_settings() == {}
    assert here(*tune(small_run, file, "--trials", "1"))[0] == 0
    first, = read_trials(file)
    better = {**vars(first), "trial": 1, "mrr": 0.99, "settings": first.settings | {"d": 32}}
    append_trial(file, type(first)(**better))
    code, out, _ = here(*tune(small_run, file, "--trials", "2", "--save"))
    assert code == 0 and "Saved as defaults: id" in out
    assert best_trial(read_trials(file)).settings["d"] == 32
    assert "d=32 " in tuned_settings()["shop"]["id"]
    for words, d in (("epochs=1", 32), ("epochs=1 d=16", 16)):
        assert here("train", "--out", small_run, "--method", "id", "--settings", words)[0] == 0
        manifest = json.loads((small_run/"train-id"/"manifest.json").read_text())
        assert manifest["key"]["settings"]["settings"]["model"]["d"] == d


def test_neighbours_are_tuned_without_the_search_of_their_own(here, small_run, tmp_path):
    file = tmp_path/"shop.jsonl"
    code, out, err = here("tune", "--out", small_run, "--method", "item-knn-order", "--file", file,
                          "--trials", "3")
    assert code == 0, err
    from llm_emf.tune import read_trials
    trials = read_trials(file)
    assert [t.about["always"] for t in trials] == ["trials=0"] * 3
    assert {t.state for t in trials} == {"complete"} and len({t.mrr for t in trials}) > 1
    assert all(t.epochs == 0 and t.curve == [] for t in trials)
