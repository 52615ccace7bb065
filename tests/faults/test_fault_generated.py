"""Generated faults: broken tables, files, settings and answers of a language model. Whatever comes
is refused with `InputError`, or gives a result that holds what is promised. Always the same
examples."""
import gzip
import json
import math
import os
import string
import tempfile
from dataclasses import fields
from io import BytesIO
from pathlib import Path
from typing import get_args, get_origin

import numpy as np
import pandas as pd
import pytest
from good_data import good_tables, write_tables
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase
from PIL import Image

from llm_emf.abxi import ABXISettings
from llm_emf.baselines import ItemKNNSettings
from llm_emf.blend import MixSettings
from llm_emf.c2dsr import C2DSRSettings
from llm_emf.clip import ClipSettings
from llm_emf.core import InputError, with_words
from llm_emf.data import build_dataset, read_folder
from llm_emf.enrich import COLUMNS, Cache
from llm_emf.fetch import NoPicture, small_jpeg
from llm_emf.llm import BackendSettings, LLMSettings, parse_answer
from llm_emf.model import ModelSettings
from llm_emf.neighbours import NeighbourSettings
from llm_emf.readers import CleanSettings, read_amazon, read_c2dsr, read_recbole
from llm_emf.readers import write_c2dsr, write_recbole
from llm_emf.sequential import BERTSettings
from llm_emf.shop import ShopSettings
from llm_emf.train import TrainSettings


FUZZ = os.environ.get("LLM_EMF_FUZZ") # a folder: tests/fuzz.py keeps what it finds there


def examples(n): # n examples, always the same; under tests/fuzz.py new ones each time
    new = {"database": DirectoryBasedExampleDatabase(FUZZ)} if FUZZ else {"database": None}
    return settings(max_examples=n, derandomize=not FUZZ, deadline=None, print_blob=bool(FUZZ),
                    suppress_health_check=list(HealthCheck), **new)


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=30) # halves of characters too
SCALAR = st.one_of(st.none(), st.booleans(), st.integers(-2**63, 2**63 - 1), st.floats(), ANY_TEXT,
                   st.binary(max_size=8), st.dates(), st.just(pd.NA), st.just(pd.NaT))
VALUE = st.one_of(SCALAR, st.lists(st.one_of(st.integers(-3, 45), SCALAR), max_size=8),
                  st.lists(st.integers(0, 39), min_size=1, max_size=8))


def check_dataset(data):
    "What every later stage relies on."
    n = data.n_items
    assert 0 < data.n_x < n and data.items["item_id"].tolist() == list(range(1, n + 1))
    assert (data.item >= 1).all() and (data.item <= n).all() and len(data.item) == data.offset[-1]
    assert data.offset[0] == 0 and (np.diff(data.offset) > 0).all()
    assert len(set(data.user)) == len(data.user) == len(data.offset) - 1
    for column in ("asin", "domain", "title"):
        assert data.items[column].map(type).eq(str).all(), column
    assert data.items["asin"].is_unique
    if data.time is not None:
        assert np.isfinite(data.time).all()
        for a, b in zip(data.offset, data.offset[1:]):
            assert (np.diff(data.time[a:b]) >= 0).all()


@examples(400)
@given(st.lists(st.tuples(st.sampled_from([(0, c) for c in ("item", "domain", "title", "asin",
                                                            "brand", "picture")]
                                          + [(1, c) for c in ("user", "items", "times", "split")]),
                          st.integers(0, 29), VALUE), min_size=1, max_size=3))
@example([((0, "domain"), 0, "\ud800")]) # half a character; found by `make fuzz`, as the next
@example([((1, "items"), 0, ["", b"\x80"])]) # text and bytes in one list
@example([((1, "items"), 0, [1, "a"])])
@example([((1, "items"), 0, [[1], [2, 3]])])
def test_tables_with_odd_cells(changes):
    tables = good_tables()
    for (table, column), row, value in changes:
        table = tables[table]
        values = table[column].tolist() if column in table else ["x"] * len(table)
        values[row] = value
        table[column] = pd.Series(values, dtype=object)
    try:
        data = build_dataset("odd", *tables)
    except InputError as e:
        assert "the tables/" in str(e) and len(str(e)) < 1000
    else:
        check_dataset(data)


@examples(200)
@given(st.sampled_from(["item", "domain", "title", "user", "items", "times", "split"]),
       st.one_of(st.lists(SCALAR, min_size=40, max_size=40),
                 SCALAR.map(lambda value: [value] * 40)))
@example("item", ["\ud800"] * 40)
def test_tables_with_odd_columns(column, values):
    items, sequences = good_tables()
    table = items if column in ("item", "domain", "title") else sequences
    try:
        table[column] = pd.Series(values[:len(table)])
    except UnicodeEncodeError: # half a character
        table[column] = pd.Series(values[:len(table)], dtype=object)
    try:
        data = build_dataset("odd", items, sequences)
    except InputError as e:
        assert "the tables/" in str(e)
    else:
        check_dataset(data)


