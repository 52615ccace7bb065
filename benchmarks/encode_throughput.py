"""Encoding into the feature store, against a bare forward pass over prepared tensors.

ViT-B-32 of open_clip with random weights (speed does not depend on their values) and the shop's
pictures as JPEG files of 256 pixels. The ways take many short turns, and each counts its best one,
for machines here are noisy.
"""
import argparse
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from common import finish

from llm_emf.clip import FolderPictures, clip_text_batches, decoding_workers, load_clip
from llm_emf.clip import picture_batches
from llm_emf.core import pick_device
from llm_emf.features import VectorStore, encode_missing, row_key
from llm_emf.pictures import ShopPictures
from llm_emf.shop import make_catalogue

parser = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--items", type=int, default=64)
parser.add_argument("--batch", type=int, default=32)
parser.add_argument("--turns", type=int, default=12)
parser.add_argument("--device", default="auto")
options = parser.parse_args()
options.items = min(options.items, len(make_catalogue()))
device, B = pick_device(options.device), options.batch
torch.manual_seed(0)
model, preprocess, tokenizer = load_clip("ViT-B-32", device, random=True)


class Prepared:
    "A prepared tensor that answers like a picture: what is measured is the rest of our way."
    def __init__(self, tensor):
        self.tensor = tensor

    def convert(self, mode):
        return self.tensor


def synchronise() -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(way) -> float: # seconds
    synchronise()
    began = time.perf_counter()
    way()
    synchronise()
    return time.perf_counter() - began


def bare(batches, encode) -> None:
    "Forward passes and nothing else."
    half = torch.autocast("cuda", dtype=torch.bfloat16, enabled=device.type == "cuda")
    with torch.inference_mode(), half:
        for b in batches:
            encode(b.to(device))


def draw_pictures(shop, folder) -> FolderPictures:
    "The shop's pictures as JPEG files."
    drawn, names = ShopPictures(make_catalogue(), 256), []
    for i in shop["item_id"]:
        names.append(f"{i}.jpg")
        drawn[int(i)].save(Path(folder)/names[-1], quality=90)
    return FolderPictures(pd.DataFrame({"item_id": shop["item_id"], "picture": names}), folder)


def in_batches(values: list) -> list: # of lists
    return [values[k:k + B] for k in range(0, len(values), B)]


def ways(tmp: str) -> dict: # name → function
    "What is compared. A way that stores fills a store of its own."
    shop = make_catalogue().head(options.items)
    ids, titles, turn = shop["item_id"].tolist(), shop["title"].tolist(), iter(range(10**6))
    files, workers = draw_pictures(shop, tmp), max(1, decoding_workers())
    tensors = {i: preprocess(files[i]) for i in ids}
    ready = {i: Prepared(t) for i, t in tensors.items()}
    prepared = [torch.stack([tensors[i] for i in batch]) for batch in in_batches(ids)]
    tokens = [tokenizer(batch) for batch in in_batches(titles)]

    def stored(batches):
        store = VectorStore(f"{tmp}/{next(turn)}", {}, model.visual.output_dim)
        assert encode_missing(store, [row_key(str(i)) for i in ids], batches) == len(ids)

    def pictures(source, prepare, workers):
        return lambda: stored(lambda numbers: picture_batches(
            source, [ids[k] for k in numbers], model, prepare, B, device, workers))

    def texts():
        stored(lambda numbers: clip_text_batches(
            [titles[k] for k in numbers], model, tokenizer, B, device))

    bare(prepared[:1], model.encode_image)          # warm-up
    return {"pictures: bare forward pass": lambda: bare(prepared, model.encode_image),
            "pictures: ours, without decoding": pictures(ready, lambda t: t, 0),
            "pictures: ours, decoding in line": pictures(files, preprocess, 0),
            f"pictures: ours, decoding in {workers} more": pictures(files, preprocess, workers),
            "texts: bare forward pass": lambda: bare(tokens, model.encode_text),
            "texts: ours, with tokenizer": texts}


def best_rates(compared: dict) -> dict: # name → items a second
    "The best of many short turns, taken one after the other."
    best = dict.fromkeys(compared, 0.0)
    for _ in range(options.turns):
        for name, way in compared.items():
            best[name] = max(best[name], options.items / timed(way))
    return best


with tempfile.TemporaryDirectory() as tmp:
    best = best_rates(ways(tmp))
rows = []
for name, rate in best.items():
    share = rate / best[name.partition(":")[0] + ": bare forward pass"]
    rows.append({"way": name, "items/s": round(rate, 1), "share of the bare pass": f"{share:.1%}"})
decoded = max(rate for name, rate in best.items() if "decoding in" in name)
finish("encode_throughput", rows, decoded / best["pictures: bare forward pass"],
       items=options.items, batch=B, turns=options.turns, architecture="ViT-B-32",
       device=str(device), ratio_means="pictures, decoding included, over a bare forward pass")
