"Stale and damaged stages are refused, one process makes a stage at a time, core imports no torch."
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from llm_emf.core import InputError, open_run, run_stage, stage_command, stage_summary


def prepare(run, how):
    def make(folder):
        (folder/"split.txt").write_text(how)
        (folder/"items.txt").write_text("a b c")
    return run_stage(run, "prepare", make, {"split": how})


def encode(run):
    def make(folder):
        items = (run.stage("prepare")/"items.txt").read_text()
        (folder/"vectors.txt").write_text(items.upper())
    return run_stage(run, "encode", make, inputs=[run.stage("prepare")/"items.txt"])


def train(run, epochs=1):
    def make(folder):
        split = (run.stage("prepare")/"split.txt").read_text()
        (folder/"model.txt").write_text(f"trained on {split} for {epochs}")
    inputs = [run.stage("prepare"), run.stage("encode")]
    return run_stage(run, "train-id", make, {"epochs": epochs}, inputs)


def evaluate(run):
    def make(folder):
        split = (run.stage("prepare")/"split.txt").read_text()
        (folder/"ranks.txt").write_text((run.stage("train-id")/"model.txt").read_text() + split)
    return run_stage(run, "evaluate-id", make, inputs=[run.stage("prepare"), run.stage("train-id")])


@pytest.fixture
def run(tmp_path):
    run = open_run(tmp_path/"run", "shop", "smoke", 0, "cpu")
    prepare(run, "by-user")
    encode(run)
    train(run)
    return run


def test_a_model_of_another_split_is_not_evaluated(run):
    prepare(run, "leave-one-out")
    with pytest.raises(InputError) as e:
        evaluate(run)
    assert str(e.value) == (
        "train-id is stale: prepare/split.txt has changed since it was made.\n"
        "Run again, with the options used before: "
        f"llm-emf train --method id --out {run.path}, "
        f"then llm-emf evaluate --method id --out {run.path}")
    assert not run.stage("evaluate-id").exists() and not run.stage("evaluate-id.partial").exists()
    train(run)
    assert "leave-one-out" in (evaluate(run)/"ranks.txt").read_text()


def test_a_finished_evaluation_of_a_stale_model_is_not_taken_for_done(run, capsys):
    evaluate(run)
    prepare(run, "leave-one-out")
    with pytest.raises(InputError, match="train-id is stale"):
        evaluate(run)
    prepare(run, "by-user")                     # as it was: everything holds again
    capsys.readouterr()
    evaluate(run)
    assert capsys.readouterr().out == "evaluate-id: done before, skipped\n"


def test_a_stage_that_reads_one_file_is_not_stale_by_another(run):
    prepare(run, "leave-one-out")               # the items are the same
    train(run)                                  # reads encode, which was made from the items alone
    evaluate(run)


def test_what_is_stale_far_back_is_found(run):
    (run.path/"answers.txt").write_text("1")    # a file of the run that is no stage
    def enrich():
        return run_stage(run, "enrich", lambda folder: (folder/"t.txt").write_text("t") and {},
                         inputs=[run.path/"answers.txt"])
    enrich()
    run_stage(run, "train-tex", lambda folder: {}, inputs=[run.stage("enrich")])
    (run.path/"answers.txt").write_text("2")
    with pytest.raises(InputError, match="enrich is stale: answers.txt has changed") as e:
        run_stage(run, "evaluate-tex", lambda folder: {}, inputs=[run.stage("train-tex")])
    commands = [stage_command(n, run) for n in ("enrich", "train-tex", "evaluate-tex")]
    assert ", then ".join(commands) in str(e.value)
    enrich()                                    # gives the same text: what was made from it holds
    run_stage(run, "evaluate-tex", lambda folder: {}, inputs=[run.stage("train-tex")])


@pytest.mark.parametrize("spoil", [
    lambda f: (f/"model.txt").write_text("edited"),
    lambda f: (f/"model.txt").unlink(),
    lambda f: (f/"more.txt").write_text("added"),
    lambda f: (f/"manifest.json").write_text('{"key": '),
    lambda f: (f/"manifest.json").write_bytes(b"\xff\xfe\x00"),
    lambda f: (f/"manifest.json").write_text("{}"),
], ids=["edited", "removed", "added", "half a manifest", "no text", "an empty manifest"])
def test_a_damaged_stage_is_refused_and_its_command_mends_it(run, spoil):
    spoil(run.stage("train-id"))
    with pytest.raises(InputError, match="train-id is damaged") as e:
        evaluate(run)
    assert f"llm-emf train --method id --out {run.path}" in str(e.value)
    assert str(e.value).count("\n") <= 1
    train(run)
    evaluate(run)