CHANGE = st.tuples(st.sampled_from(["insert", "replace", "delete", "cut"]), st.floats(0, 1),
                   st.one_of(st.binary(max_size=6), st.sampled_from(
                       [b"\t", b"\n", b"\t\t", b"\r", b"\0", b"|", b"-1", b"nan", b"1e999", b"\xff",
                        b'"', b"9" * 400, b"\xef\xbb\xbf", b"\n\n", b"\xd9\xa3"])))


def spoil(content, changes):
    for what, where, new in changes:
        at = int(where * len(content))
        end = {"insert": at, "replace": at + len(new), "delete": at + 7, "cut": len(content)}[what]
        content = content[:at] + (b"" if what in ("delete", "cut") else new) + content[end:]
    return content


def canonical():
    items, sequences = good_tables()
    items = items.assign(item=items["item"] + 1, asin=[f"B{k}" for k in items["item"]])
    return items, sequences.assign(items=[[i + 1 for i in x] for x in sequences["items"]],
                                   split=[("train", "valid", "test")[k % 3] for k in range(30)])


@examples(250)
@given(st.sampled_from(["toy.inter", "toy.item"]), st.lists(CHANGE, min_size=1, max_size=3))
def test_recbole_files_with_odd_bytes(file, changes):
    with tempfile.TemporaryDirectory() as folder:
        write_recbole(folder, "toy", *canonical())
        path = Path(folder, file)
        path.write_bytes(spoil(path.read_bytes(), changes))
        try:
            data = build_dataset("odd", *read_recbole(folder), folder, ("toy.item", "toy.inter"))
        except InputError as e:
            assert "toy." in str(e) and len(str(e)) < 1000
        else:
            check_dataset(data)


@examples(250)
@given(st.sampled_from(["Alist.txt", "Blist.txt", "traindata_new.txt"]),
       st.lists(CHANGE, min_size=1, max_size=3))
@example("Blist.txt", [("insert", 0.125, b"\x1c")]) # a space to `strip`, not to `int`
def test_c2dsr_files_with_odd_bytes(file, changes):
    with tempfile.TemporaryDirectory() as folder:
        write_c2dsr(folder, *canonical())
        path = Path(folder, file)
        path.write_bytes(spoil(path.read_bytes(), changes))
        try:
            items, sequences, rejected = read_c2dsr(folder)
            data = build_dataset("odd", items, sequences, folder)
        except InputError as e:
            assert len(str(e)) < 1000
            return
        check_dataset(data)
        if file != "traindata_new.txt": # a sequence is taken or rejected
            assert len(data.user) + rejected["file"].str.contains("data").sum() == 30


CATEGORIES = ("Grocery_and_Gourmet_Food", "Home_and_Kitchen")
LINES = {"reviews_{}_5.json": '{"reviewerID": "u", "asin": "B", "unixReviewTime": 1388534400}',
         "meta_{}.json": "{'asin': 'B', 'title': 'A wok', 'categories': [['Pans']]}"}


@examples(250)
@given(st.sampled_from(list(LINES)), st.booleans(), st.booleans(), st.lists(CHANGE, max_size=3))
def test_amazon_files_with_odd_bytes(kind, spoil_archive, allow_damaged, changes):
    with tempfile.TemporaryDirectory() as folder:
        for category in CATEGORIES:
            for name, text in LINES.items():
                lines = "\n".join(text.replace("'B", f"'B{k}").replace('"B', f'"B{k}')
                                  for k in range(20)).encode()
                mine = name == kind and category == CATEGORIES[0]
                content = gzip.compress(lines if spoil_archive or not mine else
                                        spoil(lines, changes))
                if mine and spoil_archive:
                    content = spoil(content, changes)
                Path(folder, name.format(category) + ".gz").write_bytes(content)
        try:
            p = read_amazon(folder, 2014, CATEGORIES, ("x", "y"), allow_damaged)
        except InputError as e:
            assert ".json" in str(e) and len(str(e)) < 1000
            return
        assert len(p.user) + len(p.rejected) >= 20 and np.isfinite(p.time).all()
        p.items.to_parquet(Path(folder, "items.parquet")) # no half characters


@examples(150)
@given(st.sampled_from(["items.parquet", "sequences.parquet"]),
       st.lists(CHANGE, min_size=1, max_size=3))
def test_parquet_files_with_odd_bytes(file, changes):
    with tempfile.TemporaryDirectory() as folder:
        path = write_tables(Path(folder), *good_tables())/file
        path.write_bytes(spoil(path.read_bytes(), changes))
        try:
            data = read_folder(folder)
        except InputError as e:
            assert len(str(e)) < 1000
        else:
            check_dataset(data)


def picture_bytes(kind):
    out = BytesIO()
    Image.effect_noise((70, 50), 60).convert("RGB").save(out, kind)
    return out.getvalue()


