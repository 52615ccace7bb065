"""Each stage is killed (SIGKILL), run by two processes at once, and out of disk at random points,
then resumed: the same bytes as undisturbed but for times, and nothing lost. A few points in
`make test`, 25 a stage and more in `make test-slow`."""
import hashlib
import json
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pandas as pd
import pytest

from llm_emf.core import stream

pytest.importorskip("openai")
pytest.importorskip("optuna")
from llm_emf.tune import read_trials  # noqa: E402
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")

STAGES = { # stage → its command; {run} and {url} are filled in
    "prepare": "prepare --dataset shop --profile smoke --knobs items=64,users=150 --out {run}",
    "enrich": "enrich --out {run} --base-url {url} --model fake --limit 40 --backend concurrency=2",
    "encode": "encode --out {run} --device cpu",
    "train": "train --out {run} --method llm-emf --device cpu --settings "
             "d=16,hidden=16,layers=1,epochs=2,batch_tokens=256,save_minutes=0",
    "evaluate": "evaluate --out {run} --method llm-emf --device cpu",
    "tune": "tune --out {run} --method id --trials 2 --file {run}/../tuning/shop.jsonl "
            "--device cpu --settings epochs=1,layers=1,hidden=16,batch_tokens=4096",
}
# A process that has imported everything and forks a child for each command, so that a kill comes
# while a stage works and not while Python imports. Several jobs of one line run at once.
FORKS = r"""
import json, os, resource, signal, sys, time, traceback
from llm_emf.core import repair_torchvision
repair_torchvision()
import llm_emf.abxi, llm_emf.cli, llm_emf.clip, llm_emf.data, llm_emf.enrich, llm_emf.methods
import llm_emf.report, llm_emf.tune, open_clip, openai, optuna

def work(job, log):
    os.dup2(log, 1), os.dup2(log, 2)
    if "limit" in job:                 # writing beyond so many bytes of a file fails
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], resource.RLIM_INFINITY))
    try:
        code = llm_emf.cli.main(job["args"])
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)

def run(jobs):
    pids, found, begin = {}, {}, time.monotonic()
    logs = [os.pipe() for _ in jobs]   # a file of its own would hit the limit
    while len(found) < len(jobs):
        now = time.monotonic() - begin
        for k, job in enumerate(jobs):
            start = job.get("start", 0)
            if k not in pids and now >= start:
                pids[k] = os.fork() or work(job, logs[k][1])
            if k in pids and k not in found:
                if "kill" in job and now >= start + job["kill"]:
                    os.kill(pids[k], signal.SIGKILL)
                pid, status = os.waitpid(pids[k], os.WNOHANG)
                if pid:
                    os.set_blocking(logs[k][0], False)
                    said = os.read(logs[k][0], 1 << 16) if select(logs[k][0]) else b""
                    found[k] = [os.waitstatus_to_exitcode(status), now - start, said.decode()]
        time.sleep(0.001)
    for end in sum(logs, ()):
        os.close(end)
    return [found[k] for k in range(len(jobs))]

def select(end): # whether there is something to read
    import select
    return select.select([end], [], [], 0)[0]

print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps(run(json.loads(line))), flush=True)
"""


class FakeLLM(BaseHTTPRequestHandler):
    "An OpenAI-compatible server whose answer depends on the question alone."
    def log_message(self, *a):
        pass

    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        title = re.search(rb'.*title\W+(\w[\w ]+)', asked)[1].decode()
        answer = json.dumps({"terms": [hashlib.md5(asked).hexdigest()[:6]],
                             "summary": f"{title} for a kitchen"})
        self.server.asked.append(asked)
        body = json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "fake",
                           "choices": [{"index": 0, "finish_reason": "stop", "message": {
                               "role": "assistant", "content": answer}}],
                           "usage": {"prompt_tokens": 9, "completion_tokens": 9,
                                     "total_tokens": 18}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def llm():
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeLLM)
    server.asked, server.daemon_threads = [], True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield SimpleNamespace(asked=server.asked, url=f"http://127.0.0.1:{server.server_port}/v1")
    server.shutdown()


