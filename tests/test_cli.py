"The command line: help worth reading, and errors that say what to do."
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import typer

from llm_emf.cli import app

COMMANDS = typer.main.get_command(app).commands
RUN_FOLDER = [name for name in COMMANDS if name != "methods"]


@pytest.mark.parametrize("command", RUN_FOLDER)
def test_help(cli, command):
    code, out, err = cli(command, "--help")
    assert code == 0, err
    assert ("--out" in out or "--run" in out) and len(out) > 180
    assert f"Example: llm-emf {command} " in out


def test_help_lists_the_commands(cli):
    code, out, _ = cli("--help")
    assert code == 0 and all(f"  {name} " in out for name in COMMANDS)
    assert cli("-h")[1] == out and "llm-emf reproduce" in out
    assert cli()[1] + cli()[2] == out, "without a command: the same help"


def test_every_option_is_documented_and_has_hyphens():
    for name, command in COMMANDS.items():
        for option in command.params:
            said = option.help or isinstance(option.show_default, str)
            assert said, f"{name} {option.opts[0]} has neither a help text nor a default in words"
            for spelt in option.opts:
                assert re.fullmatch("--[a-z]+(-[a-z]+)*|-[a-z]", spelt), f"{name} {spelt}"


def test_an_example_uses_options_that_are_there():
    for name in RUN_FOLDER:
        example = COMMANDS[name].help.partition("Example: ")[2]
        used = re.findall(r"--[\w-]+", example)
        known = {o for option in COMMANDS[name].params for o in option.opts}
        assert used and set(used) <= known, f"{name}: {example}"


def test_version(cli):
    import llm_emf
    assert cli("--version")[:2] == (0, f"llm-emf {llm_emf.__version__}\n")


def test_methods_lists_all_methods(cli):
    from llm_emf.methods import METHODS
    code, out, _ = cli("methods")
    lines = out.splitlines()
    assert code == 0 and [line.split()[0] for line in lines] == list(METHODS)
    assert all(m.label in line for m, line in zip(METHODS.values(), lines))


def test_help_comes_at_once():
    "Best of five; the limit is for a process of its own, Python's start included."
    command = [Path(sys.executable).parent/"llm-emf", "--help"]
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < .5, seconds


