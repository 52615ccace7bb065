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
    def run(*args, cwd=None, wait=True, seconds=600):
        command = [Path(sys.executable).parent/"llm-emf", *map(str, args)]
        process = subprocess.Popen(command, cwd=cwd, text=True, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE,
                                   env=os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "100"})
        if not wait:
            return process
        try:
            out, err = process.communicate(timeout=seconds)
        finally:
            process.kill() # where the time was up
        return process.returncode, out, err
    return run


@pytest.fixture
def here(capsys, monkeypatch, tmp_path):
    "Run the command in this process, which saves the time of imports. Same result as `cli`."
    from llm_emf.cli import main
    def run(*args):
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()
        code = main([str(a) for a in args])
        return code, *capsys.readouterr()
    return run


@pytest.fixture(scope="session")
def launch():
    "Run a script in one process or in several (gloo, on the CPU); what it printed."
    def run(n, script, *args):
        # `accelerate launch` would start several CPU processes through MPI only
        several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n)]
        command = [sys.executable, *(several if n > 1 else []), *map(str, (script, *args))]
        env = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=env)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout
    return run


def sample_of(items, sequences):
    "The first 400, 60 and 60 sequences of train, valid and test, and the items in them."
    import numpy as np
    import pandas as pd
    parts = [sequences[sequences["split"] == s].head(n)
             for s, n in (("train", 400), ("valid", 60), ("test", 60))]
    sequences = pd.concat(parts, ignore_index=True)
    used = np.unique(np.concatenate(sequences["items"].to_numpy()))
    return items[items["item"].isin(used)], sequences


@pytest.fixture(scope="session")
def real_sample(tmp_path_factory):
    "A folder with a sample of real Amazon sequences; skipped where the data are not at hand."
    if not REAL.exists():
        pytest.skip("the real data are not at hand")
    import pandas as pd
    tables = [pd.read_parquet(REAL/f"{name}.parquet") for name in ("items", "sequences")]
    items, sequences = sample_of(*tables)
    folder = tmp_path_factory.mktemp("data")/"food-kitchen-sample"
    folder.mkdir()
    items.to_parquet(folder/"items.parquet")
    sequences.to_parquet(folder/"sequences.parquet")
    return folder
