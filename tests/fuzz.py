"""Fuzz the readers and the parser of LLM answers: `make fuzz`, or python tests/fuzz.py 60 FOLDER.

It runs the generated faults of faults/test_fault_generated.py with new examples until the time is
over: no error but `InputError`, no example of more than 20 s, no more than 8 GiB of memory. What
fails is kept in FOLDER and tried first the next time; put it into tests/faults as a case."""
import faulthandler
import json
import os
import resource
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

HANG, MEMORY = 20, 8 << 30 # seconds of one example; bytes


def watched(inner, counts, name):
    "The test of one example: counted, and ended with a traceback of all threads if it hangs."
    def one(*args, **kwargs):
        counts[name] += 1
        faulthandler.dump_traceback_later(HANG, exit=True)
        try:
            return inner(*args, **kwargs)
        finally:
            faulthandler.cancel_dump_traceback_later()
    return one


def fuzz(minutes, folder):
    "Take turns between the tests; what was run and what failed."
    os.environ["LLM_EMF_FUZZ"] = str(folder/"examples")
    sys.path.insert(0, str(Path(__file__).parent/"faults"))
    import test_fault_generated as generated
    tests = {k: v for k, v in vars(generated).items() if hasattr(v, "hypothesis")}
    examples, failures, seconds = Counter(), {}, Counter()
    for name, test in tests.items():
        test.hypothesis.inner_test = watched(test.hypothesis.inner_test, examples, name)
    ends = time.monotonic() + 60 * minutes
    while time.monotonic() < ends:
        for name, test in tests.items():
            began = time.monotonic()
            try:
                test()
            except BaseException as e: # also several at once
                if isinstance(e, KeyboardInterrupt):
                    raise
                failures[name] = "".join(traceback.format_exception(e))
                print(name, failures[name], flush=True)
            seconds[name] += time.monotonic() - began
            if time.monotonic() > ends:
                break
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        done = {"examples": dict(examples), "failing tests": list(failures), "peak MiB": peak,
                "seconds": {k: round(v) for k, v in seconds.items()}}
        (folder/"counts.json").write_text(json.dumps(done, indent=1))
    return done


if __name__ == "__main__":
    minutes, folder = float((sys.argv + ["60"])[1]), Path((sys.argv + ["", "fuzz"])[2] or "fuzz")
    folder.mkdir(parents=True, exist_ok=True)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    found = fuzz(minutes, folder)
    print(json.dumps(found, indent=1))
    sys.exit(bool(found["failing tests"]))
