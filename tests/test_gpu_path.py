"""A training step does not wait for a GPU.

With the model on torch's device `meta`, which knows shapes but holds no numbers, every operation
whose shape depends on numbers of the device fails, and so does reading one. A step that passes here
never waits for a GPU. benchmarks/gpu.py counts the waits on a real one.
"""
import shutil

import pytest
import torch

from llm_emf.abxi import ABXI, ABXISettings
from llm_emf.c2dsr import C2DSR, C2DSRSettings
from llm_emf.hybrid import Hybrid, HybridSettings
from llm_emf.model import LLMEMF, VARIANTS, ModelSettings, variant_settings
from llm_emf.sequential import BERT4Rec, BERTSettings, GRU4Rec, SequenceSettings
from llm_emf.train import clip_gradients, compile_encoders

N, N_X = 300, 150


@pytest.fixture(scope="module")
def batch(): # items (20, 12), negatives
    "Histories of 2 to 12 items, on the CPU as the trainer has them."
    torch.manual_seed(0)
    items = torch.randint(1, N + 1, (20, 12))
    items[torch.arange(12)[None] >= torch.randint(2, 13, (20, 1))] = 0
    return items, (torch.randint(1, N_X + 1, (32,)), torch.randint(N_X + 1, N + 1, (32,)))


def llm_emf(variant: str, negatives: int) -> LLMEMF:
    "A small model of a variant; a third of the pictures is missing."
    features = {m: torch.randn(N + 1, 16) for m in ("img", "tex")}
    settings = variant_settings(variant, ModelSettings(d=16, negatives=negatives))
    return LLMEMF(settings, N, N_X, features, {"img": torch.arange(N + 1) % 3 > 0})


def hybrid(negatives: int) -> Hybrid:
    "A small hybrid model with words and texts, in two views."
    titles = [f"tea pot number{k % 7}" for k in range(N)]
    settings = HybridSettings(d=16, negatives=negatives, views=("id", "words-tex"))
    return Hybrid(settings, N, N_X, titles, {"tex": torch.randn(N + 1, 16)})


OTHERS = {
    "hybrid": hybrid,
    "gru4rec": lambda n: GRU4Rec(SequenceSettings(d=16, negatives=n), N, N_X),
    "bert4rec": lambda n: BERT4Rec(BERTSettings(d=16, negatives=n), N, N_X),
    "abxi": lambda n: ABXI(ABXISettings(d=16, negatives=n), N, N_X),
    "c2dsr": lambda n: C2DSR(C2DSRSettings(d=16, negatives=n), N, N_X),
}


def step(model, items, negatives) -> None:
    "Forward, backward and clipping on `meta`."
    model = model.to("meta").train()
    loss, targets = model(items, negatives)
    assert loss.device.type == "meta" and targets.device.type == "cpu" and int(targets) > 0
    loss.backward()
    clip_gradients(model.parameters(), 5.0)


@pytest.mark.parametrize("negatives", [0, 32])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_of_llm_emf_never_waits_for_the_device(variant, negatives, batch):
    step(llm_emf(variant, negatives), batch[0], batch[1] if negatives else None)


@pytest.mark.parametrize("negatives", [0, 32])
@pytest.mark.parametrize("name", [name for name in OTHERS if name != "c2dsr"])
def test_a_step_of_the_other_models_never_waits_for_the_device(name, negatives, batch):
    step(OTHERS[name](negatives), batch[0], batch[1] if negatives else None)


def test_c2dsr_is_the_exception(batch):
    "Its graph asks the device which neighbours a batch has; notebook 09d says so."
    with pytest.raises((NotImplementedError, RuntimeError)):
        step(OTHERS["c2dsr"](32), *batch)


@pytest.mark.slow # the compiler takes a minute or two
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("make", [lambda: llm_emf("llm-emf", 32), lambda: hybrid(32)],
                         ids=["llm-emf", "hybrid"])
def test_a_compiled_model_learns_what_it_did_before(make, batch):
    "Without dropout: the same loss and the same gradients."
    found = []
    for compiled in (False, True):
        torch.manual_seed(1)
        model = make()
        for part in model.modules():
            part.dropout = 0.0
        if compiled:
            compile_encoders(model)
        loss, _ = model(*batch)
        loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append({"loss": loss.detach()} | gradients)
    assert found[0].keys() == found[1].keys() and len(found[0]) > 10
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=1e-4, msg=name)
