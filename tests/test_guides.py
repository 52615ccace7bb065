"""The code of README and guides works as it stands: pasted into a fresh namespace, in an empty
folder. The pages that show the repository's own figures run in their own folder instead."""
import ast
import dataclasses
import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GUIDES = ROOT/"nbs"/"guides"
AT_HOME = ("results", "measured", "promises") # read benchmarks/results/, or are about failures
SLOW = ("own_vectors", "reproduce_a_table", "get_started") # more than five seconds each
COMMANDS = ("own_data", "get_started") # pages whose commands run here


def cells_of(page):
    text = (GUIDES/f"{page}.ipynb").read_text(encoding="utf-8")
    return [(c["cell_type"], "".join(c["source"])) for c in json.loads(text)["cells"]]


def code_of(page): # as a reader pastes it, cell after cell
    return "\n\n".join(source for kind, source in cells_of(page) if kind == "code")


def prose_of(page):
    return "\n\n".join(source for kind, source in cells_of(page) if kind == "markdown")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)


def commands_of(text): # llm-emf's, of blocks marked sh; what needs a server is marked bash
    lines = "\n".join(blocks(text, "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("llm-emf ")]


PAGES = sorted(p.stem for p in GUIDES.glob("*.ipynb") if code_of(p.stem))


def marked(names):
    return [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in names]


@pytest.fixture
def paste(tmp_path, monkeypatch):
    "Run code in a fresh namespace and an empty folder."
    def run(code, folder=tmp_path):
        monkeypatch.chdir(folder)
        monkeypatch.setenv("MPLBACKEND", "Agg")
        # a module of its own, in which dataclasses and pickling find their names
        monkeypatch.setitem(sys.modules, "pasted", module := type(sys)("pasted"))
        exec(compile(code, "pasted", "exec"), module.__dict__)
    return run


@pytest.mark.parametrize("page", marked(PAGES))
def test_code_works_as_it_stands(page, paste, tmp_path):
    paste(code_of(page), GUIDES if page in AT_HOME else tmp_path)


def test_code_of_the_readme_works_as_it_stands(paste):
    found = blocks((ROOT/"README.md").read_text(encoding="utf-8"), "python")
    assert found
    paste("\n".join(found))


@pytest.mark.parametrize("page", marked(COMMANDS))
def test_commands_work_as_they_stand(page, paste, here, request):
    if page == "own_data":
        paste(code_of(page))
    found = [c for c in commands_of(prose_of(page)) if page in SLOW or c[1] != "reproduce"]
    assert found
    for command in found:
        code, _, err = here(*command[1:])
        assert code == 0, (command, err[-2000:])


def test_each_command_named_in_a_guide_exists():
    from typer.main import get_command
    from llm_emf.cli import app
    known = get_command(app).commands
    text = "\n".join(prose_of(p.stem) for p in GUIDES.glob("*.ipynb"))
    text += (ROOT/"README.md").read_text(encoding="utf-8")
    named = re.findall(r"(?:^|`)llm-emf ([a-z]+)((?: [^`\n]*)?)", text, flags=re.M)
    assert len(named) > 20
    for command, rest in named:
        assert command in known, f"llm-emf {command}"
        options = {o for p in known[command].params for o in p.opts + p.secondary_opts}
        for option in re.findall(r"(?<=\s)--[a-z][a-z-]*", rest):
            assert option in options, f"llm-emf {command} {option}"


def test_a_method_takes_twenty_lines():
    first = next(s for kind, s in cells_of("add_your_own_method") if kind == "code")
    lines = [line for line in first.splitlines() if line.strip()]
    assert "Method" in first and len(lines) <= 22, len(lines)


# the page of paper and code

def public_names(): # of the library: functions, classes, and methods as Class.method
    found = set()
    for path in (ROOT/"llm_emf").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(node.name)
                if getattr(node, "args", None) and node.args.args and node.decorator_list:
                    if annotation := node.args.args[0].annotation:
                        found.add(f"{ast.unparse(annotation)}.{node.name}")
    return found


def test_functions_and_tests_of_the_paper_page_exist():
    text, names = prose_of("paper_to_code"), public_names()
    equations = text.partition("## Equations")[2].partition("## Settings")[0]
    named = {n for row in equations.splitlines() if row.startswith("|")
             for n in re.findall(r"`((?:\w+\.)?[A-Za-z_]+)`", row.split(" | ")[2:3][0] if
                                 len(row.split(" | ")) > 3 else "")} - {"model.id_embedding"}
    assert len(named) >= 15
    assert named <= names, named - names
    tests = re.findall(r"`(tests/\w+\.py)(?:::(\w+))?`", text)
    assert len(tests) >= 8
    for file, name in tests:
        assert f"def {name}" in (ROOT/file).read_text(encoding="utf-8"), f"{file}::{name}"
    for file in re.findall(r"`(benchmarks/\w+\.py)`", text):
        assert (ROOT/file).exists(), file


def test_defaults_of_the_paper_page_are_those_of_the_code():
    modules = {"LLMSettings": "llm", "ClipSettings": "clip", "ModelSettings": "model",
               "Task": "task"}
    rows = re.findall(r"`(\w+)\.(\w+)` = `([^`]+)`", prose_of("paper_to_code"))
    assert len(rows) >= 18
    for owner, name, said in rows:
        kind = getattr(importlib.import_module(f"llm_emf.{modules[owner]}"), owner)
        default = {f.name: f.default for f in dataclasses.fields(kind)}[name]
        assert str(default) == said, f"{owner}.{name} is {default}"


# the same in an environment of its own

@pytest.mark.slow
def test_readme_and_guides_in_an_empty_environment(tmp_path):
    "A new environment with the wheel and the extras that the pages name; no clone in reach."
    venv, pip = tmp_path/"venv", [tmp_path/"venv"/"bin"/"pip", "install", "-q"]
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pinned = ["-c", ROOT/"constraints.txt"]
    subprocess.run([*pip, *pinned, "torch"], check=True)
    subprocess.run([*pip, *pinned, f"{ROOT}[server,serve,offline,export]"], check=True)
    readme = blocks((ROOT/"README.md").read_text(encoding="utf-8"), "python")
    scripts = {p: code_of(p) for p in PAGES if p not in AT_HOME} | {"readme": "\n".join(readme)}
    for page, code in scripts.items():
        folder = tmp_path/page
        folder.mkdir()
        (folder/"pasted.py").write_text(code, encoding="utf-8")
        done = subprocess.run([venv/"bin"/"python", "pasted.py"], cwd=folder, text=True,
                              capture_output=True, env={"MPLBACKEND": "Agg", "PATH": "/usr/bin",
                                   "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, (page, done.stderr[-2000:])