PICTURES = {kind: picture_bytes(kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")}


@examples(150)
@given(st.sampled_from(list(PICTURES)), st.lists(CHANGE, max_size=4))
def test_pictures_with_odd_bytes(kind, changes):
    try:
        found = small_jpeg(spoil(PICTURES[kind], changes))
    except NoPicture as e:
        assert len(e.reason) < 300
    else:
        assert Image.open(BytesIO(found)).size[0] <= 70_000


ROW = dict(zip(COLUMNS, ("k" * 32, "m", "{}", "[]", "a pan", 5, 5, 0.1)))


@examples(100)
@given(st.lists(st.tuples(st.sampled_from(COLUMNS), SCALAR), max_size=2),
       st.lists(CHANGE, max_size=2))
@example([("answer", b"")], []) # bytes in one row make the whole column bytes
@example([("answer", None)], [])
@example([("key", b"k")], [])
def test_files_of_answers_with_odd_cells_and_bytes(cells, changes):
    with tempfile.TemporaryDirectory() as folder:
        path, cache = Path(folder, "a.parquet"), Cache(Path(folder, "c.sqlite"))
        try:
            pd.DataFrame([ROW, ROW | dict(cells)]).to_parquet(path)
        except (ValueError, TypeError, OverflowError): # no such table can be written
            return
        path.write_bytes(spoil(path.read_bytes(), changes))
        try:
            cache.merge_parquet(path)
        except InputError as e:
            assert "a.parquet" in str(e) and len(str(e)) < 1000
        assert set(cache.get(["k" * 32]).values()) <= {"a pan"} or changes


SETTINGS = (TrainSettings, ClipSettings, LLMSettings, BackendSettings, CleanSettings, ShopSettings,
            ModelSettings, BERTSettings, ABXISettings, C2DSRSettings, NeighbourSettings,
            ItemKNNSettings, MixSettings)
ODD_SETTING = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), ANY_TEXT,
                        st.lists(st.integers(), max_size=2), st.binary(max_size=3),
                        st.lists(st.one_of(st.integers(), st.floats(), st.booleans()),
                                 max_size=3).map(tuple))


def check_settings(found):
    "Every value is of the kind that its field says, finite, and can be saved with a result."
    for f in fields(found):
        value, several = getattr(found, f.name), get_origin(f.type) is tuple
        kind = get_args(f.type)[0] if several else f.type
        assert not several or isinstance(value, tuple) and value, f.name
        for v in value if several else (value,):
            assert isinstance(v, (int, float) if kind is float else kind), f.name
            if kind in (int, float):
                assert isinstance(v, bool) is False and math.isfinite(v)
    json.dumps(vars(found), allow_nan=False)


@pytest.mark.parametrize("cls", SETTINGS)
def test_settings_of_odd_values(cls):
    @examples(150)
    @given(st.sampled_from([f.name for f in fields(cls)]), ODD_SETTING)
    def check(name, value):
        try:
            found = cls(**{name: value})
        except InputError as e:
            assert name in str(e)
        else:
            check_settings(found)
    check()


WORDS = st.text(st.sampled_from(string.ascii_letters + string.digits + "=+-., _\t\n\u0663é"),
                max_size=30)


@pytest.mark.parametrize("cls", SETTINGS)
def test_settings_of_odd_words(cls):
    @examples(150)
    @given(st.lists(st.tuples(st.sampled_from([f.name for f in fields(cls)]), st.one_of(
        WORDS, st.integers().map(str), st.floats().map(str))), max_size=3), WORDS)
    def check(pairs, more):
        words = " ".join([f"{name}={value}" for name, value in pairs] + [more])
        try:
            found = with_words(cls(), words)
        except InputError:
            return
        check_settings(found)
    check()


JSON = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), ANY_TEXT,
                              st.just("useful for stir fry and rice")),
                    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(
                        st.one_of(ANY_TEXT, st.sampled_from(["terms", "summary", "title"])),
                        inner, max_size=4)), max_leaves=12)
WRITTEN = JSON.map(json.dumps)
MANY = st.tuples(st.sampled_from(["{", "[", '{"a":', "\\", '"']), st.integers(1, 20_000))
ANSWER = st.one_of(
    ANY_TEXT, WRITTEN, st.tuples(ANY_TEXT, WRITTEN, ANY_TEXT).map("".join),
    st.tuples(WRITTEN, st.integers(0, 60)).map(lambda x: x[0][:x[1]]), # cut off
    WRITTEN.map("<think>hm {{{}".format), MANY.map(lambda x: x[0] * x[1]))


@examples(500)
@given(ANSWER, ANY_TEXT, st.dictionaries(st.sampled_from(["brand", "categories", "description"]),
                                         st.one_of(st.none(), st.floats(), ANY_TEXT)))
@example('{"summary": "a \\ud800 pan for rice"}', "Wok", {})
@example('{"a":' * 50_000, "Wok", {})
@example("[" * 100_000, "Wok", {})
@example("<think>" * 50_000, "Wok", {})
@example("{" * 1_000_000, "Wok", {})
@example("a" * 5_000_000, "Wok", {})
def test_answers_of_a_language_model(answer, title, facts):
    text, reason = parse_answer(answer, title, facts)
    assert isinstance(reason, str) and reason
    if text is not None:
        text.encode()
        assert text == " ".join(text.split()) and len(text) < 5_100
