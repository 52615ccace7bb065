"""Encoding into the feature store, against a bare forward pass over prepared tensors.

ViT-B-32 of open_clip with random weights (speed does not depend on their values) and the shop's pictures as JPEG files of 256 pixels.
The ways take many short turns, and each counts its best one, for machines here are noisy.
"""
import argparse
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from common import finish

from llm_emf.clip import FolderPictures, clip_text_batches, decoding_workers, load_clip, picture_batches
from llm_emf.core import pick_device
from llm_emf.features import VectorStore, encode_missing, row_key
from llm_emf.pictures import ShopPictures
from llm_emf.shop import make_catalogue

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--items", type=int, default=64)
parser.add_argument("--batch", type=int, default=32)
parser.add_argument("--turns", type=int, default=12)
parser.add_argument("--device", default="auto")
options = parser.parse_args()
device, B = pick_device(options.device), options.batch
torch.manual_seed(0)
model, preprocess, tokenizer = load_clip("ViT-B-32", device, random=True)


class Tensor: # a prepared tensor that answers like a picture: what is measured is the rest of our way
    def __init__(self, t): self.t = t
    def convert(self, mode): return self.t


def synchronise():
    if device.type == "cuda": torch.cuda.synchronize()


def bare(batches, encode):
    with torch.inference_mode(), torch.autocast("cuda", dtype=torch.bfloat16, enabled=device.type == "cuda"):
        for b in batches: encode(b.to(device))


with tempfile.TemporaryDirectory() as tmp:
    shop = make_catalogue().head(options.items)
    drawn, names = ShopPictures(make_catalogue(), 256), []
    for i in shop["item_id"]:
        names.append(f"{i}.jpg")
        drawn[int(i)].save(Path(tmp)/names[-1], quality=90)
    files = FolderPictures(pd.DataFrame({"item_id": shop["item_id"], "picture": names}), tmp)
    ids, titles = shop["item_id"].tolist(), shop["title"].tolist()
    tensors = {i: preprocess(files[i]) for i in ids}
    prepared = [torch.stack([tensors[i] for i in ids[k:k + B]]) for k in range(0, len(ids), B)]
    tokens = [tokenizer(titles[k:k + B]) for k in range(0, len(ids), B)]
    ready = {i: Tensor(t) for i, t in tensors.items()}
    turn = iter(range(10**6))

    def stored(batches): # into a store of its own
        store = VectorStore(f"{tmp}/{next(turn)}", {}, model.visual.output_dim)
        assert encode_missing(store, [row_key(str(i)) for i in ids], batches) == len(ids)

    def pictures(source, prepare, workers):
        return lambda: stored(lambda numbers: picture_batches(source, [ids[k] for k in numbers], model, prepare, B, device, workers))

    workers = max(1, decoding_workers())
    ways = {"pictures: bare forward pass": lambda: bare(prepared, model.encode_image),
            "pictures: ours, without decoding": pictures(ready, lambda t: t, 0),
            "pictures: ours, decoding in line": pictures(files, preprocess, 0),
            f"pictures: ours, decoding in {workers} more": pictures(files, preprocess, workers),
            "texts: bare forward pass": lambda: bare(tokens, model.encode_text),
            "texts: ours, with tokenizer": lambda: stored(lambda numbers: clip_text_batches([titles[k] for k in numbers], model, tokenizer, B, device))}
    bare(prepared[:1], model.encode_image)                                      # warm-up
    best = dict.fromkeys(ways, 0.0)
    for _ in range(options.turns):
        for name, way in ways.items():
            synchronise(); began = time.perf_counter()
            way()
            synchronise(); best[name] = max(best[name], len(ids) / (time.perf_counter() - began))
rows = [{"way": name, "items/s": round(rate, 1), "share of the bare pass": f"{rate / best[name.partition(':')[0] + ': bare forward pass']:.1%}"} for name, rate in best.items()]
decoded = max(rate for name, rate in best.items() if "decoding in" in name)
finish("encode_throughput", rows, decoded / best["pictures: bare forward pass"], items=len(ids), batch=B, turns=options.turns, architecture="ViT-B-32", device=str(device),
       ratio_means="pictures, decoding included, over a bare forward pass")
