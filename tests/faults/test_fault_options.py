"What a person may type: options, settings, stages in the wrong order, run folders that are odd."
import errno
import json
import os
import shutil
from dataclasses import MISSING, fields

import numpy as np
import pandas as pd
import pytest

from llm_emf.abxi import ABXISettings
from llm_emf.baselines import ItemKNNSettings
from llm_emf.blend import MixSettings
from llm_emf.c2dsr import C2DSRSettings
from llm_emf.clip import ClipSettings
from llm_emf.core import InputError
from llm_emf.llm import BackendSettings, LLMSettings
from llm_emf.model import ModelSettings
from llm_emf.neighbours import NeighbourSettings
from llm_emf.readers import CleanSettings
from llm_emf.sequential import BERTSettings, EnsRecSettings, SequenceSettings
from llm_emf.shop import ShopSettings
from llm_emf.train import NeuralSettings, TrainSettings


@pytest.fixture
def run(shop, tmp_path):
    "A prepared shop of this test's own."
    shutil.copytree(shop, tmp_path/"shop")
    return tmp_path/"shop"


@pytest.fixture
def places(run, folder, tmp_path):
    (tmp_path/"file").write_text("in the way")
    (tmp_path/"full").mkdir()
    (tmp_path/"full"/"thesis.txt").write_text("precious")
    return {"RUN": str(run), "DATA": str(folder), "TMP": str(tmp_path)}


