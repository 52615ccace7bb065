"The server by a real client over loopback, hostile requests included; the page in a real browser."
import concurrent.futures
import http.client
import json
import socket
import threading
import time
from urllib.parse import urlencode

import pytest
from browser import CHROMIUM, Browser

fastapi = pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")

from llm_emf.core import set_seed # noqa: E402
from llm_emf.data import shop_dataset # noqa: E402
from llm_emf.model import LLMEMF, ModelSettings # noqa: E402
from llm_emf.pictures import ShopPictures # noqa: E402
from llm_emf.recommend import Recommender # noqa: E402
from llm_emf.serve import ServeLimits, make_app # noqa: E402
from llm_emf.shop import ShopSettings # noqa: E402
from llm_emf.train import ModelScorer # noqa: E402

HOSTILE_TITLE = "<img src=x onerror=\"document.title='broken in'\"> Tea"


@pytest.fixture(scope="module")
def recommender():
    data, _ = shop_dataset(ShopSettings(users=60))
    data.items.loc[0, "title"] = HOSTILE_TITLE
    set_seed(0)
    model = LLMEMF(ModelSettings(modalities=("id",), d=8, hidden=8), data.n_items, data.n_x)
    return Recommender(ModelScorer(model), data)


@pytest.fixture(scope="module")
def port(recommender):
    "Of a running server."
    app = make_app(recommender, ShopPictures(recommender.dataset.items, 64), ServeLimits(seconds=1))
    sock = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", limit_concurrency=64,
                                           h11_max_incomplete_event_size=16 * 1024))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(.02)
    yield sock.getsockname()[1]
    server.should_exit = True
    thread.join(10)
    sock.close()


def ask(port, method, path, body=None, headers=None): # status, answer
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    connection.request(method, path, body, {"Content-Type": "application/json"} | (headers or {}))
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    kind = reply.getheader("Content-Type", "")
    return reply.status, json.loads(content) if "json" in kind else content


def raw(port, sent, wait=10): # what comes back for bytes that no client would send
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as s:
        s.sendall(sent)
        got = b""
        while part := s.recv(65536):
            got += part
            if b"\r\n\r\n" in got:
                break
        return got


