"The feature store: equal to direct calls, complete after a kill, honest about what is missing."
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from llm_emf.clip import ClipSettings, encode, encode_pictures, encode_texts_clip, load_clip
from llm_emf.core import open_run, set_seed, stage_summary
from llm_emf.data import load_dataset, prepare
from llm_emf.enrich import enrich_catalogue
from llm_emf.features import load_features
from llm_emf.model import LLMEMF, ModelSettings
from llm_emf.pictures import ShopPictures
from llm_emf.shop import make_catalogue


def random_weights(architecture, file):
    "Save an architecture with random weights."
    torch.manual_seed(0)
    model, _, _ = load_clip(architecture, "cpu", random=True)
    save_file({k: v.contiguous().clone() for k, v in model.state_dict().items()}, file)
    return f"{architecture}/{file}"


def unit(vectors):
    return (vectors / vectors.norm(dim=1, keepdim=True)).numpy()


@pytest.mark.parametrize("architecture", ["llm-emf-small", "ViT-S-32-alt"])
def test_features_are_those_of_a_direct_call(architecture, tmp_path):
    "The small CLIP, and another architecture with weights from a local file."
    small = architecture == "llm-emf-small"
    name = architecture if small else random_weights(architecture, tmp_path/"w.safetensors")
    model, preprocess, tokenizer = load_clip(name, "cpu")
    items = make_catalogue().sample(24, random_state=1)
    pictures, titles = ShopPictures(items, 64), items["title"].tolist()
    shown = items[items["shown"].isin(items["item_id"])]["item_id"].tolist()
    v, kept, _ = encode_pictures(pictures, shown, model, preprocess, batch_size=5, device="cpu")
    t = encode_texts_clip(titles, model, tokenizer, batch_size=7, device="cpu")
    import open_clip        # after load_clip, which repairs torchvision where that is needed
    direct = open_clip.get_tokenizer(architecture)
    with torch.inference_mode():
        dv = model.encode_image(torch.stack([preprocess(pictures[i]) for i in shown]))
        dt = model.encode_text(direct(titles))
    assert kept.all() and len(shown) > 15
    assert np.abs(v - unit(dv)).max() < 1e-5 and np.abs(t - unit(dt)).max() < 1e-5


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
        numbered = np.array([numbers[p] for p in places], np.float32)
        yield places, np.repeat(numbered[:, None], 128, 1)
encode_missing(store, keys, batches, block=500)
"""


def test_a_hundred_thousand_rows_survive_a_kill_and_open_at_once(tmp_path):
    from llm_emf.features import VectorStore, row_key
    script = tmp_path/"fill.py"
    script.write_text(FILL)
    command = [sys.executable, str(script), str(tmp_path/"store")]
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for _ in range(40):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.communicate()
    store = VectorStore(tmp_path/"store", {"model": "demo"}, 128)
    assert 0 < len(store) < 100_000
    subprocess.run(command, check=True, capture_output=True)
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
sys.stdin.readline()                            # all begin together
for at in range(first, first + 20_000, 64):
    block = range(at, min(at + 64, first + 20_000))
    vectors = np.repeat(np.arange(block.start, block.stop, dtype=np.float32)[:, None], 16, 1)
    store.append([row_key(f"item {n}") for n in block], vectors)
    print(at, flush=True)
"""


