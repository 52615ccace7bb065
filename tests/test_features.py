"The feature store: equal to direct calls, complete after a kill, honest about what is missing."
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

from llm_emf.clip import ClipSettings, encode, encode_pictures, encode_texts_clip, load_clip
from llm_emf.core import open_run, set_seed
from llm_emf.data import load_dataset, prepare
from llm_emf.enrich import enrich_catalogue
from llm_emf.features import Features, load_features
from llm_emf.model import LLMEMF, ModelSettings
from llm_emf.pictures import ShopPictures
from llm_emf.shop import make_catalogue


@pytest.mark.parametrize("architecture", ["llm-emf-small", "ViT-S-32-alt"])
def test_features_are_those_of_a_direct_call(architecture, tmp_path):
    name = architecture
    if architecture != "llm-emf-small":                                         # another architecture, with weights from a local file
        torch.manual_seed(0)
        model, _, _ = load_clip(architecture, "cpu", random=True)
        from safetensors.torch import save_file
        save_file({k: v.contiguous().clone() for k, v in model.state_dict().items()}, tmp_path/"w.safetensors")
        name = f"{architecture}/{tmp_path/'w.safetensors'}"
    model, preprocess, tokenizer = load_clip(name, "cpu")
    items = make_catalogue().sample(24, random_state=1)
    pictures, titles = ShopPictures(items, 64), items["title"].tolist()
    items_shown = items[items["shown"].isin(items["item_id"])]["item_id"].tolist()
    v, kept, _ = encode_pictures(pictures, items_shown, model, preprocess, batch_size=5, device="cpu")
    t = encode_texts_clip(titles, model, tokenizer, batch_size=7, device="cpu")
    import open_clip                                                            # after load_clip, which repairs torchvision where that is needed
    direct = open_clip.get_tokenizer(architecture)
    with torch.inference_mode():
        dv = model.encode_image(torch.stack([preprocess(pictures[i]) for i in items_shown]))
        dt = model.encode_text(direct(titles))
    assert kept.all() and len(items_shown) > 15
    assert np.abs(v - (dv / dv.norm(dim=1, keepdim=True)).numpy()).max() < 1e-5
    assert np.abs(t - (dt / dt.norm(dim=1, keepdim=True)).numpy()).max() < 1e-5


FILL = """
import sys
import numpy as np
from llm_emf.features import VectorStore, encode_missing, row_key
keys = [row_key(f"item {k}") for k in range(100_000)]
store = VectorStore(sys.argv[1], {"model": "demo"}, 128)
def batches(numbers):
    for at in range(0, len(numbers), 250):
        print(at, flush=True)
        places = range(at, min(at + 250, len(numbers)))
        yield places, np.full((len(places), 128), 1.0, np.float32) * np.array([numbers[p] for p in places])[:, None]
encode_missing(store, keys, batches, block=500)
"""


def test_a_hundred_thousand_rows_survive_a_kill_and_open_at_once(tmp_path):
    from llm_emf.features import VectorStore, row_key
    script = tmp_path/"fill.py"
    script.write_text(FILL)
    for _ in range(3):
        process = subprocess.Popen([sys.executable, str(script), str(tmp_path/"store")], stdout=subprocess.PIPE, text=True)
        for _ in range(40): process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.communicate()
    store = VectorStore(tmp_path/"store", {"model": "demo"}, 128)
    assert 0 < len(store) < 100_000
    subprocess.run([sys.executable, str(script), str(tmp_path/"store")], check=True, capture_output=True)
    took = []
    for _ in range(5):
        began = time.perf_counter()
        store = VectorStore(tmp_path/"store", {"model": "demo"}, 128)
        took.append(time.perf_counter() - began)
    assert len(store) == 100_000 and min(took) < .05, took
    some = np.random.default_rng(0).choice(100_000, 1000, replace=False)
    assert (store.rows([row_key(f"item {k}") for k in some])[:, 5] == some).all()


