"""A GPU's training step, evaluation, encoding, and a small run from end to end, in some minutes.

First the device's two ceilings, measured: bytes copied and float32 products a second. Then a
training step of LLM-EMF, of the hybrid model and of SASRec with sampled negatives on Food-Kitchen's
catalogue (or a shop of about its size) with random vectors, for several batch sizes and precisions:

    ms a step       by the clock, of 100 steps (on a CPU, 3)
    prepare ms      of these, what making the batch and its negatives takes on the CPU
    waits           times that a step waited for the device; losses are read every 20 steps
    busy            share of the time in which the device computed (profiler)
    floor ms        what the arithmetic alone needs at the measured rate, or the reading and writing
                    of weights, gradients and AdamW's two moments; the larger of the two

Then the full softmax over the catalogue, forward and backward: ours, whose chunks of logits are
computed again in the backward pass, against torch's `linear_cross_entropy`.

Without a GPU everything runs on the CPU, slowly and without waits and busy.

    python benchmarks/gpu.py            # ratio: targets/s of LLM-EMF, largest over default batch
"""
import tempfile
import time
import warnings
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from common import finish, load_data, random_features
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from llm_emf.clip import encode, repair_torchvision
from llm_emf.core import open_run, pick_device
from llm_emf.data import prepare
from llm_emf.enrich import enrich_catalogue
from llm_emf.features import Features
from llm_emf.methods import find_method
from llm_emf.model import LLMEMF, full_log_likelihood
from llm_emf.task import evaluate_method, make_task, train_method
from llm_emf.train import ModelScorer, Trainer

DEVICE = pick_device("auto")
GPU = DEVICE.type == "cuda"
STEPS, WARM = (100, 20) if GPU else (3, 1)


def clock() -> float:
    "Seconds, when all work has been done."
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_of(work, times: int) -> float: # of one call
    "The mean time of some calls, after a few that are not counted."
    for _ in range(3):
        work()
    began = clock()
    for _ in range(times):
        work()
    return (clock() - began) / times


def ceilings() -> dict: # bytes/s of a copy, read and written; float32 operations/s of a product
    "What the device reaches at best."
    n = 2**28 if GPU else 2**24
    a, b = torch.randn(n, device=DEVICE), torch.empty(n, device=DEVICE)
    m = torch.randn(2**13 if GPU else 2**10, 2**13 if GPU else 2**10, device=DEVICE)
    return {"bytes/s": 8 * n / seconds_of(lambda: b.copy_(a), 10),
            "FLOP/s": 2 * len(m)**3 / seconds_of(lambda: m @ m, 5)}


def trainer_of(task, method: str, words: str) -> Trainer:
    "A trainer on the device, nothing trained yet."
    chosen = find_method(method)
    s = chosen.change(chosen.default_settings(task), words)
    if method == "hybrid":
        model = chosen.build(s.model, task)
    else:
        found = task.features(chosen.reads(s))
        model = LLMEMF(s.model, task.dataset.n_items, task.dataset.n_x, found.vectors, found.has)
    return Trainer(model, task, s.train, what=method)


def run_steps(trainer, batches) -> None:
    "Train on some batches."
    for k, rows in enumerate(batches):
        trainer.step(0, k, rows)
    trainer.read_losses()


def waits(trainer, batches) -> float: # a step
    "How often a step waits for the device, as torch counts it."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        run_steps(trainer, batches)
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(w.message) for w in caught) / len(batches)


def busy(trainer, batches) -> float: # share
    "The share of the time in which a kernel runs."
    with profile(activities=[ProfilerActivity.CUDA]) as p:
        began = clock()
        run_steps(trainer, batches)
        seconds = clock() - began
    return sum(e.self_device_time_total for e in p.key_averages()) / 1e6 / seconds


def floor_seconds(trainer, batches, top: dict) -> float:
    "The least time of a step at the measured ceilings."
    with FlopCounterMode(display=False) as counter:
        run_steps(trainer, batches[:3])
    parameters = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    flops = counter.get_total_flops() / min(3, len(batches))
    return max(flops / top["FLOP/s"], 7 * 4 * parameters / top["bytes/s"])


def prepare_seconds(trainer, batches) -> float: # a step
    "What making a batch and its negatives takes."
    began = time.perf_counter()
    for k, rows in enumerate(batches):
        trainer.share(rows)
        trainer.negatives(0, k)
    return (time.perf_counter() - began) / len(batches)


def step_row(task, method: str, words: str, top: dict) -> dict:
    "One line of the table."
    trainer = trainer_of(task, method, words)
    trainer.model.train()
    batches = trainer.batches(0)
    warm, batches = batches[:WARM], batches[WARM:WARM + STEPS]
    run_steps(trainer, warm)
    before, began = trainer.state["targets"], clock()
    run_steps(trainer, batches)
    seconds = clock() - began
    row = {"": f"{method} {words}", "ms a step": round(1e3 * seconds / len(batches), 2),
           "prepare ms": round(1e3 * prepare_seconds(trainer, batches), 2),
           "targets/s": round((trainer.state["targets"] - before) / seconds),
           "floor ms": round(1e3 * floor_seconds(trainer, batches, top), 3)}
    if GPU:
        row |= {"waits": round(waits(trainer, batches[:40]), 2),
                "busy": round(busy(trainer, batches[:40]), 2),
                "peak GiB": round(torch.cuda.max_memory_allocated() / 2**30, 2)}
        torch.cuda.reset_peak_memory_stats()
    return row