@pytest.mark.parametrize("writers", ["000", "012"], ids=["one pair of files", "files of their own"])
def test_three_processes_append_to_one_store_and_one_is_killed(writers, tmp_path):
    "Each offers 20,000 rows in blocks of 64, half of which its neighbour offers too."
    from llm_emf.features import VectorStore, row_key
    (tmp_path/"write.py").write_text(WRITE)
    command = [sys.executable, tmp_path/"write.py", tmp_path/"store"]
    started = [subprocess.Popen([*command, str(first), writer], text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
               for first, writer in zip((0, 10_000, 20_000), writers)]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        print(file=process.stdin, flush=True)
    for _ in range(60):
        last = started[2].stdout.readline()
    assert int(last) >= 20_000 + 50 * 64
    started[2].send_signal(signal.SIGKILL)
    for process in started:
        process.communicate(timeout=300)
    assert [process.returncode for process in started] == [0, 0, -signal.SIGKILL]
    store = VectorStore(tmp_path/"store", {"model": "demo"}, 16)
    files = store.folder.glob("*.keys")
    stored = np.concatenate([np.frombuffer(file.read_bytes(), "V16") for file in files])
    number = {row_key(f"item {n}"): n for n in range(40_000)}
    numbers = np.array([number[key] for key in stored.tolist()])
    vectors = store.rows(stored.tolist())
    wrong = (vectors != numbers[:, None]).any(axis=1).sum()
    assert wrong == 0, f"{wrong} rows hold another key's vector"
    assert len(np.unique(numbers)) == len(numbers) == len(store), "a key stands there twice"
    assert np.isin(np.arange(30_000), numbers).all(), "rows of the two that were not killed"
    reported = np.arange(20_000, int(last) + 64)
    assert np.isin(reported, numbers).all(), "rows that the third had reported"


READ = """
import sys, time
import numpy as np
from llm_emf.features import load_features
def resident(): # MiB of its own; pages of a mapped file are the system's cache
    lines = open("/proc/self/status")
    return next(int(l.split()[1]) for l in lines if l.startswith("RssAnon")) / 1024
before, began = resident(), time.perf_counter()
f = load_features(sys.argv[1], 100_000)
seconds, opened = time.perf_counter() - began, resident() - before
some = np.random.default_rng(0).choice(100_000, 200, replace=False) + 1
assert (f.vectors["tex"][some, 3] == some).all()
print(seconds, opened, resident() - before)
"""


def test_features_open_at_once_and_take_no_more_memory_than_is_read(tmp_path):
    n = 100_000
    vectors = np.repeat(np.arange(n + 1, dtype=np.float32)[:, None], 512, 1)
    np.save(tmp_path/"tex.npy", vectors)        # 200 MB
    np.save(tmp_path/"tex_has.npy", np.ones(n + 1, bool))
    command = [sys.executable, "-c", READ, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, opened, read = map(float, done.stdout.split())
    assert seconds < .05, f"opened in {seconds:.3f} s"
    assert opened < 3, f"{opened:.1f} MiB after opening a file of 200"
    assert read < 6, f"{read:.1f} MiB after reading 200 rows of 2 KiB"


SHARES = """
import sys
from accelerate import PartialState
from llm_emf.clip import ClipSettings, encode
from llm_emf.core import open_run
PartialState(cpu=True)
encode(open_run(sys.argv[1], sys.argv[2], "smoke", 0, "cpu"), ClipSettings())
print("processes", PartialState().num_processes)
"""


def test_two_processes_fill_one_store(launch, tmp_path):
    damaged_catalogue(tmp_path/"data")
    found = {}
    for n in (1, 2):
        run = open_run(tmp_path/str(n)/"r", str(tmp_path/"data"), "smoke", 0, "cpu")
        prepare(run)
        enrich_catalogue(run, limit=0)
        (tmp_path/"shares.py").write_text(SHARES)
        said = launch(n, tmp_path/"shares.py", run.path, tmp_path/"data")
        assert f"processes {n}" in said
        rejected = pd.read_parquet(run.path/"encode"/"rejected.parquet")
        found[n] = load_features(run.path/"encode"), rejected
    (one, rejected1), (two, rejected2) = found[1], found[2]
    for m in one.vectors:
        assert (one.has[m] == two.has[m]).all()
        assert np.abs(np.asarray(one.vectors[m]) - two.vectors[m]).max() < 1e-5
    assert rejected1.equals(rejected2) and len(rejected1) > 90
    writers = {p.stem for p in (tmp_path/"2"/"vectors").glob("*/*.keys") if p.stat().st_size}
    assert writers == {"0", "1"}


CORRUPT = [ # what may stand where a PNG file is expected
    lambda b: b[:len(b) // 2], lambda b: b"", lambda b: b"<html>not found</html>",
    lambda b: b"\x00" * 500, lambda b: b[8:], lambda b: b[:8],
    lambda b: b"GIF89a" + b"\xff" * 20, lambda b: b"\xff\xd8\xff\xe0" + b"\x00" * 40,
    lambda b: b[:33], lambda b: b"RIFF\x00\x00\x00\x00WEBP", lambda b: b"%PDF-1.4",
    lambda b: bytes(reversed(b))]


def write_pictures(folder, ids, state): # names relative to the folder; None for a missing one
    pictures, names, kind = ShopPictures(make_catalogue(), 64), [], 0
    (folder/"pictures").mkdir(parents=True)
    for i, s in zip(ids, state):
        if s == "missing":
            names.append(None)
            continue
        body = pictures.png(int(i))
        if s == "corrupt":
            body = CORRUPT[kind % len(CORRUPT)](body)
            kind += 1
        (folder/"pictures"/f"{i}.png").write_bytes(body)
        names.append(f"pictures/{i}.png")
    assert kind >= 12
    return names


def damaged_catalogue(folder, n=300): # what each picture is, rows with an empty title
    "A data set in files: 30% of the pictures missing, 5% corrupt, 1% of the titles empty."
    rng = np.random.default_rng(0)
    catalogue = make_catalogue().groupby("domain").head(n // 2).reset_index(drop=True)
    state, order = np.full(n, "good", dtype=object), rng.permutation(n)
    state[order[:int(.3 * n)]] = "missing"
    state[order[int(.3 * n):int(.35 * n)]] = "corrupt"
    ids, titles = catalogue["item_id"].to_numpy(), catalogue["title"].to_numpy(dtype=object)
    empty = order[-max(1, n // 100):]
    titles[empty] = ""
    items = pd.DataFrame({"item": ids, "domain": catalogue["domain"], "title": titles,
                          "picture": write_pictures(folder, ids, state),
                          "asin": catalogue["asin"]})
    bought = [rng.choice(ids, 8, replace=False) for _ in range(120)]
    sequences = pd.DataFrame({"user": [f"u{k}" for k in range(120)], "items": bought})
    items.to_parquet(folder/"items.parquet")
    sequences.to_parquet(folder/"sequences.parquet")
    return state, empty


def encoded(folder, data): # the run
    run = open_run(folder, str(data), "smoke", 0, "cpu")
    prepare(run)
    enrich_catalogue(run, limit=0)
    encode(run, ClipSettings())
    return run


@pytest.fixture(scope="module")
def damaged(tmp_path_factory): # run, what each picture is, rows with an empty title
    folder = tmp_path_factory.mktemp("damaged")
    state, empty = damaged_catalogue(folder/"data")
    return encoded(folder/"runs"/"r", folder/"data"), state, empty


def test_damage_of_a_catalogue_is_counted(damaged):
    run, state, empty = damaged
    f, good = load_features(run.path/"encode"), state == "good"
    assert f.has["img"][1:].tolist() == good.tolist()
    assert f.has["tex"][1:].sum() == len(good) - len(empty)
    rejected = pd.read_parquet(run.path/"encode"/"rejected.parquet")
    assert set(rejected["item_id"]) == set(np.flatnonzero(~good) + 1)
    assert rejected["reason"].str.len().gt(3).all()


def small_models(data, f): # one that knows what is missing, one that takes anything for a vector
    vectors = {m: np.array(v) for m, v in f.vectors.items()}
    full = {m: v.copy() for m, v in vectors.items()}
    for m, v in full.items():
        v[1:][~f.has[m][1:]] = 7.0                  # whatever stands there must not matter
    set_seed(0)
    settings = ModelSettings(d=16, hidden=16, layers=1)
    knows = LLMEMF(settings, data.n_items, data.n_x, vectors, f.has).eval()
    nonsense = LLMEMF(settings, data.n_items, data.n_x, full, f.has).eval()
    nonsense.load_state_dict(knows.state_dict())
    return knows, nonsense


def test_damage_of_a_catalogue_does_no_harm(damaged):
    "What stands in place of a missing vector has no effect; complete items keep their weights."
    run, _, _ = damaged
    data = load_dataset(run.path/"prepare")
    f = load_features(run.path/"encode", data.items)
    knows, nonsense = small_models(data, f)
    history = torch.from_numpy(data.item[:8].astype(np.int64))[None]
    for domain in (0, 1):
        scores = [model.scores(history, domain) for model in (knows, nonsense)]
        assert torch.allclose(*scores, atol=1e-6)
    complete = np.flatnonzero(f.has["img"] & f.has["tex"])[:20]
    keys = knows.keys(torch.from_numpy(complete), 0).view(20, 3, 16).norm(dim=-1)
    assert torch.allclose(keys, knows.fusion_weights()[0].expand(20, 3), atol=1e-5)


def test_another_run_with_one_changed_title_computes_two_rows(damaged):
    run, state, _ = damaged
    data = Path(run.dataset)
    items = pd.read_parquet(data/"items.parquet")
    items.loc[0, "title"] = "Another Thing Altogether"
    items.to_parquet(data/"items.parquet")
    again = encoded(run.path.parent/"again", data)
    bad = (state != "good").sum()                   # are tried again
    assert stage_summary(again.path/"encode")["computed now"] <= 1 + bad + 1


# title, LLM text, description
SAID = [("Blue Wok", "useful for stir fry", "a pan"), ("Rice Bowl", "", ""),
        ("", "keeps the tea warm", ""), ("   ", "", ""), ("", "", "a tin of tea"), ("", "  ", " ")]
HAS = {"title": [1, 1, 0, 0, 0, 0], "llm": [1, 1, 1, 0, 0, 0],
       "title+llm": [1, 1, 1, 0, 0, 0], "title+description": [1, 1, 0, 0, 1, 0]}


@pytest.mark.parametrize("text", HAS)
def test_a_blank_title_is_no_text(text, tmp_path):
    "An item has a text if its title has words, or if what is read beside the title has."
    title, llm, description = zip(*SAID)
    (tmp_path/"data").mkdir()
    domain = ["food"] * 3 + ["kitchen"] * 3
    items = pd.DataFrame({"item": range(1, 7), "domain": domain, "title": title})
    items.to_parquet(tmp_path/"data"/"items.parquet")
    rng = np.random.default_rng(0)
    bought = [rng.permutation(6) + 1 for _ in range(40)]
    sequences = pd.DataFrame({"user": [f"u{k}" for k in range(40)], "items": bought})
    sequences.to_parquet(tmp_path/"data"/"sequences.parquet")
    run = open_run(tmp_path/"runs"/"r", str(tmp_path/"data"), "smoke", 0, "cpu")
    prepare(run)
    order = load_dataset(run.path/"prepare").items["title"].str.strip().tolist()
    assert order == [t.strip() for t in title]
    (run.path/"enrich").mkdir()
    joined = [" ".join(t.split()) for t in title]
    enriched = pd.DataFrame({"item_id": range(1, 7), "title": joined,
                             "description": description, "llm": llm})
    enriched.to_parquet(run.path/"enrich"/"llm_text.parquet")
    features = load_features(encode(run, ClipSettings(text=text)))
    has = features.has["tex"][1:]
    assert has.tolist() == [bool(h) for h in HAS[text]]
    vectors = np.asarray(features.vectors["tex"])
    assert (vectors[0] == 0).all() and (vectors[1:][~has] == 0).all()
    assert np.allclose(np.linalg.norm(vectors[1:][has], axis=1), 1, atol=1e-5)
    model, _, tokenizer = load_clip(device="cpu")
    alone = encode_texts_clip(["Rice Bowl"], model, tokenizer, device="cpu")[0]
    assert np.abs(vectors[2] - alone).max() < 1e-5, "with nothing else, the title is read"