SMOKE = "--profile smoke "
REFUSED = { # the command → the message; exit code 1
    "prepare --dataset TMP/nowhere --out TMP/r": "there is no such folder",
    "prepare --dataset shopp --out TMP/r": "unknown dataset 'shopp'",
    "prepare --dataset SHOP --out TMP/r": "unknown dataset 'SHOP'",
    "prepare --dataset amazon2015:food-kitchen --out TMP/r": "there are amazon2014:food-kitchen",
    "prepare --dataset amazon2014:food --out TMP/r": "unknown dataset 'amazon2014:food'",
    "prepare --dataset amazon:food-kitchen --out TMP/r": "unknown dataset",
    "prepare --dataset TMP/file --out TMP/r": "there is no such folder",
    "prepare --dataset TMP/full --out TMP/r": "full is no data set: items.parquet is missing",
    "reproduce --dataset TMP/nowhere --out TMP/r": "there is no such folder",
    "reproduce --dataset shop --device gpu --out TMP/r": "unknown device 'gpu'",
    "reproduce --dataset shop --device cuda:99 --out TMP/r": "device 'cuda:99' was asked for",
    "prepare --dataset shop --clean core_user=3 --out TMP/r": "--clean is for raw files",
    "prepare --dataset shop --source TMP --out TMP/r": "--source is for raw files",
    "prepare --dataset shop --allow-damaged --out TMP/r": "for raw files",
    "prepare --dataset DATA --clean core_user=3 --out TMP/r": "--clean is for raw files",
    "prepare --dataset DATA --source TMP --out TMP/r": "--source is for raw files",
    "prepare --dataset DATA --knobs users=5 --out TMP/r": "--knobs are the embedded shop's",
    "prepare --dataset DATA --split given --out TMP/r": "no split of its own; use leave-one-out",
    "prepare --dataset shop --split given --out TMP/r": "no split of its own; use leave-one-out",
    "prepare --dataset shop --split by-time --out TMP/r": "has no times",
    "prepare --dataset shop --ties random --out TMP/r": "no ties that could be broken",
    "prepare --clean core_users=3 --out TMP/r": "there is no setting 'core_users'; there are",
    "prepare --clean core_user --out TMP/r": "'core_user' is not of the form name=value",
    "prepare --clean core_user=-1 --out TMP/r": "core_user must be a whole number ≥ 0, not -1",
    "prepare --clean core_user=1.5 --out TMP/r": "core_user must be a whole number, not '1.5'",
    "prepare --clean users=all --out TMP/r": "users must be one of both, either, not 'all'",
    "prepare --clean duplicates=last --out TMP/r": "duplicates must be one of first, keep",
    "prepare --clean titled=maybe --out TMP/r": "titled must be true or false, not 'maybe'",
    "prepare --knobs users=0 --out TMP/r": "users must be a whole number ≥ 1, not 0",
    "prepare --knobs users=many --out TMP/r": "users must be a whole number, not 'many'",
    "prepare --knobs items=31 --out TMP/r": "items must be a whole number ≥ 32, not 31",
    "prepare --knobs transfer=2 --out TMP/r": "transfer must be a finite number in .0, 1., not 2",
    "prepare --knobs pictures=nan --out TMP/r": "pictures must be a finite number",
    "prepare --knobs mean_length=1 --out TMP/r": "mean_length must be a finite number ≥ 4",
    "prepare --knobs chain=-1 --out TMP/r": "chain must be a finite number ≥ 0",
    "prepare --knobs popularity=-2 --out TMP/r": "popularity must be a finite number ≥ 0",
    "prepare --knobs catalogue_seed=-1 --out TMP/r": "catalogue_seed must be a whole number ≥ 0",
    "prepare --knobs colours=3 --out TMP/r": "there is no setting 'colours'",
    "prepare --out TMP/file": "cannot be written",
    "prepare --out TMP/file/run": "cannot be written",
    "prepare --out TMP/full": "is not a run folder",
    "prepare --out RUN --seed 5 --profile smoke": "is of another seed \\(0; asked for: 5\\)",
    "prepare --out RUN --profile quick": "is of another profile",
    "prepare --out RUN --profile smoke --dataset DATA": "is of another dataset",
    "train --out TMP/no": "no is no run folder. Begin one with llm-emf prepare",
    "train --out TMP/full": "full is no run folder",
    "enrich --out TMP/file": "file is no run folder",
    "report --out RUN": "holds no ranks yet",
    "train --out RUN --method gpt": "unknown method 'gpt'",
    "train --out RUN --method sasrek": "Did you mean sasrec?",
    "evaluate --out RUN --method sasrek": "Did you mean sasrec?",
    "tune --out RUN --method sasrek": "Did you mean sasrec?",
    "train --out RUN --method id --device gpu": "choose one of auto, cpu, cuda",
    "evaluate --out RUN --method id --device cuda:99": "device 'cuda:99' was asked for",
    "encode --out RUN --device tpu": "unknown device 'tpu'",
    "enrich --out RUN --device tpu": "unknown device 'tpu'",
    "train --out RUN": "Run first: llm-emf encode --out",
    "encode --out RUN": "Run first: llm-emf enrich --out",
    "evaluate --out RUN --method id": "llm-emf train --method id --out",
    "train --out RUN --method popularity --epochs 3": "popularity has no settings to change",
    "train --out RUN --method item-kn": "Did you mean item-knn",
    "train --out RUN --method id --settings dropuot=0.3": "there is no setting 'dropuot'",
    "train --out RUN --method id --settings dropout": "name=value",
    "train --out RUN --method id --settings dropout=high": "dropout must be a finite number",
    "train --out RUN --method id --settings dropout=1": "a finite number in .0, 1\\), not 1",
    "train --out RUN --method id --settings dropout=nan": "dropout must be a finite number",
    "train --out RUN --method id --settings epochs=0": "epochs must be a whole number ≥ 1",
    "train --out RUN --method id --settings epochs=nan": "epochs must be a whole number",
    "train --out RUN --method id --settings clip_norm=-1": "clip_norm must be a finite number > 0",
    "train --out RUN --method id --settings weight_decay=-1": "weight_decay must be a finite",
    "train --out RUN --method id --settings save_minutes=-1": "must be a finite number ≥ 0, not -1",
    "train --out RUN --method id --settings sparse_ids=-1": "sparse_ids must be a whole number",
    "train --out RUN --method id --settings precision=fp8": "must be one of no, bf16, fp16",
    "train --out RUN --method id --settings heads=0": "heads must be a whole number ≥ 1",
    "train --out RUN --method id --settings d=63": "d must be divisible by heads",
    "train --out RUN --method id --settings temperature=0": "must be a finite number > 0, not 0",
    "train --out RUN --method id --settings loss=guess": "loss must be one of",
    "train --out RUN --method id --settings modalities=": "modalities must be one or more values",
    "train --out RUN --method id --settings modalities=smell": "each one of id, img, tex",
    "train --out RUN --method id --settings modalities=id+id": "name each at most once",
    "train --out RUN --method id --settings compile=perhaps": "compile must be true or false",
    "train --out RUN --method id --settings learn_temperature=2": "must be true or false",
    "train --out RUN --method gru4rec --settings max_length=1": "must be a whole number ≥ 2",
    "train --out RUN --method hybrid --settings views=id+smell": "a view is made of id, words",
    "train --out RUN --method bert4rec --settings masked=0": "a finite number in \\(0, 1\\]",
    "train --out RUN --method abxi --settings layers=2": "layers must be 1, not 2",
    "train --out RUN --method c2dsr --settings graph_layers=-1": "must be a whole number ≥ 0",
    "train --out RUN --method item-knn-order --settings decay=2": "a finite number in .0, 1.",
    "train --out RUN --method item-knn-order --settings window=0": "must be a whole number ≥ 1",
    "train --out RUN --method item-knn-text --settings text=poem": "one of title\\+llm, title",
    "train --out RUN --method blend --settings powers=": "one or more values, each a finite",
    "train --out RUN --method blend --settings bins=5+1": "bins must rise from 0",
    "train --out RUN --method blend --settings memory_weights=1": "in .0, 1\\)",
    "train --out RUN --method id --learning-rate nan": "learning_rate must be a finite number",
    "train --out RUN --method id --learning-rate -1": "learning_rate must be a finite number > 0",
    "train --out RUN --method id --learning-rate inf": "learning_rate must be a finite number",
    "enrich --out RUN --budget 1": "--budget needs prices",
    "enrich --out RUN --budget inf": "budget must be a finite number",
    "enrich --out RUN --backend budget=nan": "budget must be a finite number",
    "enrich --out RUN --backend concurrency=0": "concurrency must be a whole number ≥ 1",
    "enrich --out RUN --backend tries=0": "tries must be a whole number ≥ 1",
    "enrich --out RUN --backend timeout=0": "timeout must be a finite number ≥ 0.1",
    "enrich --out RUN --backend price_in=-1": "price_in must be a finite number ≥ 0",
    "enrich --out RUN --backend colour=red": "there is no setting 'colour'",
    "enrich --out RUN --base-url host:8000": "base_url must be an address such as",
    "enrich --out RUN --base-url http://me:sk-secret@host/v1": "base_url holds a user, a password",
    "enrich --out RUN --base-url http://host/v1?key=sk-secret": "base_url holds a user, a password",
    "enrich --out RUN --cache TMP": "cannot be used as the cache",
    "enrich --out RUN --cache TMP/file": "cannot be used as the cache",
    "enrich --out RUN --cache TMP/file/cache.sqlite": "cannot be used as the cache",
    "encode --out RUN --settings dtype=int8": "dtype must be one of float32, float16",
    "encode --out RUN --settings batch_size=0": "batch_size must be a whole number ≥ 1",
    "encode --out RUN --settings workers=-2": "workers must be a whole number ≥ -1",
    "encode --out RUN --settings long_text=drop": "long_text must be one of truncate, chunks",
    "encode --out RUN --settings pixels=3": "there is no setting 'pixels'",
}