def test_hidden_files_do_no_damage(run):
    (run.stage("train-id")/".DS_Store").write_text("left by a file browser")
    evaluate(run)


def test_a_missing_stage_is_named_with_its_command(run):
    other = open_run(run.path.parent/"other", "shop", "smoke", 0, "cpu")
    with pytest.raises(InputError, match="is not there. Run first: llm-emf prepare --out") as e:
        evaluate(other)
    assert str(e.value).endswith(f"--out {other.path} --profile smoke"), "the command must work"
    prepare(other, "by-user")
    with pytest.raises(InputError, match="Run first: llm-emf train --method id --out"):
        evaluate(other)


def test_inputs_outside_the_run_folder_are_as_they_were(run, tmp_path):
    "Also one that is called like a stage, and one that is a stage of another run."
    outside = tmp_path/"prepare"
    outside.mkdir()
    (outside/"raw.txt").write_text("1")
    other = open_run(tmp_path/"other", "shop", "smoke", 0, "cpu")
    def make(folder): return {"made": (outside/"raw.txt").read_text()}
    for text in ("1", "2"):
        (outside/"raw.txt").write_text(text)
        folder = run_stage(run, "train-x", make, inputs=[outside, run.stage("encode")])
        assert stage_summary(folder) == {"made": text}
        run_stage(other, "train-y", make, inputs=[run.stage("prepare"), run.stage("encode")])
        prepare(run, f"split {text}")
    run_stage(run, "evaluate-x", make, inputs=[run.stage("train-x")])
    run_stage(other, "evaluate-y", make, inputs=[other.stage("train-y")])


def test_runs_of_earlier_versions_are_checked_too(run):
    from llm_emf.core import read_json, write_json
    for name in ("prepare", "encode", "train-id"):
        file = run.stage(name)/"manifest.json"
        write_json(file, {k: v for k, v in read_json(file).items() if k != "outside"})
    evaluate(run)
    prepare(run, "leave-one-out")
    with pytest.raises(InputError, match="train-id is stale"):
        evaluate(run)


HOLD = """
import multiprocessing, os, sys, time
from llm_emf.core import open_run, run_stage
def make(folder):
    if sys.argv[2] == "fork":
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        worker.start()
        print("worker", worker.pid, flush=True)
    print("holds", flush=True)
    sys.stdin.readline()
    (folder/"made.txt").write_text(str(os.getpid()))
run_stage(open_run(sys.argv[1], "shop", "smoke", 0, "cpu"), "train-id", make)
"""


def holder(run, how=""):
    "A process that makes the stage train-id until it is told to go on."
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run.path), how], text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    worker = int(process.stdout.readline().split()[1]) if how == "fork" else None
    assert process.stdout.readline() == "holds\n"
    return process, worker


def make_here(run):
    def make(folder):
        (folder/"made.txt").write_text(str(os.getpid()))
    return (run_stage(run, "train-id", make)/"made.txt").read_text()


def test_one_process_makes_a_stage_at_a_time(tmp_path, capsys):
    run = open_run(tmp_path/"run", "shop", "smoke", 0, "cpu")
    process, _ = holder(run)
    with pytest.raises(InputError, match=rf"another process \(pid {process.pid}\) is making .*"
                                         r"\n?.*Wait .* choose another folder with --out"):
        make_here(run)
    assert open_run(run.path, "shop", "smoke", 0, "cpu") == run, "opening needs no lock"
    prepare(run, "by-user")                     # another stage of the same run is free
    process.communicate("go\n", timeout=60)
    assert process.returncode == 0
    assert make_here(run) == str(process.pid), "what the other process made holds"
    assert "train-id: done before, skipped" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["", "fork"], ids=["alone", "with a forked worker"])
def test_a_killed_process_frees_its_stage(tmp_path, how):
    run = open_run(tmp_path/"run", "shop", "smoke", 0, "cpu")
    process, worker = holder(run, how)
    process.send_signal(signal.SIGKILL)
    process.wait()
    try:
        assert make_here(run) == str(os.getpid())
    finally:
        if worker:
            os.kill(worker, signal.SIGKILL)
        process.stdin.close()
        process.stdout.close()


