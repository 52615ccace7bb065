"The rules that hold the house together."
import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def module_number(path): # nbs/04a_small_clip.ipynb → (4, "a")
    m = re.match(r"(\d+)([a-z]?)_", path.name)
    return int(m[1]), m[2]


def test_modules_import_lower_numbers_only_and_no_stars():
    number = {}
    for nb in sorted((ROOT/"nbs").glob("[0-9]*.ipynb")):
        exported = re.search(r"default_exp (\w+)", nb.read_text(encoding="utf-8"))[1]
        number[exported] = module_number(nb)
    for module, own in number.items():
        for node in ast.walk(ast.parse((ROOT/"llm_emf"/f"{module}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.names[0].name != "*", f"{module} imports a star"
                other = node.module if node.level == 1 else (node.module or "").removeprefix("llm_emf.")   # `from .core` or `from llm_emf.core`
                if other in number:
                    assert number[other] < own, f"{module} (notebook {own}) imports {other} (notebook {number[other]})"


def test_nothing_is_unpickled_or_evaluated():
    for path in (ROOT/"llm_emf").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ("eval", "exec", "pickle.load", "pickle.loads", "torch.load", "pd.read_pickle"), f"{path.name}:{node.lineno} calls {name}"


def test_every_public_parameter_of_the_command_line_is_documented():
    from fastcore.docments import docments
    from llm_emf.cli import COMMANDS
    for command in COMMANDS:
        for name, doc in docments(command, returns=False).items(): assert doc, f"{command.__name__} --{name}"


def test_no_machine_paths_in_what_is_committed():
    text = [*(ROOT/"nbs").glob("*.ipynb"), *(ROOT/"llm_emf").glob("*.py"), ROOT/"README.md"]
    for path in text: assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users)/\w", path.read_text(encoding="utf-8")), path.name


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, ROOT], check=True)
    return next(out.glob("*.whl"))


def test_wheel_brings_what_it_needs_and_is_small(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for needed in ("llm_emf/core.py", "llm_emf/assets/llm-emf-small.safetensors", "llm_emf/assets/shop_smollm2.parquet", "llm_emf/notebooks/08_train.ipynb"): assert needed in names, needed
    assert wheel.stat().st_size < 25e6


def test_installed_wheel_runs_without_the_clone(wheel, tmp_path):
    "Unpacked alone, away from the repository, the package imports, finds its notebooks and simulates its shop."
    zipfile.ZipFile(wheel).extractall(tmp_path/"site")
    code = "import llm_emf, llm_emf.cli as c; assert 'site' in llm_emf.__file__; assert 'notebooks' in str(c.notebook_folder()); c.main(['prepare', '--profile', 'smoke', '--out', 'r']); print(len(c.numbered_notebooks()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path/"site"), "PATH": ""}, capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout.split()[-1]) >= 13, done.stderr


def test_every_notebook_is_a_page_of_the_site():
    sidebar = (ROOT/"_quarto.yml").read_text(encoding="utf-8")
    for path in (ROOT/"nbs").glob("*.ipynb"): assert path.name in sidebar, f"{path.name} is missing in _quarto.yml"
