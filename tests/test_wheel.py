"""The wheel in an environment of its own, away from the repository, by the lines of the README."""
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from urllib.request import urlopen

import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent
ALONE = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}


def readme_lines(): # of the block that recommends
    "The commands, each as a list of words."
    blocks = re.findall("```sh\n(.*?)```", (ROOT/"README.md").read_text(encoding="utf-8"), re.S)
    (block,) = [b for b in blocks if "llm-emf recommend" in b]
    return [shlex.split(line, comments=True) for line in block.splitlines()]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    "The folder of a new environment's commands. Its other packages are those of this one."
    tmp = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp, ROOT],
                   check=True)
    venv.create(tmp/"env", with_pip=False, symlinks=True)
    bin = tmp/"env"/("Scripts" if os.name == "nt" else "bin")
    subprocess.run([*pip, "--python", bin/"python", "install", "-q", "--no-deps", "--no-index",
                    next(tmp.glob("*.whl"))], check=True, env=ALONE)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([bin/"python", "-c", where], capture_output=True, text=True, check=True)
    # this environment's packages behind the new one's; their own .pth files are not read
    Path(own.stdout.strip(), "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return bin


@pytest.mark.slow
def test_the_lines_of_the_readme_work_without_the_repository(installed, tmp_path):
    bought = ["SF00000155", "SK00001104"]
    pd.DataFrame({"user": [1, 1, 2], "item": [*bought, bought[0]]}).to_parquet(
        tmp_path/"users.parquet")

    def start(words, **more):
        return subprocess.Popen([installed/words[0], *words[1:]], cwd=tmp_path, env=ALONE,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    where = start(["python", "-c", "import llm_emf; print(llm_emf.__file__)"]).communicate()[0]
    assert Path(where.strip()).is_relative_to(installed.parent)
    said = {}
    *lines, serve = readme_lines()
    for words in lines:
        process = start(words)
        said[words[1]], errors = process.communicate(timeout=600)
        assert process.returncode == 0, (words, errors[-2000:])
    recs = pd.read_parquet(tmp_path/"recs.parquet")
    assert recs.groupby("user").size().tolist() == [10, 10] and recs["title"].ne("").all()
    assert not set(recs["asin"][recs["user"] == 1]) & set(bought)
    assert len(said["similar"].splitlines()) == 11
    assert "rank" in said["explain"] and "memory" in said["explain"]
    assert serve[:2] == ["llm-emf", "serve"]
    process = start([*serve[:-1], "0"]) # a free port
    try:
        address = re.search(r"http://\S+", process.stdout.readline())[0]
        assert b"<html" in urlopen(address, timeout=60).read()
        assert b'"status":"ok"' in urlopen(f"{address}health", timeout=60).read()
    finally:
        process.send_signal(2)
        assert process.wait(60) == 0