WRITE = """
import sys
import numpy as np
from llm_emf.features import VectorStore, row_key
folder, first, writer = sys.argv[1], int(sys.argv[2]), sys.argv[3]
store = VectorStore(folder, {"model": "demo"}, 16, writer)
print("ready", flush=True)
sys.stdin.readline()                                                            # all begin together
for at in range(first, first + 20_000, 64):
    block = range(at, min(at + 64, first + 20_000))
    vectors = np.repeat(np.arange(block.start, block.stop, dtype=np.float32)[:, None], 16, 1)
    store.append([row_key(f"item {n}") for n in block], vectors)
    print(at, flush=True)
"""


@pytest.mark.parametrize("writers", ["000", "012"], ids=["one pair of files", "files of their own"])
def test_three_processes_append_to_one_store_and_one_is_killed(writers, tmp_path):
    "Each offers 20,000 rows in blocks of 64, half of which its neighbour offers too; the third is killed."
    from llm_emf.features import VectorStore, row_key
    (tmp_path/"write.py").write_text(WRITE)
    started = [subprocess.Popen([sys.executable, tmp_path/"write.py", tmp_path/"store", str(first), writer],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
               for first, writer in zip((0, 10_000, 20_000), writers)]
    for process in started: assert process.stdout.readline() == "ready\n"
    for process in started: print(file=process.stdin, flush=True)
    for _ in range(60): last = started[2].stdout.readline()
    assert int(last) >= 20_000 + 50 * 64
    started[2].send_signal(signal.SIGKILL)
    for process in started: process.communicate(timeout=300)
    assert [process.returncode for process in started] == [0, 0, -signal.SIGKILL]
    store = VectorStore(tmp_path/"store", {"model": "demo"}, 16)
    stored = np.concatenate([np.frombuffer(file.read_bytes(), "V16") for file in store.folder.glob("*.keys")])
    number = {row_key(f"item {n}"): n for n in range(40_000)}
    numbers = np.array([number[key] for key in stored.tolist()])
    vectors = store.rows(stored.tolist())
    assert (vectors == numbers[:, None]).all(), f"{(vectors[:, 0] != numbers).sum()} rows hold another key's vector"
    assert len(np.unique(numbers)) == len(numbers) == len(store), "a key stands there twice"
    assert np.isin(np.arange(30_000), numbers).all(), "rows of the two that were not killed"
    assert np.isin(np.arange(20_000, int(last) + 64), numbers).all(), "rows that the third had reported"


READ = """
import sys, time
import numpy as np
from llm_emf.features import load_features
def resident(): return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon")) / 1024     # MiB of its own; pages of a mapped file are the system's cache, shared and given back
before, began = resident(), time.perf_counter()
f = load_features(sys.argv[1], 100_000)
seconds, opened = time.perf_counter() - began, resident() - before
some = np.random.default_rng(0).choice(100_000, 200, replace=False) + 1
assert (f.vectors["tex"][some, 3] == some).all()
print(seconds, opened, resident() - before)
"""


def test_features_open_at_once_and_take_no_more_memory_than_is_read(tmp_path):
    n = 100_000
    np.save(tmp_path/"tex.npy", np.repeat(np.arange(n + 1, dtype=np.float32)[:, None], 512, 1))     # 200 MB
    np.save(tmp_path/"tex_has.npy", np.ones(n + 1, bool))
    done = subprocess.run([sys.executable, "-c", READ, str(tmp_path)], capture_output=True, text=True, check=True)
    seconds, opened, read = map(float, done.stdout.split())
    assert seconds < .05, f"opened in {seconds:.3f} s"
    assert opened < 3 and read < 6, f"{opened:.1f} MiB after opening, {read:.1f} after reading 200 rows of 2 KiB; the file has 200"


SHARES = """
import sys
from accelerate import PartialState
from llm_emf.clip import ClipSettings, encode
from llm_emf.core import open_run
PartialState(cpu=True)
encode(open_run(sys.argv[1], sys.argv[2], "smoke", 0, "cpu"), ClipSettings())
print("processes", PartialState().num_processes)
"""


def test_two_processes_fill_one_store(tmp_path):
    damaged_catalogue(tmp_path/"data")
    found = {}
    for n in (1, 2):
        run = open_run(tmp_path/str(n)/"r", str(tmp_path/"data"), "smoke", 0, "cpu")
        prepare(run); enrich_catalogue(run, limit=0)
        start = [sys.executable] if n == 1 else [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        (tmp_path/"shares.py").write_text(SHARES)
        done = subprocess.run([*start, str(tmp_path/"shares.py"), str(run.path), str(tmp_path/"data")], capture_output=True, text=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"})
        assert done.returncode == 0 and f"processes {n}" in done.stdout, done.stderr[-3000:]
        found[n] = load_features(run.path/"encode"), pd.read_parquet(run.path/"encode"/"rejected.parquet")
    (one, rejected1), (two, rejected2) = found[1], found[2]
    for m in one.vectors:
        assert (one.has[m] == two.has[m]).all() and np.abs(np.asarray(one.vectors[m]) - two.vectors[m]).max() < 1e-5
    assert rejected1.equals(rejected2) and len(rejected1) > 90
    writers = {p.stem for p in (tmp_path/"2"/"vectors").glob("*/*.keys") if p.stat().st_size}
    assert writers == {"0", "1"}


def damaged_catalogue(folder, n=300):
    "A data set of files: 30% of the pictures missing, 5% corrupt in twelve ways, 1% of the titles empty."
    rng = np.random.default_rng(0)
    catalogue = make_catalogue().groupby("domain").head(n // 2).reset_index(drop=True)
    pictures = ShopPictures(make_catalogue(), 64)
    (folder/"pictures").mkdir(parents=True)
    state = np.full(n, "good", dtype=object)
    order = rng.permutation(n)
    state[order[:int(.3 * n)]], state[order[int(.3 * n):int(.35 * n)]] = "missing", "corrupt"
    def png(i): return pictures.png(i)
    spoil = [lambda b: b[:len(b) // 2], lambda b: b"", lambda b: b"<html>not found</html>", lambda b: b"\x00" * 500, lambda b: b[8:], lambda b: b[:8], lambda b: b"GIF89a" + b"\xff" * 20,
             lambda b: b"\xff\xd8\xff\xe0" + b"\x00" * 40, lambda b: b[:33], lambda b: b"RIFF\x00\x00\x00\x00WEBP", lambda b: b"%PDF-1.4", lambda b: bytes(reversed(b))]
    names, kind = [], 0
    for i, s in zip(catalogue["item_id"], state):
        if s == "missing": names.append(None); continue
        body = png(int(i))
        if s == "corrupt": body = spoil[kind % len(spoil)](body); kind += 1
        (folder/"pictures"/f"{i}.png").write_bytes(body)
        names.append(f"pictures/{i}.png")
    assert kind >= 12
    titles = catalogue["title"].to_numpy(dtype=object)
    empty = order[-max(1, n // 100):]
    titles[empty] = ""
    items = pd.DataFrame({"item": catalogue["item_id"], "domain": catalogue["domain"], "title": titles, "picture": names, "asin": catalogue["asin"]})
    ids = catalogue["item_id"].to_numpy()
    sequences = pd.DataFrame({"user": [f"u{k}" for k in range(120)], "items": [rng.choice(ids, 8, replace=False) for _ in range(120)]})
    items.to_parquet(folder/"items.parquet"); sequences.to_parquet(folder/"sequences.parquet")
    return state, empty


def test_a_damaged_catalogue_is_counted_and_does_no_harm(tmp_path):
    state, empty = damaged_catalogue(tmp_path/"data")
    run = open_run(tmp_path/"runs"/"r", str(tmp_path/"data"), "smoke", 0, "cpu")
    prepare(run)
    enrich_catalogue(run, limit=0)
    folder = encode(run, ClipSettings())
    data = load_dataset(run.path/"prepare")
    f = load_features(folder, data.items)
    good = (state == "good")
    assert f.has["img"][1:].tolist() == good.tolist() and f.has["tex"][1:].sum() == len(good) - len(empty)
    rejected = pd.read_parquet(folder/"rejected.parquet")
    assert set(rejected["item_id"]) == set(np.flatnonzero(~good) + 1) and rejected["reason"].str.len().gt(3).all()
    # items that have everything: the same vectors, and the same scores among themselves, as in a catalogue without damage
    full = Features({m: np.array(v) for m, v in f.vectors.items()}, {m: np.ones_like(h) for m, h in f.has.items()})
    for m in full.vectors: full.vectors[m][1:][~f.has[m][1:]] = 7.0              # whatever stands there must not matter
    complete = torch.from_numpy(f.has["img"] & f.has["tex"])
    set_seed(0)
    settings = ModelSettings(d=16, hidden=16, layers=1)
    damaged = LLMEMF(settings, data.n_items, data.n_x, {m: np.array(v) for m, v in f.vectors.items()}, f.has).eval()
    nonsense = LLMEMF(settings, data.n_items, data.n_x, full.vectors, f.has).eval()
    nonsense.load_state_dict(damaged.state_dict())
    history = torch.from_numpy(load_dataset(run.path/"prepare").item[:8].astype(np.int64))[None]
    for domain in (0, 1):
        assert torch.allclose(damaged.scores(history, domain), nonsense.scores(history, domain), atol=1e-6)
    keys = damaged.keys(torch.nonzero(complete)[:, 0][:20], 0).view(20, 3, 16).norm(dim=-1)
    assert torch.allclose(keys, damaged.fusion_weights()[0].expand(20, 3), atol=1e-5), "complete items keep the plain weights"
    # a second catalogue with one changed title and one more item computes two rows
    items = pd.read_parquet(tmp_path/"data"/"items.parquet")
    items.loc[0, "title"] = "Another Thing Altogether"
    items.to_parquet(tmp_path/"data"/"items.parquet")
    again = open_run(tmp_path/"runs"/"again", str(tmp_path/"data"), "smoke", 0, "cpu")
    prepare(again); enrich_catalogue(again, limit=0)
    encode(again, ClipSettings())
    assert json.loads((again.path/"encode"/"manifest.json").read_text())["summary"]["computed now"] <= 1 + (~good).sum() + 1


SAID = [("Blue Wok", "useful for stir fry", "a pan"), ("Rice Bowl", "", ""),     # title, LLM text, description
        ("", "keeps the tea warm", ""), ("   ", "", ""), ("", "", "a tin of tea"), ("", "  ", " ")]
HAS = {"title": [1, 1, 0, 0, 0, 0], "llm": [1, 1, 1, 0, 0, 0],
       "title+llm": [1, 1, 1, 0, 0, 0], "title+description": [1, 1, 0, 0, 1, 0]}


@pytest.mark.parametrize("text", HAS)
def test_a_blank_title_is_no_text(text, tmp_path):
    "An item has a text if its title has words, or if what is read beside the title has."
    title, llm, description = zip(*SAID)
    (tmp_path/"data").mkdir()
    items = pd.DataFrame({"item": range(1, 7), "domain": ["food"] * 3 + ["kitchen"] * 3, "title": title})
    items.to_parquet(tmp_path/"data"/"items.parquet")
    rng = np.random.default_rng(0)
    sequences = pd.DataFrame({"user": [f"u{k}" for k in range(40)], "items": [rng.permutation(6) + 1 for _ in range(40)]})
    sequences.to_parquet(tmp_path/"data"/"sequences.parquet")
    run = open_run(tmp_path/"runs"/"r", str(tmp_path/"data"), "smoke", 0, "cpu")
    prepare(run)
    order = load_dataset(run.path/"prepare").items["title"].str.strip().tolist()
    assert order == [t.strip() for t in title]
    (run.path/"enrich").mkdir()
    enriched = pd.DataFrame({"item_id": range(1, 7), "title": [" ".join(t.split()) for t in title], "description": description, "llm": llm})
    enriched.to_parquet(run.path/"enrich"/"llm_text.parquet")
    features = load_features(encode(run, ClipSettings(text=text)))
    has = features.has["tex"][1:]
    assert has.tolist() == [bool(h) for h in HAS[text]]
    vectors = np.asarray(features.vectors["tex"])
    assert (vectors[0] == 0).all() and (vectors[1:][~has] == 0).all()
    assert np.allclose(np.linalg.norm(vectors[1:][has], axis=1), 1, atol=1e-5)
    model, _, tokenizer = load_clip(device="cpu")
    alone = encode_texts_clip(["Rice Bowl"], model, tokenizer, device="cpu")[0]
    assert np.abs(vectors[2] - alone).max() < 1e-5, "without an LLM answer and a description the title is read"
