"The rules of the repository's structure: imports, sizes of cells, widths of lines, pages, wheel."
import ast
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT/"nbs").glob("[0-9]*.ipynb"))
MODULES = sorted((ROOT/"llm_emf").glob("*.py"))
GUIDES = sorted((ROOT/"nbs"/"guides").glob("*.ipynb"))


def name(path):
    return path.name


def module_number(path): # nbs/04a_small_clip.ipynb → (4, "a")
    m = re.match(r"(\d+)([a-z]?)_", path.name)
    return int(m[1]), m[2]


def imported_module(node): # of `from .core import …` or `from llm_emf.core import …`
    return node.module if node.level == 1 else (node.module or "").removeprefix("llm_emf.")


def test_modules_import_lower_numbers_only_and_no_stars():
    number = {}
    for path in NOTEBOOKS:
        exported = re.search(r"default_exp (\w+)", path.read_text(encoding="utf-8"))[1]
        number[exported] = module_number(path)
    for module, own in number.items():
        source = (ROOT/"llm_emf"/f"{module}.py").read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom):
                assert node.names[0].name != "*", f"{module} imports a star"
                other = imported_module(node)
                if other in number:
                    assert number[other] < own, (f"{module} (notebook {own}) imports "
                                                 f"{other} (notebook {number[other]})")


def test_nothing_is_unpickled_or_evaluated():
    forbidden = ("eval", "exec", "pickle.load", "pickle.loads", "torch.load", "pd.read_pickle")
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in forbidden, f"{path.name}:{node.lineno} calls {called}"


def test_a_notebook_that_runs_leaves_the_library_as_it_is():
    "`llm-emf reproduce` and the tests run the notebooks while other processes import the library."
    for path in NOTEBOOKS + GUIDES:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            called = cell["cell_type"] == "code" and "nbdev_export()" in "".join(cell["source"])
            assert not called, f"{path.name} exports when it is run"


def without_all(source):
    "Numbered lines of a module, without the block of names that nbdev generates."
    generated = range(0)
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            generated = range(node.lineno, node.end_lineno + 1)
    return [(n, line) for n, line in enumerate(source.splitlines(), 1) if n not in generated]


@pytest.mark.parametrize("path", [p for p in MODULES if p.name != "_modidx.py"], ids=name)
def test_lines_of_the_library_are_at_most_100_wide(path):
    lines = without_all(path.read_text(encoding="utf-8"))
    wide = [f"{path.name}:{n} ({len(line)})" for n, line in lines if len(line) > 100]
    assert not wide, wide


def exported_cells(path): # (number of the cell, source)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for n, cell in enumerate(cells):
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and re.search(r"^#\s*\|\s*exports?\b", source, re.M):
            yield n, source


def code_lines(source): # neither blank nor a comment
    return [line for line in source.splitlines()
            if line.strip() and not line.lstrip().startswith("#")]


def definitions(source): # names of functions and classes, methods added by @patch included
    return [node.name for node in ast.parse(source).body
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]


def test_definitions_are_counted_as_meant():
    source = "def a(): pass\n\n# a comment\n@patch\ndef _b(self: D): pass\nclass D:\n  x = 1\n"
    assert definitions(source) == ["a", "_b", "D"] and len(code_lines(source)) == 5


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_cell_holds_one_public_definition_of_at_most_60_lines(path):
    for n, source in exported_cells(path):
        found = definitions(source)
        public = [d for d in found if not d.startswith("_")]
        assert len(public) <= 1, f"{path.name}, cell {n} defines {public}"
        length = len(code_lines(source))
        assert length <= 60, f"{path.name}, cell {n} has {length} lines"


def test_names_of_methods_are_safe_in_a_shell_and_a_path():
    from llm_emf.methods import METHODS
    from llm_emf.model import VARIANTS
    assert set(VARIANTS) < set(METHODS)
    for key, method in METHODS.items():
        assert key == method.name and re.fullmatch("[a-z0-9-]+", key), key


def test_no_machine_paths_in_what_is_committed():
    machine = re.compile(r"(?<![\w.])/(home|root|tmp|work|Users)/\w")
    for path in [*(ROOT/"nbs").glob("**/*.ipynb"), *MODULES, ROOT/"README.md"]:
        assert not machine.search(path.read_text(encoding="utf-8")), path.name


@pytest.mark.parametrize("path", [ROOT/"nbs"/"index.ipynb", *NOTEBOOKS, *GUIDES], ids=name)
def test_every_notebook_is_a_page_of_the_site(path):
    sidebar = (ROOT/"_quarto.yml").read_text(encoding="utf-8").partition("sidebar:")[2]
    page = path.relative_to(ROOT/"nbs").as_posix()
    assert re.search(rf"(?<![\w/]){re.escape(page)}", sidebar), f"{page} is missing in _quarto.yml"


def test_the_citation_has_the_version_of_the_package():
    import llm_emf
    citation = (ROOT/"CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {llm_emf.__version__}\n" in citation
    assert "132228" in citation and citation.count("family-names") == 8


def test_no_address_is_a_placeholder():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    pages = [p for p in listed.splitlines() if p.startswith(("nbs/", ".github/"))]
    for name in ["settings.ini", "CITATION.cff", "README.md", "CONTRIBUTING.md", *pages]:
        text = (ROOT/name).read_bytes()
        assert not re.search(rb"maintainers@|your-?(name|org|user)/", text), name


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps",
                    "--no-build-isolation", "-w", out, ROOT], check=True)
    return next(out.glob("*.whl"))


def test_wheel_brings_what_it_needs_and_is_small(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for needed in ("core.py", "assets/llm-emf-small.safetensors", "assets/shop_smollm2.parquet",
                   "notebooks/08_train.ipynb", "py.typed", "recommend.pyi"):
        assert f"llm_emf/{needed}" in names, needed
    assert wheel.stat().st_size < 25e6


ALONE = """
import llm_emf, llm_emf.cli as c
assert 'site' in llm_emf.__file__
assert 'notebooks' in str(c.notebook_folder())
assert c.main(['prepare', '--profile', 'smoke', '--out', 'r']) == 0
print(len(c.numbered_notebooks()))
"""


def test_installed_wheel_runs_without_the_clone(wheel, tmp_path):
    "Unpacked alone, away from the repository, the package imports and simulates its shop."
    zipfile.ZipFile(wheel).extractall(tmp_path/"site")
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, capture_output=True,
                          env={"PYTHONPATH": str(tmp_path/"site"), "PATH": ""}, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) == len(NOTEBOOKS) - 2, "all but tuning and command line"