@pytest.mark.parametrize("command", REFUSED)
def test_a_command_is_refused(refused, places, tmp_path, command):
    before = sorted((tmp_path/"shop").rglob("*.parquet"))
    args = command
    for name, place in places.items():
        args = args.replace(name + "/", place + "/").replace(f" {name}", f" {place}")
    message = refused(REFUSED[command], *args.split(" "))
    assert "sk-secret" not in message
    assert not (tmp_path/"r"/"prepare").exists()
    assert sorted((tmp_path/"shop").rglob("*.parquet")) == before, "nothing was made"


@pytest.mark.parametrize("dataset", ["nowhere", "shopp", "amazon2015:food-kitchen", "amazon2014:x"])
@pytest.mark.parametrize("command", ["prepare", "reproduce"])
def test_a_mistyped_data_set_leaves_nothing_behind(refused, tmp_path, command, dataset):
    refused("unknown dataset", command, "--dataset", dataset)
    assert not list(tmp_path.iterdir())


MISTYPED = { # the command → the message; exit code 2
    "evalute --out r": "Did you mean 'evaluate'",
    "prepare --profil smoke": "--profile",
    "prepare --profile huge": "'smoke', 'quick', 'paper'",
    "prepare --split random": "'leave-one-out'",
    "prepare --ties by-id": "'as-given'",
    "prepare --seed -1": "--seed",
    "prepare --seed 1.5": "--seed",
    "prepare --seed x": "--seed",
    "train": "--out",
    "train --out": "--out",
    "train --epochs many --out r": "--epochs",
    "train --epochs 0 --out r": "--epochs",
    "train --d 0 --out r": "--d",
    "train --precision fp8 --out r": "'bf16'",
    "train --learning_rate 0.1 --out r": "--learning-rate",
    "train --learning-rate fast --out r": "--learning-rate",
    "train --variant id --out r": "--variant",
    "encode --text titles --out r": "'title+llm'",
    "enrich --limit -2 --out r": "--limit",
    "enrich --budget -1 --out r": "--budget",
    "enrich --budget nan --out r": "--budget",
    "tune --minutes nan --out r": "--minutes",
    "reproduce --limit -2": "--limit",
    "pictures --concurrency 0 --out r": "--concurrency",
    "pictures --per-host 0 --out r": "--per-host",
    "tune --trials 0 --out r": "--trials",
    "tune --minutes -1 --out r": "--minutes",
    "report extra --out r": "extra",
}