def test_the_command_line_imports_nothing_heavy():
    heavy = {"torch", "torchvision", "numpy", "pandas", "transformers", "matplotlib", "papermill"}
    code = ("import sys; from llm_emf.cli import app, main; main(['train', '--help']); "
            f"sys.exit(str(sorted({heavy} & set(sys.modules)) or ''))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "", done.stderr


def test_notebooks_that_run_at_the_same_time_do_not_share_sockets(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python"}
    nbformat.write(notebook, tmp_path/"one.ipynb")
    code = ("import sys; from llm_emf.cli import run_notebook; "
            "run_notebook('one.ipynb', sys.argv[1], {})")
    running = [subprocess.Popen([sys.executable, "-c", code, f"out{k}.ipynb"], cwd=tmp_path,
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
               for k in range(4)]
    for process in running:
        error = process.communicate(timeout=120)[1]
        assert process.returncode == 0, error
    assert not list(tmp_path.glob("kernel-*")), "sockets are left behind"


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    data = tmp_path/"data"
    data.mkdir()
    domain = np.where(np.arange(40) < 20, "a", "b")
    items = pd.DataFrame({"item": np.arange(40), "domain": domain,
                          "title": [f"thing {k}" for k in range(40)]})
    items.to_parquet(data/"items.parquet")
    bought = [rng.integers(0, 40, 6).tolist() for _ in range(30)]
    sequences = pd.DataFrame({"user": [f"u{k}" for k in range(30)], "items": bought})
    sequences.to_parquet(data/"sequences.parquet")
    return data


def test_an_error_in_a_process_of_its_own_is_the_same(cli, here, folder, tmp_path):
    table = pd.read_parquet(folder/"sequences.parquet")
    lists = [[] if k == 3 else bought for k, bought in enumerate(table["items"])]
    table.assign(items=lists).to_parquet(folder/"sequences.parquet")
    args = ("reproduce", "--dataset", folder, "--profile", "smoke", "--out", tmp_path/"run")
    assert cli(*args) == here(*args)


def test_good_data_pass(cli, folder, tmp_path):
    code, _, err = cli("prepare", "--dataset", folder, "--profile", "smoke",
                       "--out", tmp_path/"run")
    assert code == 0, err


@pytest.fixture(scope="module")
def prepared(cli, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")/"prepared"
    code, _, err = cli("prepare", "--profile", "smoke", "--out", out)
    assert code == 0, err
    return out


MISSING = { # arguments → what the message says; RUN is the run folder
    "train without a run": (("train",), "none", "llm-emf prepare --out FOLDER"),
    "train": (("train", "--method", "id"), "begun", "llm-emf prepare --out RUN"),
    "evaluate": (("evaluate", "--method", "id"), "begun", "llm-emf prepare --out RUN"),
    "enrich": (("enrich",), "begun", "llm-emf prepare --out RUN"),
    "pictures": (("pictures",), "begun", "llm-emf prepare --out RUN"),
    "encode": (("encode",), "begun", "llm-emf prepare --out RUN"),
    "encode before enrich": (("encode",), "prepared", "llm-emf enrich --out RUN"),
    "train before encode": (("train",), "prepared", "llm-emf encode --out RUN"),
    "train before encode of titles": (("train", "--method", "haf-vt"), "prepared",
                                      "llm-emf encode --text title --out RUN"),
    "evaluate before train": (("evaluate", "--method", "id"), "prepared",
                              "llm-emf train --method id --out RUN"),
}


@pytest.mark.parametrize("case", MISSING)
def test_a_missing_stage_is_named_with_the_command_that_makes_it(here, prepared, tmp_path, case):
    from llm_emf.core import open_run
    open_run(tmp_path/"begun", "shop", "smoke", 0, "cpu")
    args, which, said = MISSING[case]
    out = prepared if which == "prepared" else tmp_path/which
    code, _, err = here(*args, "--out", out)
    assert code == 1 and said.replace("RUN", str(out)) in err, (args, err)
    made = [p.name for p in out.iterdir() if p.is_dir()] if out.exists() else []
    assert made == ["prepare"] * (which == "prepared"), "nothing is half made"


def test_a_report_without_ranks_names_the_commands_that_make_some(cli, prepared):
    code, _, err = cli("report", "--out", prepared)
    assert code == 1 and f"{prepared} holds no ranks yet. Run llm-emf train --method" in err


def test_errors_do_not_depend_on_the_terminal(cli, tmp_path):
    "A message is plain text that a program can search, in a narrow window too."
    command = [Path(sys.executable).parent/"llm-emf", "train", "--out", "no-such-run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True,
                          env=os.environ | {"COLUMNS": "30", "FORCE_COLOR": "1"})
    assert done.returncode == 1 and "\x1b" not in done.stderr
    assert done.stderr.startswith("llm-emf: no-such-run is no run folder.")


@pytest.fixture(scope="module")
def with_neighbours(prepared):
    "The prepared run, with item-kNN trained."
    from llm_emf.core import open_run
    from llm_emf.methods import find_method
    from llm_emf.task import train_method
    train_method(open_run(prepared, "shop", "smoke", 0, "cpu"), find_method("item-knn"))
    return prepared


def test_recommend_similar_explain(here, with_neighbours, tmp_path):
    "The three commands on one run: the first of `recommend` is what `explain` calls rank 1."
    how = ("--run", with_neighbours, "--method", "item-knn")
    users, recs = tmp_path/"users.parquet", tmp_path/"recs.parquet"
    bought = ["SF00000155", "SK00001104", "SF00000139"]
    pd.DataFrame({"user": ["u1"] * 3 + ["u2"], "item": [*bought, bought[0]]}).to_parquet(users)
    code, out, err = here("recommend", *how, "--users", users, "--out", recs, "--k", 3,
                          "--domain", "kitchen")
    assert code == 0 and out.strip() == str(recs), err
    found = pd.read_parquet(recs)
    assert found["user"].tolist() == ["u1"] * 3 + ["u2"] * 3
    assert found["rank"].tolist() == [1, 2, 3] * 2 and found["asin"].str.startswith("SK").all()
    code, out, err = here("explain", "--run", with_neighbours, # the only method is the default
                          "--history", ",".join(bought), "--item", found["asin"][0])
    assert code == 0 and "rank 1 in kitchen" in out and all(a in out for a in bought), err
    code, out, err = here("similar", *how, "--item", bought[0], "--by", "bought-together", "--k", 2)
    assert code == 0 and len(out.splitlines()) == 3, err


WRONG = { # arguments after --run and --method → the message
    "no users": (("recommend", "--out", "r.parquet"), "needs --users FILE.parquet"),
    "no such file": (("recommend", "--users", "none.parquet", "--out", "r.parquet"),
                     "none.parquet cannot be read as parquet"),
    "an unknown item": (("similar", "--item", "S?"), "asin 'S?' is not in the catalogue"),
    "by pictures": (("similar", "--item", "SF00000155", "--by", "picture"), "not by 'picture'"),
    "nobody": (("explain", "--item", "SF00000155"), "either --user or --history"),
    "an unknown user": (("explain", "--user", "x", "--item", "SF00000155"),
                        "user 'x' is not in the run's data"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_question_is_refused(here, with_neighbours, case):
    (command, *args), said = WRONG[case]
    code, _, err = here(command, "--run", with_neighbours, "--method", "item-knn", *args)
    assert code == 1 and said in err, err
