"Fixtures: the shared smoke run, the command line, real data where they are at hand."
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
REAL = ROOT.parent/"shared"/"data"/"food-kitchen"


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory):
    "The folder of the smoke run that test_notebooks.py fills, notebook after notebook."
    from llm_emf.core import open_run
    return open_run(tmp_path_factory.mktemp("runs")/"smoke", "shop", "smoke", 0, "cpu").path


@pytest.fixture(scope="session")
def cli():
    "Run the installed console command in a process of its own."
    def run(*args, cwd=None, wait=True):
        command = [Path(sys.executable).parent/"llm-emf", *map(str, args)]
        process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
        if not wait: return process
        out, err = process.communicate(timeout=600)
        return process.returncode, out, err
    return run


@pytest.fixture(scope="session")
def real_sample(tmp_path_factory):
    "A sample of real Amazon sequences with titles, re-numbered; skipped where the data are not at hand."
    if not REAL.exists(): pytest.skip("the real data are not at hand")
    import numpy as np
    import pandas as pd
    items, sequences = pd.read_parquet(REAL/"items.parquet"), pd.read_parquet(REAL/"sequences.parquet")
    parts = [sequences[sequences["split"] == s].head(n) for s, n in (("train", 400), ("valid", 60), ("test", 60))]
    sequences = pd.concat(parts, ignore_index=True)
    used = np.unique(np.concatenate(sequences["items"].to_numpy()))
    folder = tmp_path_factory.mktemp("data")/"food-kitchen-sample"
    folder.mkdir()
    items[items["item"].isin(used)].to_parquet(folder/"items.parquet")
    sequences.to_parquet(folder/"sequences.parquet")
    return folder
