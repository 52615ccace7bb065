"The command line: help worth reading, and errors that say what to do."
import numpy as np
import pandas as pd
import pytest

from llm_emf.cli import COMMANDS


@pytest.mark.parametrize("command", [c.__name__ for c in COMMANDS])
def test_help(cli, command):
    code, out, _ = cli(command, "--help")
    assert code == 0 and "--out" in out and len(out) > 180


def test_help_lists_the_commands(cli):
    code, out, _ = cli("--help")
    assert code == 0 and all(c.__name__ in out for c in COMMANDS)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    data = tmp_path/"data"
    data.mkdir()
    pd.DataFrame({"item": np.arange(40), "domain": np.where(np.arange(40) < 20, "a", "b"), "title": [f"thing {k}" for k in range(40)]}).to_parquet(data/"items.parquet")
    pd.DataFrame({"user": [f"u{k}" for k in range(30)], "items": [rng.integers(0, 40, 6).tolist() for _ in range(30)]}).to_parquet(data/"sequences.parquet")
    return data


def edit(folder, file, change):
    table = pd.read_parquet(folder/file)
    change(table).to_parquet(folder/file)


def set_items(table, row, value):
    lists = table["items"].tolist()
    lists[row] = value
    return table.assign(items=lists)


CASES = {
    "missing column": (lambda f: edit(f, "items.parquet", lambda t: t.drop(columns="title")), ["items.parquet lacks the column 'title'"]),
    "item outside the catalogue": (lambda f: edit(f, "sequences.parquet", lambda t: set_items(t, 7, [1, 99])), ["row 7 (user u7)", "item 99 is not in the catalogue of 40 items"]),
    "empty sequence": (lambda f: edit(f, "sequences.parquet", lambda t: set_items(t, 3, [])), ["row 3 (user u3)", "empty"]),
    "unsorted sequence": (lambda f: edit(f, "sequences.parquet", lambda t: t.assign(times=[[1, 2, 3, 4, 5, 6]] * 29 + [[1, 2, 9, 4, 5, 6]])), ["row 29 (user u29)", "not in order of time (position 3)"]),
    "missing file": (lambda f: (f/"sequences.parquet").unlink(), ["sequences.parquet is missing"]),
    "not parquet": (lambda f: (f/"items.parquet").write_text("hello"), ["items.parquet cannot be read as parquet"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_data(cli, folder, tmp_path, case):
    spoil, said = CASES[case]
    spoil(folder)
    code, _, err = cli("reproduce", "--dataset", folder, "--profile", "smoke", "--out", tmp_path/"run")
    assert code == 1 and "Traceback" not in err
    for text in said: assert text in err, err


def test_good_data_pass(cli, folder, tmp_path):
    code, _, err = cli("prepare", "--dataset", folder, "--profile", "smoke", "--out", tmp_path/"run")
    assert code == 0, err


def test_bad_options(cli, folder, tmp_path):
    (tmp_path/"file").write_text("in the way")
    (tmp_path/"full").mkdir()
    (tmp_path/"full"/"thesis.txt").write_text("precious")
    for args, said in [(("prepare", "--dataset", tmp_path/"nowhere"), "there is no such folder"), (("prepare", "--out", tmp_path/"file"/"run"), "cannot be written"),
                       (("prepare", "--out", tmp_path/"full"), "is not a run folder"), (("prepare", "--profile", "huge", "--out", tmp_path/"r"), "unknown profile"),
                       (("train", "--out", tmp_path/"no"), "is no run folder"), (("prepare", "--dataset", folder, "--split", "given", "--out", tmp_path/"s"), "use leave-one-out")]:
        code, _, err = cli(*args, cwd=tmp_path)
        assert code == 1 and said in err and "Traceback" not in err, (args, err)
    assert cli("train", "--out", tmp_path/"s", "--variant", "gpt")[0] == 1
