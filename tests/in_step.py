"""Are library and notebooks in step, and are the notebooks clean?

Works on a copy, so that a failure changes nothing.
"""
import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT, BIN = Path(__file__).parent.parent, Path(sys.executable).parent
# kernel-ipc-*: sockets of a papermill run that was killed
LEAVE_OUT = shutil.ignore_patterns(".venv", ".git", "runs", "_docs", "_proc", "__pycache__",
                                   "*.egg-info", "build", "dist", "kernel-ipc-*")


def differ(copy):
    "The files that export and cleaning change, make or remove."
    for folder, pattern in (("llm_emf", "*.py"), ("nbs", "**/*.ipynb")):
        ours = {p.relative_to(ROOT) for p in (ROOT/folder).glob(pattern)}
        theirs = {p.relative_to(copy) for p in (copy/folder).glob(pattern)}
        yield from ours ^ theirs
        for path in ours & theirs:
            if not filecmp.cmp(ROOT/path, copy/path, shallow=False):
                yield path


with tempfile.TemporaryDirectory() as tmp:
    copy = Path(tmp)/"copy"
    shutil.copytree(ROOT, copy, ignore=LEAVE_OUT)
    for command in ("nbdev_export", "nbdev_clean"):
        subprocess.run([BIN/command], cwd=copy, check=True)
    drifted = sorted(map(str, differ(copy)))
if drifted:
    sys.exit("not in step, or not clean; run `nbdev_export && nbdev_clean` and commit:\n  "
             + "\n  ".join(drifted))
print("notebooks and library are in step, notebooks are clean")
