"What the page of promises (nbs/guides/promises.ipynb) says about the network; its tests exist."
import ast
import json
import re
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import util
from pathlib import Path

import pytest
from good_data import good_tables, write_tables

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT/"nbs"/"guides"/"promises.ipynb"


def names_in(file):
    tree = ast.parse((ROOT/file).read_text(encoding="utf-8"))
    return {f.name for f in tree.body if isinstance(f, ast.FunctionDef)}


def test_each_promise_names_tests_that_exist():
    cells = json.loads(PAGE.read_text(encoding="utf-8"))["cells"]
    text = "".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    tables = re.findall(r"\| promise \| tests \|\n.*\n((?:\|.*\n?)+)", text)
    promises = [row for table in tables for row in table.splitlines()]
    assert len(tables) >= 6 and len(promises) >= 25
    assert all("::test_" in row for row in promises)
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        assert name in names_in(file), f"{file} has no {name}"


def test_nothing_is_sent_by_default(here, shop, tmp_path, monkeypatch):
    run, opened = shutil.copytree(shop, tmp_path/"run"), []
    for name in ("connect", "connect_ex", "sendto"):
        def refuse(self, *args):
            opened.append(args)
            raise OSError("no connection is allowed here")
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **b: opened.append(a) or [])
    small = "d=8 hidden=8 layers=1 epochs=1 batch_tokens=4096"
    assert here("prepare", "--profile", "smoke", "--knobs", "items=32 users=40", "--out",
                tmp_path/"other")[0] == 0
    for command in ("enrich --limit 0", "encode", "train", "evaluate"):
        more = ["--settings", small] if command == "train" else []
        code, _, err = here(*command.split(), *more, "--out", run)
        assert code == 0, err
    assert not opened


class Notes(BaseHTTPRequestHandler):
    "Notes what is sent, and answers."
    def log_message(self, *a):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.notes.append((str(self.headers), body.decode()))
        message = {"role": "assistant", "content": "a pan for eggs"}
        answer = json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m",
                             "choices": [{"index": 0, "finish_reason": "stop",
                                          "message": message}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@pytest.mark.skipif(not util.find_spec("openai"), reason="openai is not installed")
def test_no_user_is_sent_to_a_language_model(here, prepare, tmp_path, monkeypatch):
    items, sequences = good_tables()
    items["price"] = 777_777
    sequences["user"] = [f"user-{k}-secret" for k in range(len(sequences))]
    data = write_tables(tmp_path/"data", items, sequences)
    assert prepare(data)[0] == 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Notes)
    server.notes = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-the-key")
    code, _, err = here("enrich", "--out", tmp_path/"run", "--limit", 40, "--model", "m",
                        "--base-url", f"http://127.0.0.1:{server.server_port}/v1")
    server.shutdown()
    assert code == 0, err
    assert len(server.notes) == 40
    for headers, body in server.notes:
        assert "secret" not in body and "777777" not in body and "sk-the-key" not in body
        assert "Bearer sk-the-key" in headers
        asked = json.loads(body)["messages"][-1]["content"]
        shown = json.loads(asked.removeprefix("<item>").removesuffix("</item>"))
        assert set(shown) <= {"title", "domain", "brand", "categories", "description"}
