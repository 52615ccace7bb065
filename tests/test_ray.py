"Encode, enrich and recommend on a local Ray, a killed worker included; skipped where Ray is not."
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")

from llm_emf.baselines import PopularityScorer
from llm_emf.clip import ClipSettings, encode_texts_clip, load_clip
from llm_emf.core import InputError
from llm_emf.data import histories, shop_dataset, train_count
from llm_emf.llm import BackendSettings, LLMSettings
from llm_emf.ray_batches import (Division, EncodeItems, EnrichItems, RecommendUsers, encode_parquet,
                                 enrich_parquet, read_vectors, recommend_parquet)
from llm_emf.share import SharedRecommender
from llm_emf.shop import ShopSettings, make_catalogue


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False,
             logging_level="error", object_store_memory=2**27)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


def dies_once(base, marker, batch):
    "A worker that is killed (SIGKILL) in its batch number `batch`, once for a marker file."
    class Dying(base): # local, so that Ray sends its code and not its module's name
        calls = 0

        def __call__(self, table):
            import os
            import signal
            found = base.__call__(self, table)
            self.calls += 1
            if self.calls == batch and not os.path.exists(marker):
                open(marker, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            return found
    return Dying


def test_encode_gives_the_same_bytes_though_a_worker_is_killed(tmp_path):
    items = make_catalogue().head(1000)[["asin", "title"]]
    items.to_parquet(tmp_path/"items.parquet", row_group_size=170)
    marker = str(tmp_path/"killed")
    encode_parquet(tmp_path/"items.parquet", tmp_path/"vectors", ClipSettings(text="title"),
                   Division(rows=256), dies_once(EncodeItems, marker, 2))
    assert os.path.exists(marker), "no worker was killed"
    assert len(list((tmp_path/"vectors").glob("*.parquet"))) == 4
    table = pd.read_parquet(tmp_path/"vectors")
    assert table["asin"].tolist() == items["asin"].tolist(), "complete, once each, in order"
    model, _, tokenizer = load_clip()
    alone = encode_texts_clip(items["title"].tolist(), model, tokenizer)
    features = read_vectors(tmp_path/"vectors", items)
    assert np.array_equal(features.vectors["tex"][1:], alone), "256 is two batches of 128"


class Server(BaseHTTPRequestHandler): # an OpenAI-compatible server that knows one sentence
    asked: list = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        item = json.loads(body["messages"][-1]["content"][len("<item>"):-len("</item>")])
        self.asked.append(item["title"])
        text = f"{item['title']}, a good thing to have in every home."
        answer = json.dumps({"choices": [{"message": {"content": text}}],
                             "usage": {"prompt_tokens": 9, "completion_tokens": 9}}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    Server.asked.clear()
    serving = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_port}/v1"
    serving.shutdown()


def test_enrich_asks_no_question_twice_though_a_worker_is_killed(tmp_path, server):
    pytest.importorskip("openai")
    items = make_catalogue().head(48)[["asin", "domain", "title"]].assign(price=3)
    items.to_parquet(tmp_path/"items.parquet")
    marker = str(tmp_path/"killed")
    enrich_parquet(tmp_path/"items.parquet", tmp_path/"enriched", LLMSettings("any"),
                   BackendSettings(base_url=server), division=Division(rows=16, cpus=.5),
                   worker=dies_once(EnrichItems, marker, 2))
    table = pd.read_parquet(tmp_path/"enriched")
    assert os.path.exists(marker) and table["asin"].tolist() == items["asin"].tolist()
    assert set(table["reason"]) == {"plain"} and (table["price"] == 3).all()
    assert [a.startswith(t) for a, t in zip(table["llm"], items["title"])] == [True] * 48
    assert sorted(Server.asked) == sorted(items["title"].unique()), "answers outlive a worker"


def test_recommend_gives_the_same_lists_though_a_worker_is_killed(tmp_path):
    data, _ = shop_dataset(ShopSettings(users=1500))
    shared = SharedRecommender(PopularityScorer(train_count(data, histories(data)), data), data,
                               method="popularity", about={"split": "all"})
    shared.save_pretrained(tmp_path/"shared")
    asin = data.items["asin"].to_numpy()
    users = pd.DataFrame({"user": data.user, "items": [
        asin[data.item[a:b] - 1].tolist() for a, b in zip(data.offset, data.offset[1:])]})
    users.to_parquet(tmp_path/"users.parquet")
    marker = str(tmp_path/"killed")
    recommend_parquet(tmp_path/"users.parquet", tmp_path/"found", tmp_path/"shared", k=5,
                      division=Division(rows=512), worker=dies_once(RecommendUsers, marker, 2))
    alone = shared.recommend(users, k=5)
    found = pd.read_parquet(tmp_path/"found")
    assert os.path.exists(marker)
    pd.testing.assert_frame_equal(found, alone, check_exact=True, check_dtype=False)


def test_what_a_worker_refuses_arrives_as_one_line(tmp_path):
    pd.DataFrame({"asin": ["a"], "title": ["Wok"]}).to_parquet(tmp_path/"items.parquet")
    with pytest.raises(InputError, match="knows no architecture 'no-such-clip'") as e:
        encode_parquet(tmp_path/"items.parquet", tmp_path/"vectors",
                       ClipSettings(clip="no-such-clip", text="title"))
    assert "\n" not in str(e.value) and not (tmp_path/"vectors").exists()