def evaluation_row(task, method: str) -> dict:
    "Test users ranked in a second, full ranking and 999 negatives."
    scorer = ModelScorer(trainer_of(task, method, "").model.to(DEVICE))
    cases = task.split["test"].sample(20_000 if GPU else 1000)
    task.rank(scorer, cases.sample(1000), device=DEVICE)
    began = clock()
    task.rank(scorer, cases, device=DEVICE)
    return {"": f"ranking by {method}", "users/s": round(len(cases) / (clock() - began))}


def encode_rows(texts: list) -> list:
    "Pictures and texts encoded in a second by CLIP ViT-B-32 with untrained weights."
    try:
        repair_torchvision()
        import open_clip
    except ImportError:
        return [{"": "encoding: open_clip is not installed"}]
    model = open_clip.create_model("ViT-B-32", device=str(DEVICE)).eval()
    tokens = open_clip.get_tokenizer("ViT-B-32")(texts[:256]).to(DEVICE)
    pictures = torch.randn(256, 3, 224, 224, device=DEVICE)
    with torch.inference_mode(), torch.autocast(DEVICE.type, torch.bfloat16, GPU):
        times = 10 if GPU else 1
        of_pictures = seconds_of(lambda: model.encode_image(pictures), times)
        of_texts = seconds_of(lambda: model.encode_text(tokens), times)
    return [{"": "CLIP ViT-B-32, pictures in memory", "pictures/s": round(256 / of_pictures)},
            {"": "CLIP ViT-B-32, texts", "texts/s": round(256 / of_texts)}]


def softmax_rows(n_items: int) -> list:
    "The log-likelihood of 2,048 targets among all items, forward and backward."
    torch.manual_seed(0)
    q = (8 * F.normalize(torch.randn(2048, 128, device=DEVICE), dim=1)).requires_grad_()
    k = F.normalize(torch.randn(n_items, 128, device=DEVICE), dim=1).requires_grad_()
    target = torch.randint(n_items, (2048,), device=DEVICE)
    ways = {f"ours, {chunk} logits' rows at a time": lambda chunk=chunk:
            -full_log_likelihood(q, k, target, chunk).sum() for chunk in (2048, 512)}
    if hasattr(F, "linear_cross_entropy"):
        options = torch.nn.LinearCrossEntropyOptions()
        ways["torch's linear_cross_entropy"] = lambda: F.linear_cross_entropy(
            q, k, target, reduction="sum", options=options)
    rows = []
    for name, loss in ways.items():
        if GPU:
            torch.cuda.reset_peak_memory_stats()
        seconds = seconds_of(lambda: loss().backward(), 20 if GPU else 1)
        rows.append({"": f"softmax: {name}", "ms": round(1e3 * seconds, 1),
                     "loss": round(loss().item(), 1)})
        if GPU:
            rows[-1]["peak GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return rows


def end_to_end_rows() -> list:
    "The shop from its purchases to ranks, profile smoke, each method trained and evaluated."
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(folder, "shop", "smoke", 0)
        began = clock()
        prepare(run)
        try:
            enrich_catalogue(run)
            encode(run)
            methods = ("llm-emf", "hybrid-rerank")
        except ImportError:
            methods = ("id",)
        rows.append({"": "shop: prepare, enrich, encode", "s": round(clock() - began, 1)})
        for name in (*methods, "gru4rec", "bert4rec", "abxi", "c2dsr"):
            began = clock()
            train_method(run, find_method(name))
            evaluate_method(run, find_method(name))
            rows.append({"": f"shop: train and evaluate {name}", "s": round(clock() - began, 1)})
    return rows


CASES = [("llm-emf", ""), ("llm-emf", "batch_tokens=2048"), ("llm-emf", "batch_tokens=8192"),
         ("llm-emf", "batch_tokens=8192 precision=bf16"), ("llm-emf", "compile=True"),
         ("hybrid", ""),
         ("hybrid", "batch_tokens=8192"), ("sasrec", ""), ("sasrec", "batch_tokens=8192")]

if __name__ == "__main__":
    data, _ = load_data()
    found = Features(random_features(data) | {"img": torch.from_numpy(
        np.random.default_rng(1).standard_normal((data.n_items + 1, 512), dtype=np.float32))}, {})
    task = replace(make_task(data, "leave-one-out"), loader=lambda kind: found)
    top = ceilings()
    print({name: f"{value:.3g}" for name, value in top.items()})
    rows = []
    for method, words in CASES:
        rows.append(step_row(task, method, words, top))
        print(rows[-1], flush=True)
    rows += [evaluation_row(task, "llm-emf"), evaluation_row(task, "hybrid")]
    rows += softmax_rows(data.n_items)
    rows += encode_rows(data.items["title"].astype(str).tolist())
    rows += end_to_end_rows()
    finish("gpu", rows, rows[2]["targets/s"] / rows[0]["targets/s"], ceilings=top)