@pytest.fixture(scope="module")
def forks(llm):
    "`forks(folder, stage, kill=…)` runs a stage in the folder: exit code, seconds, what it said."
    process = subprocess.Popen([sys.executable, "-c", FORKS], text=True, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    def run(folder, stage, *jobs, **job):
        args = STAGES[stage].format(run=folder/"run", url=llm.url).split(" ")
        jobs = [{"args": args} | j for j in jobs or [job]]
        print(json.dumps(jobs), file=process.stdin, flush=True)
        done = json.loads(process.stdout.readline())
        found = [SimpleNamespace(code=c, seconds=s, said=said) for c, s, said in done]
        return found if len(found) > 1 else found[0]
    yield run
    process.stdin.close()
    process.wait(60)


TIMES = ("seconds", "targets per second", "training seconds", "computed now")


def without_times(x):
    "JSON without what is measured, and without the hashes of the files that hold times."
    if isinstance(x, dict):
        return {k: without_times(v) for k, v in x.items()
                if k not in (*TIMES, "curve.csv") and "tfevents" not in k}
    return [without_times(v) for v in x] if isinstance(x, list) else x


def rows_of(database):
    with closing(sqlite3.connect(database)) as db:
        return sorted(db.execute("SELECT key, model, settings, prompt, answer FROM answers"))


def content(folder):
    "Every file of a work folder, by its bytes; times, locks, logs and figures left out."
    found = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = file.relative_to(folder).as_posix()
        if re.search(r"lock$|tfevents|-(wal|shm|journal)$|/tuning\.(csv|png)$", name):
            continue
        if file.suffix == ".sqlite":
            found[name] = rows_of(file)
        elif file.suffix == ".json":
            found[name] = without_times(json.loads(file.read_text()))
        elif file.suffix == ".jsonl":
            found[name] = [without_times(vars(trial)) for trial in read_trials(file)]
        elif file.name == "curve.csv":
            table = pd.read_csv(file)
            found[name] = table[[c for c in table if c not in TIMES]].to_csv()
        else:
            found[name] = file.read_bytes()
    return found


@pytest.fixture(scope="module")
def undisturbed(forks, tmp_path_factory):
    "For each stage: the work folder before it, its content after it, and its seconds."
    root, found = tmp_path_factory.mktemp("undisturbed"), {}
    here = root/"now"
    here.mkdir()
    for stage in STAGES:
        shutil.copytree(here, root/stage)
        done = forks(here, stage)
        assert done.code == 0, done.said
        found[stage] = SimpleNamespace(before=root/stage, after=content(here),
                                       seconds=done.seconds)
    return found


def same(folder, expected):
    found = content(folder)
    assert sorted(found) == sorted(expected)
    differ = [name for name in found if found[name] != expected[name]]
    assert not differ, differ


def points(stage, n, seconds):
    "Times of kills: random, one in each n-th of the stage's undisturbed duration."
    return [(k + u) / n * seconds for k, u in enumerate(stream(0, "kills", stage).random(n))]


def kill_and_resume(forks, llm, stage, before, expected, folder, at):
    "Kill a stage at a time, resume it: whether it was killed, and how much was done twice."
    shutil.copytree(before, folder)
    asked = len(llm.asked)
    killed = forks(folder, stage, kill=at)
    assert killed.code in (-9, 0), killed.said
    trials, kept = folder/"tuning"/"shop.jsonl", b""
    if trials.exists():
        kept = trials.read_bytes()
    checkpoint = list(folder.rglob("last.safetensors*"))
    done = forks(folder, stage)
    assert done.code == 0, done.said
    same(folder, expected)
    assert not checkpoint or "resumed at epoch" in done.said, done.said
    assert kept[:kept.rfind(b"\n") + 1] == (trials.read_bytes() if kept else b"")[
        :kept.rfind(b"\n") + 1]
    twice = len(llm.asked) - asked - 40 if stage == "enrich" else 0
    assert 0 <= twice <= 2, "an answer that had come was asked for again"
    shutil.rmtree(folder)
    return killed.code == -9, twice


def check_kills(forks, llm, undisturbed, stage, n, folder, capsys):
    u = undisturbed[stage]
    found = [kill_and_resume(forks, llm, stage, u.before, u.after, folder/str(k), at)
             for k, at in enumerate(points(stage, n, u.seconds))]
    kills, twice = (sum(x) for x in zip(*found))
    assert 2 * kills >= n, "most of them must come before the stage has ended"
    with capsys.disabled():
        print(f"\n{stage}: {n} kills, {kills} before the end of {u.seconds:.1f} s; lost 0, "
              f"files that differ 0, questions in flight asked again {twice}")


def check_one_line(done):
    "A failure that a user can read, or none."
    message = done.said[done.said.rfind("llm-emf: "):].strip()
    assert done.code in (0, 1) and "Traceback" not in done.said, done.said
    assert done.code == 0 or done.said.count("llm-emf: ") == 1 and len(message) < 1000, done.said
    assert message.count("\n") <= 2, message
    return message


def check_second_process(forks, undisturbed, stage, n, folder):
    "Another process begins the same stage while one works on it: refused, or waits and skips."
    u = undisturbed[stage]
    for k, at in enumerate(points(stage, n, u.seconds)):
        shutil.copytree(u.before, folder/str(k))
        first, second = forks(folder/str(k), stage, {}, {"start": at})
        assert first.code == 0, first.said
        if stage != "tune": # there both add trials to one file
            assert second.code == 0 or "another process" in check_one_line(second), second.said
        same(folder/str(k), u.after)


def sizes(folder):
    return [p.stat().st_size for p in folder.rglob("*") if p.is_file()]


def check_failing_writes(forks, undisturbed, stage, n, folder):
    "No file may grow beyond a limit, as on a full disk: one line, and resumed when there is room."
    u = undisturbed[stage]
    largest, failed = max(map(len, (x for x in u.after.values() if type(x) is bytes))), 0
    for k, u01 in enumerate(stream(0, "limits", stage).random(n)):
        shutil.copytree(u.before, folder/str(k))
        failing = forks(folder/str(k), stage, limit=int(largest ** u01))
        check_one_line(failing)
        failed += failing.code == 1
        done = forks(folder/str(k), stage)
        assert done.code == 0, done.said
        same(folder/str(k), u.after)
    assert failed, "a limit was met"


@pytest.fixture
def small_disk(tmp_path):
    "A file system whose size can be set; skipped where none can be mounted."
    place = tmp_path/"disk"
    place.mkdir()
    def size(kib, *more):
        return subprocess.run(["mount", "-t", "tmpfs", "-o", f"{','.join(more)}size={kib}k",
                               "tmpfs", place], capture_output=True).returncode == 0
    if not shutil.which("mount") or not size(100_000):
        pytest.skip("no file system can be mounted here")
    yield place, size
    subprocess.run(["umount", place], check=True)


def check_full_disk(forks, undisturbed, stage, n, place, size):
    u, full = undisturbed[stage], 0
    for at in stream(0, "disk", stage).random(n):
        folder = place/"work"
        shutil.copytree(u.before, folder)
        used = shutil.disk_usage(place).used // 1024
        grown = sum(len(x) for x in u.after.values() if type(x) is bytes) // 1024
        assert size(used + 8 + int(at * max(grown - used, 64)), "remount,")
        failing = forks(folder, stage)
        check_one_line(failing)
        full += failing.code == 1
        assert size(100_000, "remount,")
        done = forks(folder, stage)
        assert done.code == 0, done.said
        same(folder, u.after)
        shutil.rmtree(folder)
    assert full, "the disk was full"


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_resumes_to_the_same_bytes(forks, llm, undisturbed, stage, tmp_path, capsys):
    check_kills(forks, llm, undisturbed, stage, 2, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_at_25_points_resumes_to_the_same_bytes(
        forks, llm, undisturbed, stage, tmp_path, capsys):
    check_kills(forks, llm, undisturbed, stage, 25, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_make_one_stage(forks, undisturbed, stage, tmp_path):
    check_second_process(forks, undisturbed, stage, 5, tmp_path)


@pytest.mark.parametrize("stage", ["prepare", "evaluate"])
def test_a_write_that_fails(forks, undisturbed, stage, tmp_path):
    check_failing_writes(forks, undisturbed, stage, 2, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_writes_that_fail_at_ten_sizes(forks, undisturbed, stage, tmp_path):
    check_failing_writes(forks, undisturbed, stage, 10, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_that_is_full_at_ten_sizes(forks, undisturbed, stage, small_disk):
    check_full_disk(forks, undisturbed, stage, 10, *small_disk)