@pytest.mark.parametrize("command", MISTYPED)
def test_a_mistyped_command_is_explained(here, tmp_path, command):
    code, _, err = here(*command.split())
    assert code == 2 and MISTYPED[command] in " ".join(err.split()), err
    assert not list(tmp_path.iterdir()), "nothing was begun"


SETTINGS = [ # class, field, values that are refused
    (TrainSettings, "epochs", (0, -1, 1.5, True, None, "3")),
    (TrainSettings, "valid_cases", (0, 2.0)), (TrainSettings, "patience", (0, "x")),
    (TrainSettings, "batch_tokens", (0, None)), (TrainSettings, "sparse_ids", (-1, 1e9)),
    (TrainSettings, "learning_rate", (0, -1e-3, float("nan"), float("inf"), None, "fast")),
    (TrainSettings, "weight_decay", (-1, float("nan"), "x")),
    (TrainSettings, "clip_norm", (0, -1, float("inf"))), (TrainSettings, "compile", (1, "yes")),
    (TrainSettings, "precision", ("fp8", None, 16)), (TrainSettings, "save_minutes", (-1, None)),
    (TrainSettings, "epochs", (10**400,)), (TrainSettings, "learning_rate", (10**400,)),
    (TrainSettings, "parts", (0, 1.5, None)), (TrainSettings, "deterministic", (1, "yes")),
    (ModelSettings, "modalities", ((), "id", ["id"], ("id", "id"), ("smell",), (1,), None)),
    (ModelSettings, "d", (0, 63, 64.0, True)), (ModelSettings, "heads", (0, None)),
    (ModelSettings, "layers", (0,)), (ModelSettings, "hidden", (0,)),
    (ModelSettings, "max_length", (0, "50")), (ModelSettings, "chunk", (0,)),
    (ModelSettings, "negatives", (-1, .5)), (ModelSettings, "dropout", (-.1, 1, True, None)),
    (ModelSettings, "temperature", (0, float("inf"))), (ModelSettings, "own", (-1, None)),
    (ModelSettings, "lambda1", (-1, float("nan"))), (ModelSettings, "lambda2", (-1, "1")),
    (ModelSettings, "learn_temperature", (0, 1, None)), (ModelSettings, "loss", ("bpr", None)),
    (ModelSettings, "fusion_per_domain", (0, 1.0)), (ModelSettings, "fusion", ("mean", True)),
    (ModelSettings, "encoders", (9,)), (ModelSettings, "missing", ("zero",)),
    (ModelSettings, "id_start", ("zeros",)), (ModelSettings, "id_length", (1, ["free"])),
    (SequenceSettings, "d", (0, 1.5)), (SequenceSettings, "layers", (0,)),
    (SequenceSettings, "dropout", (1, "0")), (SequenceSettings, "max_length", (1,)),
    (SequenceSettings, "id_length", ("long",)), (SequenceSettings, "temperature", (0, None)),
    (SequenceSettings, "learn_temperature", (0, "true")), (SequenceSettings, "chunk", (0,)),
    (SequenceSettings, "negatives", (-1,)), (BERTSettings, "heads", (0, 3)),
    (BERTSettings, "hidden", (0,)), (BERTSettings, "masked", (0, 1.1, None)),
    (BERTSettings, "last_only", (-.1, 1.1)), (BERTSettings, "position_scale", (0, "1")),
    (ABXISettings, "layers", (0, 2, True, 1.0)), (ABXISettings, "heads", (0, 3)),
    (ABXISettings, "hidden", (-1,)), (ABXISettings, "domain_rank", (0,)),
    (ABXISettings, "invariant_rank", (0, None)), (C2DSRSettings, "graph_layers", (-1, .5)),
    (C2DSRSettings, "contrast", (1, -.1, float("nan"))), (C2DSRSettings, "hidden", (0,)),
    (C2DSRSettings, "heads", (0, 3)),
    (ItemKNNSettings, "decays", ((), (0,), (1.1,), 1.0, [1.0], ("1",), (True,), None)),
    (ItemKNNSettings, "shrinks", ((), (-1,), (float("inf"),), (float("nan"),), 5)),
    (ItemKNNSettings, "valid_cases", (0, 1.5, None)),
    (EnsRecSettings, "text_weights", ((), (-.1,), (1.1,), (None,), .5)),
    (MixSettings, "powers", ((), (0,), (-1,), 1.0)), (MixSettings, "bin_cases", (0, 1.5)),
    (MixSettings, "memory_weights", ((), (1,), (-.1,), (float("nan"),))),
    (MixSettings, "bins", ((), (1, 2), (0, 0), (0, 1.5), (0, -1), 0)),
    *[(NeighbourSettings, name, (0, -1, 1.5, True, None))
      for name in ("window", "top", "nearest", "max_history", "valid_cases")],
    *[(NeighbourSettings, name, (-.1, 1.1, float("nan"), "x", None)) for name in (
        "decay", "recency", "own_recency", "from_power", "to_power", "least_gain")],
    *[(NeighbourSettings, name, (-1, float("inf"), float("nan"), None)) for name in (
        "backward", "own", "words", "words_power", "vectors", "vectors_power", "pictures",
        "pictures_power")],
    (NeighbourSettings, "trials", (-1, 1.5)), (NeighbourSettings, "text", ("llm", None)),
    (ClipSettings, "text", ("poem", None)), (ClipSettings, "long_text", ("drop",)),
    (ClipSettings, "dtype", ("int8",)), (ClipSettings, "batch_size", (0, 1.5, "8")),
    (ClipSettings, "workers", (-2, .5)), (ClipSettings, "clip", (None, 3)),
    (ClipSettings, "text_encoder", (None,)),
    (LLMSettings, "words", (0, 1.5, None)), (LLMSettings, "max_new_tokens", (0, "9")),
    (LLMSettings, "temperature", (-1, float("nan"), "hot")), (LLMSettings, "model", (None, 7)),
    (BackendSettings, "concurrency", (0, 1.5)), (BackendSettings, "tries", (0, None)),
    (BackendSettings, "timeout", (0, float("inf"), float("nan"))),
    (BackendSettings, "per_minute", (-1, .5)), (BackendSettings, "batch_size", (0,)),
    (BackendSettings, "price_in", (-1, float("nan"))), (BackendSettings, "price_out", ("1",)),
    (BackendSettings, "budget", (-1, float("nan"), float("inf"))),
    (BackendSettings, "base_url", (None, "host", "ftp://host", "http://u:p@host")),
    (BackendSettings, "key_variable", (None, 5)), (LLMSettings, "prompt", (None, 5)),
    *[(CleanSettings, name, (-1, 1.5, True, None)) for name in (
        "most_purchases", "most_a_day", "core_user", "core_user_each", "core_item",
        "window_days", "each_domain")],
    (CleanSettings, "duplicates", ("last",)), (CleanSettings, "users", ("all", None)),
    (CleanSettings, "titled", (1, None)), (CleanSettings, "allow_damaged", ("yes",)),
    (CleanSettings, "memory", ("much", "4", 4, None)),
    (ShopSettings, "items", (31, 100.0, None)), (ShopSettings, "users", (0, "5")),
    (ShopSettings, "mean_length", (3.9, float("inf"))), (ShopSettings, "transfer", (-.1, 1.1)),
    *[(ShopSettings, name, (-.1, 1.1, float("nan"), None))
      for name in ("pictures", "titles", "colour_in_title", "one_domain")],
    *[(ShopSettings, name, (-1, float("nan"), float("inf"), "1"))
      for name in ("theme", "look", "price", "circle", "chain", "popularity")],
    (ShopSettings, "catalogue_seed", (-1, 1.5)),
]


