"Importing the package loads nothing heavy."
import json
import subprocess
import sys

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