def test_an_exception_frees_its_stage(tmp_path):
    run = open_run(tmp_path/"run", "shop", "smoke", 0, "cpu")
    with pytest.raises(ZeroDivisionError):
        run_stage(run, "train-id", lambda folder: 1 / 0)
    assert make_here(run) == str(os.getpid())


def test_core_imports_nothing_heavy():
    heavy = {"torch", "torchvision", "numpy", "pandas", "transformers", "open_clip", "matplotlib"}
    code = f"import sys, llm_emf.core; sys.exit(str(sorted({heavy} & set(sys.modules)) or ''))"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "", done.stderr
    assert time.monotonic() - began < 2, "torch alone takes that long"


def passes(here, *args):
    code, _, err = here(*args)
    assert code == 0, err


def test_llm_emf_evaluate_refuses_a_model_of_another_split(cli, here, tmp_path):
    "The stages themselves, by the command line."
    out = ("--out", tmp_path/"run")
    train = ("train", "--method", "id", "--epochs", "1", *out)
    passes(here, "prepare", "--profile", "smoke", "--split", "by-user", *out)
    passes(here, *train)
    passes(here, "prepare", "--profile", "smoke", "--split", "leave-one-out", *out)
    code, _, err = cli("evaluate", "--method", "id", *out)
    assert code == 1 and "train-id is stale: prepare/" in err and "Traceback" not in err
    assert f"llm-emf train --method id --out {tmp_path/'run'}" in err
    assert not list((tmp_path/"run").glob("evaluate-*"))
    passes(here, *train)
    passes(here, "evaluate", "--method", "id", *out)


TRAIN = ("train", "--epochs", "1", "--d", "16", "--settings", "hidden=16 layers=1")
EVALUATE = ("evaluate", "--method", "llm-emf")


@pytest.fixture(scope="module")
def encoded_run(tmp_path_factory):
    "The folder of a small LLM-EMF and its evaluation, real stages."
    from llm_emf.cli import main
    out = ("--out", str(tmp_path_factory.mktemp("runs")/"encoded"))
    for args in (("prepare", "--profile", "smoke"), ("enrich",), ("encode",), TRAIN, EVALUATE):
        assert main([*args, *out]) == 0, args
    return out[1]


@pytest.mark.parametrize("options", [("--settings", "dtype=float16"), ("--text", "llm")],
                         ids=["another number format", "another text"])
def test_features_encoded_anew_make_the_model_stale(here, encoded_run, options, tmp_path):
    run = tmp_path/"run"
    shutil.copytree(encoded_run, run)
    out = ("--out", run)
    passes(here, *EVALUATE, *out)
    passes(here, "encode", *options, *out)
    code, _, err = here(*EVALUATE, *out)
    assert code == 1 and "train-llm-emf is stale: encode/" in err
    assert f"llm-emf train --method llm-emf --out {run}" in err
    passes(here, *TRAIN, *out)
    passes(here, *EVALUATE, *out)


def test_the_report_refuses_ranks_of_a_stale_model(here, encoded_run, tmp_path):
    from llm_emf.report import collect_ranks
    run = open_run(tmp_path/"run", "shop", "smoke", 0, "cpu")
    shutil.copytree(encoded_run, run.path, dirs_exist_ok=True)
    assert list(collect_ranks(run)) == ["llm-emf"]
    passes(here, "prepare", "--profile", "smoke", "--split", "by-user", "--out", run.path)
    with pytest.raises(InputError, match="stale") as e:
        collect_ranks(run)
    assert f"llm-emf train --method llm-emf --out {run.path}" in str(e.value)


def test_titles_encoded_for_other_methods_do_no_harm(here, encoded_run, tmp_path):
    run = tmp_path/"run"
    shutil.copytree(encoded_run, run)
    passes(here, "encode", "--text", "title", "--out", run)
    code, said, _ = here(*EVALUATE, "--out", run)
    assert code == 0 and "evaluate-llm-emf: done before, skipped" in said


def test_half_written_files_of_a_killed_process_are_removed(tmp_path):
    "Ours and those of safetensors (found by a kill in the middle of a checkpoint)."
    run = open_run(tmp_path/"run", "shop", "smoke", 0, "cpu")

    def killed(folder):
        for name in (".tmpPW03SX", ".x.json.1.aside", "checkpoint"):
            (folder/name).write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        run_stage(run, "s", killed, {})
    found = run_stage(run, "s", lambda folder: None, {})
    assert {f.name for f in found.iterdir()} - {".started.json"} == {"checkpoint", "manifest.json"}
