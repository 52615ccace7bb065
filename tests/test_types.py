"Types pass mypy (its settings: pyproject.toml), and importing the package loads nothing heavy."
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

HEAVY = ("torch", "pandas", "numpy", "transformers", "open_clip", "fastapi", "matplotlib")
IMPORT = f"""
import json, sys, time
began = time.perf_counter()
import llm_emf
print(json.dumps([time.perf_counter() - began, [m for m in {HEAVY} if m in sys.modules]]))
"""


def test_importing_the_package_takes_no_time():
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True)
    seconds, heavy = json.loads(done.stdout)
    assert heavy == [] and seconds < 3 # it takes some ms


def test_types_of_the_library():
    pytest.importorskip("mypy")
    done = subprocess.run([sys.executable, "-m", "mypy", "-p", "llm_emf"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
