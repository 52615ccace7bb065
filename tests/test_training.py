"""Devices and precision: what ran in this process before has no effect, and what cannot work is
refused before training."""
from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState

from llm_emf import train
from llm_emf.core import InputError, set_seed
from llm_emf.data import shop_dataset
from llm_emf.model import LLMEMF, ModelSettings
from llm_emf.shop import ShopSettings
from llm_emf.task import make_task
from llm_emf.train import Trainer, TrainSettings, fit_model

SPARSE = ModelSettings(modalities=("id",), d=16, hidden=16, layers=1, negatives=8)


@pytest.fixture(scope="module")
def task():
    return make_task(shop_dataset(ShopSettings(users=60, items=60))[0])


def small_model(task, settings=SPARSE):
    set_seed(0)
    return LLMEMF(settings, task.dataset.n_items, task.dataset.n_x, {})


def trained(task, precision, steps=5):
    "The trainer and the weights after a few steps."
    model = small_model(task)
    trainer = Trainer(model, task, TrainSettings(precision=precision), device="cpu")
    trainer.loop(stop_after=steps)
    return trainer, model.id_embedding.weight.detach().clone()


def test_each_training_has_the_precision_that_it_asks_for(task):
    found = {}
    for precision in ("no", "bf16", "no"):
        trainer, weights = trained(task, precision)
        assert trainer.accelerator.mixed_precision == precision
        assert trainer.accelerator.state.mixed_precision == precision
        found.setdefault(precision, []).append(weights)
    first, again = found["no"]
    assert torch.equal(first, again), "bf16 in between changes nothing"
    assert not torch.equal(first, found["bf16"][0]), "bf16 was in use"


def test_the_loss_is_computed_under_autocast_where_bf16_is_asked_for(task, monkeypatch):
    seen = []
    forward = LLMEMF.forward
    def spy(self, *args):
        seen.append(torch.is_autocast_enabled("cpu"))
        return forward(self, *args)
    monkeypatch.setattr(LLMEMF, "forward", spy)
    for precision in ("bf16", "no"):
        trained(task, precision, steps=1)
    assert seen == [True, False]


def test_the_device_asked_for_holds_whatever_was_opened_before(task):
    "A `PartialState()` of somebody else, and one that chose another device."
    PartialState()
    assert trained(task, "no", 1)[0].device.type == "cpu"
    PartialState().device = torch.device("meta")    # as if it had found an accelerator
    trainer, weights = trained(task, "no", 1)
    assert trainer.device.type == trainer.accelerator.device.type == weights.device.type == "cpu"
    assert next(trainer.model.parameters()).device.type == "cpu"


def refuse(task, monkeypatch, settings, backend=None):
    "The error that a `Trainer` raises when accelerate reports a backend."
    accelerator = SimpleNamespace(num_processes=1, state=SimpleNamespace(backend=backend))
    monkeypatch.setattr(train, "make_accelerator", lambda *a: accelerator)
    with pytest.raises(InputError) as e:
        Trainer(small_model(task), task, settings, device="cpu")
    return str(e.value)


def test_sparse_ids_are_refused_where_they_do_not_work(task, monkeypatch):
    said = refuse(task, monkeypatch, TrainSettings(sparse_ids=0, precision="fp16"))
    assert "do not work with fp16" in said and 'sparse_ids=1000000000"' in said
    said = refuse(task, monkeypatch, TrainSettings(sparse_ids=0), backend="nccl")
    assert "do not work on several GPUs" in said and 'sparse_ids=1000000000"' in said


def test_sparse_ids_work_on_one_device_and_with_bf16(task):
    for precision in ("no", "bf16"):
        model = small_model(task)
        way = TrainSettings(sparse_ids=0, precision=precision, epochs=1)
        curve = fit_model(model, task, way, device="cpu")
        assert model.id_embedding.sparse and len(curve) == 1