@pytest.mark.parametrize("cls, field, values", SETTINGS,
                         ids=[f"{c.__name__}.{f}" for c, f, _ in SETTINGS])
def test_a_setting_is_checked_when_it_is_set(cls, field, values):
    others = {f.name: NeuralSettings() for f in fields(cls) if f.default is MISSING}
    for value in values:
        with pytest.raises(InputError, match=rf"\b{field}\b"):
            cls(**others | {field: value})


@pytest.mark.parametrize("cls", list(dict.fromkeys(c for c, _, _ in SETTINGS)))
def test_no_setting_is_left_out(cls):
    names = {field for c, field, _ in SETTINGS if issubclass(cls, c)}
    assert {f.name for f in fields(cls) if f.default is not MISSING} == names


def write(name, content):
    return lambda run: (run/name).write_bytes(content)


def cut(name):
    return lambda run: (run/name).write_bytes((run/name).read_bytes()[:-100])


DAMAGE = { # what happened to a run folder → (how, the message)
    "run.json is empty": (write("run.json", b""), "run.json is damaged"),
    "run.json is half": (write("run.json", b'{"format": 1'), "run.json is damaged"),
    "run.json is a list": (write("run.json", b"[1]"), "run.json is damaged"),
    "run.json is nothing": (write("run.json", b"null"), "run.json is damaged"),
    "run.json lacks a field": (write("run.json", b'{"format": 1}'), "run.json is damaged"),
    "run.json is binary": (write("run.json", b"\xff\xfe\0"), "run.json is damaged"),
    "run.json has a text for a seed": (write("run.json", json.dumps(
        {"format": 1, "dataset": "shop", "profile": "smoke", "seed": "0"}).encode()), "is damaged"),
    "run.json is of a later version": (write("run.json", json.dumps(
        {"format": 9, "dataset": "shop", "profile": "smoke", "seed": 0}).encode()),
        "another version of llm-emf"),
    "a manifest is empty": (write("prepare/manifest.json", b""), "is damaged.*llm-emf prepare"),
    "a manifest is a list": (write("prepare/manifest.json", b"[]"), "prepare is damaged"),
    "a manifest lacks fields": (write("prepare/manifest.json", b"{}"), "prepare is damaged"),
    "a manifest has odd fields": (write("prepare/manifest.json", b'{"key": 1, "outputs": 2}'),
                                  "prepare is damaged"),
    "a table is cut": (cut("prepare/items.parquet"), "items.parquet is not as the stage wrote it"),
    "purchases are cut": (cut("prepare/purchases.parquet"), "purchases.parquet is not as"),
    "users are zeros": (write("prepare/users.parquet", b"\0" * 100), "users.parquet is not as"),
    "names are half": (write("prepare/dataset.json", b"{"), "dataset.json is not as"),
    "the split is changed": (write("prepare/split.json", b'{"how": "by-user"}'), "split.json is"),
    "a table is gone": (lambda run: (run/"prepare"/"users.parquet").unlink(), "users.parquet is"),
    "the stage is gone": (lambda run: shutil.rmtree(run/"prepare"), "Run first: llm-emf prepare"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_run_is_named_with_what_to_do(refused, run, case):
    spoil, said = DAMAGE[case]
    spoil(run)
    refused(said, "train", "--method", "popularity", "--out", run)
    refused(said, "enrich", "--out", run)


@pytest.mark.parametrize("case", ["a manifest is empty", "a table is cut", "a table is gone",
                                  "the split is changed", "a manifest has odd fields"])
def test_the_command_that_is_named_mends_it(run, here, case):
    from llm_emf.core import open_run
    from llm_emf.data import prepare
    DAMAGE[case][0](run)
    prepare(open_run(run, "shop", "smoke", 0, "cpu"), shop=ShopSettings(items=32, users=40))
    code, _, err = here("train", "--method", "popularity", "--out", run)
    assert code == 0, err


@pytest.fixture
def scored(run, here, folder, tmp_path):
    "A run of the small data set in which a neighbourhood model has been trained."
    out = tmp_path/"scored"
    assert here("prepare", "--dataset", folder, "--profile", "smoke", "--out", out)[0] == 0
    assert here("train", "--method", "popularity", "--out", out)[0] == 0
    return out


def test_what_a_method_kept_is_checked_before_it_is_read(refused, scored):
    file = next(p for p in (scored/"train-popularity").iterdir() if p.name != "manifest.json")
    for content in (b"", b"\0" * 10, file.read_bytes()[:-1]):
        file.write_bytes(content)
        refused(f"train-popularity is damaged: {file.name}.*train --method popularity",
                "evaluate", "--method", "popularity", "--out", scored)


@pytest.mark.parametrize("number, text", [
    (errno.ENOSPC, "No space left"), (errno.EACCES, "Permission denied"),
    (errno.EROFS, "Read-only"), (errno.EIO, "Input/output error"), (errno.EMFILE, "Too many open")])
def test_a_full_disk_is_one_line(refused, tmp_path, monkeypatch, number, text):
    def fails(*a, **b):
        raise OSError(number, os.strerror(number), "items.parquet")
    monkeypatch.setattr(pd.DataFrame, "to_parquet", fails)
    said = refused(f"{text}.*items.parquet.*run the same command again", "prepare", "--profile",
                   "smoke", "--out", tmp_path/"r")
    assert "\n" not in said
    monkeypatch.undo()
    assert not (tmp_path/"r"/"prepare").exists()


def test_a_mistake_of_the_program_keeps_its_traceback(here, tmp_path, monkeypatch):
    def fails(*a, **b):
        raise RuntimeError("a mistake")
    monkeypatch.setattr(pd.DataFrame, "to_parquet", fails)
    with pytest.raises(RuntimeError, match="a mistake"):
        here("prepare", "--profile", "smoke", "--out", tmp_path/"r")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    "Folders that hold no model."
    folder = tmp_path_factory.mktemp("models")
    for name, config in (("empty", None), ("half", "{"), ("odd", '{"model_type": "wok"}')):
        (folder/name).mkdir()
        if config:
            (folder/name/"config.json").write_text(config)
    (folder/"weights.pt").write_bytes(b"\0" * 100)
    return folder


@pytest.mark.parametrize("model", ["empty", "half", "odd"])
def test_a_folder_without_a_model_is_refused(refused, run, here, models, model):
    said = f"{model}' could not be loaded"
    refused(said, "enrich", "--out", run, "--model", models/model, "--limit", 2, "--no-cache")
    assert here("enrich", "--out", run, "--limit", 0)[0] == 0
    refused(said, "encode", "--out", run, "--text-encoder", models/model)


@pytest.mark.parametrize("clip, said", [
    ("nonsense", "open_clip knows no architecture 'nonsense'"), ("ViT-B-32", "needs weights"),
    ("ViT-B-32/nonsense", "the weights 'nonsense'.*could not be loaded"),
    ("llm-emf-small/MODELS/weights.pt", "weights.pt' of CLIP llm-emf-small could not be loaded"),
    ("llm-emf-small/MODELS/none.pt", "none.pt' of CLIP llm-emf-small could not be loaded")])
def test_a_clip_that_is_not_there_is_refused(refused, run, here, models, clip, said):
    assert here("enrich", "--out", run, "--limit", 0)[0] == 0
    refused(said, "encode", "--out", run, "--clip", clip.replace("MODELS", str(models)))


ODD_HISTORIES = { # what is given as histories → the message; None: it works
    "nothing": ([], "needs at least one purchase"), "None": (None, "must be a list of asins"),
    "a number": (5, "must be a list of asins"), "a text": ("0", "not one string"),
    "an unknown asin": (["x"], "asin 'x' is not in the catalogue"),
    "an empty history": ([["0"], []], "history 1 is empty"),
    "numbers": ([[1, 2]], "history 0: an asin is text, not 1"),
    "a number among lists": ([["0"], 5], "history 1 must be a list"),
    "a text among lists": ([["0"], "1"], "history 1 must be a list"),
    "lists of lists of lists": ([[["0"]]], "history 0: an asin is text"),
    "a None in a history": ([["0", None]], "an asin is text, not None"),
    "an array": (np.array(["0", "1"]), None), "a table's column": (pd.Series(["0", "1"]), None),
    "a tuple": (("0", "1"), None), "a generator": ((a for a in ("0", "1")), None),
    "a table's column of lists": (pd.Series([["0"], ["1", "2"]]), None),
    "arrays in a list": ([np.array(["0"]), np.array(["1"])], None),
    "the same asin a thousand times": (["0"] * 1000, None),
}


@pytest.mark.parametrize("case", ODD_HISTORIES)
def test_odd_histories_work_or_are_refused(scored, case):
    from llm_emf.recommend import Recommender
    given, said = ODD_HISTORIES[case]
    r = Recommender.load(scored, "popularity", device="cpu")
    if said is None:
        assert r.recommend(given, "a", k=3)["rank"].max() == 3
        return
    with pytest.raises(InputError, match=said):
        r.recommend(given, "a", k=3)


@pytest.mark.parametrize("k", [0, -1, 1.5, "3", None, True, float("nan"), [3]], ids=repr)
def test_an_odd_k_is_refused(scored, k):
    from llm_emf.recommend import Recommender
    with pytest.raises(InputError, match="k must be a whole number"):
        Recommender.load(scored, "popularity", device="cpu").recommend(["0"], "a", k=k)


@pytest.mark.parametrize("domain", ["c", "", 0])
def test_an_odd_domain_is_refused(scored, domain):
    from llm_emf.recommend import Recommender
    with pytest.raises(InputError, match="this model knows a and b"):
        Recommender.load(scored, "popularity", device="cpu").recommend(["0"], domain)


@pytest.mark.parametrize("case", [c for c in DAMAGE if c.startswith("run.json")])
def test_no_recommender_of_a_damaged_run(run, case):
    from llm_emf.recommend import Recommender
    DAMAGE[case][0](run)
    with pytest.raises(InputError, match=DAMAGE[case][1]):
        Recommender.load(run, "popularity", device="cpu")
