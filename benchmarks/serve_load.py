"""The server under load: 16 clients at once for 60 s, from another process, over loopback.

Each client keeps one connection and asks /recommend for ten items after a random history of 1 to 30
items, both domains in turn, as fast as it gets answers. In the table: requests a second, their
times in ms, answers other than 200, and the server's memory after a warm-up and at the end. The
last row asks one client at a time, whose requests cannot be batched; the ratio is 16 clients
against it. LLM_EMF_SECONDS shortens the test, for a check that this runs. Needs the extra `serve`.
"""
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2 as httpx # what FastAPI's test client brings
import numpy as np
import pandas as pd
from common import finish

SECONDS, CLIENTS = float(os.environ.get("LLM_EMF_SECONDS", "60")), 16
SERVER = """
import sys
import numpy as np
from common import load_data, random_features
from llm_emf.core import set_seed
from llm_emf.features import Features
from llm_emf.model import LLMEMF, ModelSettings
from llm_emf.recommend import Recommender
from llm_emf.share import SharedRecommender
from llm_emf.train import ModelScorer
data, _ = load_data()
set_seed(0)
vectors = {name: v.numpy() for name, v in random_features(data).items()}
has = {name: np.ones(len(v), bool) for name, v in vectors.items()}
model = LLMEMF(ModelSettings(d=64), data.n_items, data.n_x, vectors)
SharedRecommender(ModelScorer(model), data, method="no-images",
                  features=Features(vectors, has)).save_pretrained(sys.argv[1])
"""


def memory(pid: int) -> float: # MiB, resident
    "What the server holds."
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


async def client(url: str, until: float, asins: list, seed: int, times: list, bad: list):
    "One client: asks until the time is over."
    rng = random.Random(seed)
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        while time.perf_counter() < until:
            body = {"history": rng.choices(asins, k=rng.randint(1, 30)),
                    "domain": rng.choice(DOMAINS), "k": 10}
            began = time.perf_counter()
            try:
                reply = await http.post("/recommend", json=body)
                ok = reply.status_code == 200 and len(reply.json()["items"]) == 10
            except httpx.HTTPError:
                ok = False
            times.append(time.perf_counter() - began)
            if not ok:
                bad.append(body)


async def load(url: str, clients: int, seconds: float, asins: list) -> tuple: # times, errors
    "Several clients at once."
    times, bad, until = [], [], time.perf_counter() + seconds
    await asyncio.gather(*(client(url, until, asins, n, times, bad) for n in range(clients)))
    return np.array(times), len(bad)


def row(way: str, times: np.ndarray, errors: int, seconds: float, **more) -> dict:
    "A line of the table."
    p50, p99 = np.percentile(1000 * times, [50, 99])
    return {"way": way, "requests/s": round(len(times) / seconds, 1), "p50, ms": round(p50, 1),
            "p99, ms": round(p99, 1), "requests": len(times), "errors": errors} | more


with tempfile.TemporaryDirectory() as tmp:
    here = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    subprocess.run([sys.executable, "-c", SERVER, tmp], check=True, env=here)
    DOMAINS = json.loads(Path(tmp, "config.json").read_text())["domains"]
    code = "import sys; from llm_emf.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "serve", "--run", tmp, "--port", "0", "--device", "cpu"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=here)
    try:
        line = server.stdout.readline()
        url = f"http://127.0.0.1:{line.partition('127.0.0.1:')[2].partition('/')[0]}"
        asins = pd.read_parquet(Path(tmp, "catalogue.parquet"))["asin"].tolist()
        asyncio.run(load(url, CLIENTS, SECONDS / 6, asins)) # warm-up
        before = memory(server.pid)
        times, errors = asyncio.run(load(url, CLIENTS, SECONDS, asins))
        after = memory(server.pid)
        alone, more_errors = asyncio.run(load(url, 1, SECONDS / 4, asins))
    finally:
        server.terminate()
        server.wait(30)
rows = [row(f"{CLIENTS} clients", times, errors, SECONDS, **{
            "MiB before": round(before), "MiB after": round(after)}),
        row("one client", alone, more_errors, SECONDS / 4)]
finish("serve_load", rows, rows[0]["requests/s"] / rows[1]["requests/s"], items=len(asins),
       load_average=os.getloadavg()[0], cores=os.cpu_count())
