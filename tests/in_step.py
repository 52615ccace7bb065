"Are library and notebooks in step, and are the notebooks clean? Works on a copy, so that a failure changes nothing."
import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

root, bin = Path(__file__).parent.parent, Path(sys.executable).parent
with tempfile.TemporaryDirectory() as tmp:
    copy = Path(tmp)/"copy"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns(".venv", ".git", "runs", "_docs", "_proc", "__pycache__", "*.egg-info", "build", "dist", "kernel-ipc-*"))   # sockets of a papermill run that was killed
    subprocess.run([bin/"nbdev_export"], cwd=copy, check=True)
    subprocess.run([bin/"nbdev_clean"], cwd=copy, check=True)
    drifted = [str(p.relative_to(root)) for part, pattern in (("llm_emf", "*.py"), ("nbs", "*.ipynb")) for p in sorted((root/part).glob(pattern))
               if not (copy/p.relative_to(root)).exists() or not filecmp.cmp(p, copy/p.relative_to(root), shallow=False)]
    drifted += [str(p.relative_to(copy)) for p in (copy/"llm_emf").glob("*.py") if not (root/p.relative_to(copy)).exists()]
if drifted: sys.exit("not in step, or not clean; run `nbdev_export && nbdev_clean` and commit:\n  " + "\n  ".join(drifted))
print("notebooks and library are in step, notebooks are clean")