def test_answers_are_those_of_the_recommender(port, recommender):
    asins = recommender.dataset.items["asin"].tolist()
    histories = [asins[n:n + 3] + asins[600 + n:602 + n] for n in range(40)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool: # together, so that batches form
        def one(h):
            return ask(port, "POST", "/recommend", {"history": h, "domain": "kitchen", "k": 5})
        found = list(pool.map(one, histories))
    for history, (status, answer) in zip(histories, found):
        expected = recommender.recommend(history, "kitchen", 5)
        assert status == 200
        assert [r["asin"] for r in answer["items"]] == expected["asin"].tolist()
        assert [r["title"] for r in answer["items"]] == expected["title"].tolist()
    status, answer = ask(port, "POST", "/recommend", {"history": histories[0]})
    assert {r["domain"] for r in answer["items"]} <= {"food", "kitchen"}
    assert not {r["asin"] for r in answer["items"]} & set(histories[0])


GOOD = "SF00000001"
BAD = { # what is wrong → method, path, body, status, a part of the reason
    "no JSON": ("POST", "/recommend", b"{", 422, "JSON"),
    "not UTF-8": ("POST", "/recommend", b"\xff\xfe", (400, 422), ""),
    "deep": ("POST", "/recommend", b"[" * 60_000, (400, 422), ""),
    "huge number": ("POST", "/recommend", b'{"history": ["%s"], "k": 1' % GOOD.encode()
                    + b"0" * 5000 + b"}", (400, 422), ""),
    "NaN": ("POST", "/recommend", b'{"history": ["%s"], "k": NaN}' % GOOD.encode(), 422, "k"),
    "a list": ("POST", "/recommend", [], 422, ""),
    "no history": ("POST", "/recommend", {}, 422, "history"),
    "empty": ("POST", "/recommend", {"history": []}, 422, "at least 1"),
    "long": ("POST", "/recommend", {"history": [GOOD] * 501}, 422, "at most 500"),
    "numbers": ("POST", "/recommend", {"history": [1, 2]}, 422, "string"),
    "nested": ("POST", "/recommend", {"history": [[GOOD]]}, 422, "string"),
    "unknown": ("POST", "/recommend", {"history": ["'; DROP TABLE"]}, 422, "not in the catalogue"),
    "surrogate": ("POST", "/recommend", b'{"history": ["\\ud800"]}', (400, 422), ""),
    "zero": ("POST", "/recommend", {"history": [GOOD], "k": 0}, 422, "k"),
    "all": ("POST", "/recommend", {"history": [GOOD], "k": 10**9}, 422, "k"),
    "text for k": ("POST", "/recommend", {"history": [GOOD], "k": "5"}, 422, "k"),
    "domain": ("POST", "/recommend", {"history": [GOOD], "domain": "x"}, 422, "knows food"),
    "field": ("POST", "/recommend", {"history": [GOOD], "path": "/etc"}, 422, "path"),
    "explain": ("POST", "/explain", {"history": [GOOD], "item": "?"}, 422, "not in the catalogue"),
    "similar": ("GET", "/similar?item=%3F", None, 422, "not in the catalogue"),
    "by": ("GET", f"/similar?item={GOOD}&by=__class__", None, 422, "by"),
    "k": ("GET", "/items?k=1000000", None, 422, "k"),
    "query": ("GET", "/items?" + urlencode({"query": "x" * 5000}), None, 422, "100"),
    "expression": ("GET", "/items?k=5&domain=(a%2B)%2B%24", None, 422, "unknown domain"),
    "picture": ("GET", "/picture/..%2F..%2Fetc%2Fpasswd", None, 404, ""),
    "no picture": ("GET", "/picture/" + "x" * 5000, None, 404, "no picture"),
    "path": ("GET", "/../../etc/passwd", None, 404, ""),
    "method": ("DELETE", "/recommend", None, 405, ""),
    "too large": ("POST", "/recommend", b" " * 70_000, 413, "65,536 bytes"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_requests_get_a_reason(port, what):
    method, path, body, expected, reason = BAD[what]
    status, answer = ask(port, method, path, body)
    assert status in (expected if isinstance(expected, tuple) else (expected,)), answer
    assert reason in answer["detail"] and len(answer["detail"]) <= 300


def test_a_search_takes_words_not_patterns(port):
    status, answer = ask(port, "GET", "/items?" + urlencode({"query": "(a+)+$ .*"}))
    assert status == 200 and answer["items"] == []


def test_odd_bytes_and_bodies_that_do_not_come(port):
    assert b" 400 " in raw(port, b"\x00\x01\x02\r\n\r\n")
    assert b" 400 " in raw(port, b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000)
    head = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    assert b" 408 " in raw(port, head + b"Content-Length: 100\r\n\r\n{")
    chunks = b"".join(b"4000\r\n" + b" " * 0x4000 + b"\r\n" for _ in range(5))
    assert b" 413 " in raw(port, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert b" 400 " in raw(port, head + b"Content-Length: -5\r\n\r\n")
    assert ask(port, "GET", "/health")[0] == 200


def test_command_serves_until_it_is_stopped(cli, recommender, tmp_path):
    from llm_emf.share import SharedRecommender
    same = SharedRecommender(recommender.scorer, recommender.dataset, method="id")
    same.save_pretrained(tmp_path/"shared")
    process = cli("serve", "--run", tmp_path/"shared", "--port", 0, "--device", "cpu", wait=False)
    try:
        line = process.stdout.readline()
        at = int(line.partition("127.0.0.1:")[2].partition("/")[0])
        assert ask(at, "GET", "/health")[1]["items"] == 1200
        assert ask(at, "GET", f"/picture/{GOOD}")[0] == 200 # the shop's are drawn
    finally:
        process.send_signal(2)
        assert process.wait(30) == 0, process.stderr.read()


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")
def test_page_in_a_browser(port, tmp_path):
    "Items are picked, recommendations follow, a reason opens; a title cannot run anything."
    browser = Browser(tmp_path/"profile")
    try:
        browser.open(f"http://127.0.0.1:{port}/")
        browser.wait("document.querySelectorAll('#found .item').length == 12")
        assert browser.js("document.querySelector('#found .title').textContent") == HOSTILE_TITLE
        assert "a history" in browser.js("document.getElementById('next').textContent")
        first = "#next .title"
        titles = f"[...document.querySelectorAll('{first}')].map(t => t.textContent).join('|')"
        browser.js("document.querySelector('#found button').click()")
        before = browser.wait(titles)
        assert browser.js("document.querySelectorAll('#bought .item').length") == 1
        browser.js("document.querySelectorAll('#next .item button')[1].click()") # add one of them
        browser.wait(f"{titles} != {json.dumps(before)}")
        assert browser.js("location.hash").count("item=") == 2
        browser.js("document.querySelectorAll('#next button')[0].click()") # why?
        why = browser.wait("document.querySelector('.why')?.textContent")
        assert "Shares of the score" in why and HOSTILE_TITLE in why
        browser.js("document.querySelectorAll('#tabs button')[2].click()") # kitchen alone
        about = "[...document.querySelectorAll('#next .about')].map(t => t.textContent)"
        browser.wait(f"{about}.length == 10 && {about}.every(t => t.endsWith('kitchen'))")
        browser.js("document.getElementById('query').value = 'no such title'; find()")
        browser.wait("document.getElementById('found').textContent.includes('No title holds')")
        browser.open(f"http://127.0.0.1:{port}/?again#item={GOOD}&item=SK00000701") # a kept link
        browser.wait("document.querySelectorAll('#bought .item').length == 2")
        image = "document.querySelector('#bought img')"
        assert browser.js(f"{image}.src").endswith(f"/picture/{GOOD}")
        browser.wait(f"{image}.naturalWidth > 0")
        assert browser.js("document.title") == "LLM-EMF: try a recommender"
        assert browser.js("document.getElementById('error').hidden")
    finally:
        browser.close()
