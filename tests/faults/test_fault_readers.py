"Broken RecBole, C2DSR and Amazon files: refused by name and line, or rejected and counted."
import gzip
import json
import re
import shutil

import pandas as pd
import pytest
from good_data import good_tables

from llm_emf.data import load_dataset
from llm_emf.raw import write_raw
from llm_emf.readers import write_c2dsr, write_recbole
from llm_emf.shop import ShopSettings


def canonical(): # tables as the writers want them
    items, sequences = good_tables()
    items = items.assign(item=items["item"] + 1, asin=[f"B{k}" for k in items["item"]])
    bought = [[i + 1 for i in x] for x in sequences["items"]]
    return items, sequences.assign(items=bought)


@pytest.fixture
def recbole(tmp_path):
    write_recbole(tmp_path/"data", "toy", *canonical())
    return tmp_path/"data"


@pytest.fixture
def c2dsr(tmp_path):
    items, sequences = canonical()
    parts = [("train", "valid", "test")[k % 3] for k in range(30)]
    write_c2dsr(tmp_path/"data", items, sequences.assign(split=parts))
    return tmp_path/"data"


def line(file, number, change): # change a line; lines are counted from 1
    def spoil(folder):
        lines = (folder/file).read_bytes().split(b"\n")
        lines[number - 1] = change(lines[number - 1])
        (folder/file).write_bytes(b"\n".join(lines))
    return spoil


def content(file, change): # change a whole file
    return lambda folder: (folder/file).write_bytes(change((folder/file).read_bytes()))


def field(file, number, place, value):
    def change(line):
        fields = line.split(b"\t")
        fields[place] = value
        return b"\t".join(fields)
    return line(file, number, change)


INTER, ITEM = r"data/toy\.inter.*", r"data/toy\.item.*"
RECBOLE = { # what is wrong → (what makes it so, the message)
    "two data sets": (lambda f: (f/"other.inter").write_text("x"),
                      r"data holds 2 \.inter files \(other\.inter, toy\.inter\)"),
    "no .item file": (lambda f: (f/"toy.item").unlink(), ITEM + "is not there"),
    "an empty .inter file": (content("toy.inter", lambda b: b""), INTER + "empty"),
    "an empty .item file": (content("toy.item", lambda b: b""), ITEM + "empty"),
    "a head without purchases": (content("toy.inter", lambda b: b.split(b"\n")[0] + b"\n"),
                                 INTER + "no purchases"),
    "a head without items": (content("toy.item", lambda b: b.split(b"\n")[0] + b"\n"),
                             ITEM + "no items"),
    "no user column": (line("toy.inter", 1, lambda b: b.replace(b"user_id", b"who")),
                       INTER + "lacks the column 'user_id'"),
    "no item column": (line("toy.inter", 1, lambda b: b.replace(b"item_id", b"what")),
                       INTER + "lacks the column 'item_id'"),
    "no domain": (line("toy.item", 1, lambda b: b.replace(b"domain", b"shop")),
                  ITEM + "lacks the column 'domain'"),
    "a column twice": (line("toy.inter", 1, lambda b: b.replace(b"timestamp", b"item_id")),
                       INTER + "'item_id' stands twice"),
    "commas": (content("toy.inter", lambda b: b.replace(b"\t", b",")), INTER + "lacks the column"),
    "a long line": (line("toy.inter", 5, lambda b: b + b"\t1\t2"), INTER + "line 5"),
    "a short line": (line("toy.inter", 5, lambda b: b.split(b"\t")[0]), INTER + "line 5"),
    "a blank user": (field("toy.inter", 5, 0, b" "), INTER + "line 5.*'user_id' is empty"),
    "a blank item": (field("toy.inter", 5, 1, b""), INTER + "line 5.*'item_id' is empty"),
    "a blank item in .item": (field("toy.item", 5, 0, b""), ITEM + "line 5.*'item_id' is empty"),
    "a blank domain": (field("toy.item", 5, 1, b""), ITEM + "line 5.*'domain' is empty"),
    "an item twice": (field("toy.item", 5, 0, b"B0"), ITEM + "line 5.*item 'B0' stands twice"),
    "an unknown item": (field("toy.inter", 5, 1, b"B99"), INTER + "line 5: item 'B99' is not in"),
    "three domains": (field("toy.item", 5, 1, b"c"), ITEM + "exactly two names, not 3"),
    "one domain": (content("toy.item", lambda b: b.replace(b"\tb\t", b"\ta\t")),
                   ITEM + "exactly two names, not 1"),
    "a time in words": (field("toy.inter", 5, 2, b"monday"), INTER + "line 5.*'monday'"),
    "no time": (field("toy.inter", 5, 2, b""), INTER + "line 5.*time"),
    "a time that is no number": (field("toy.inter", 5, 2, b"nan"), INTER + "line 5.*time"),
    "an endless time": (field("toy.inter", 5, 2, b"inf"), INTER + "line 5.*time"),
    "latin-1": (field("toy.item", 5, 2, b"Ger\xe4t"), ITEM + "line 5.*UTF-8"),
    "bytes": (content("toy.inter", lambda b: bytes(range(256)) * 9), INTER + "UTF-8"),
    "utf-16": (content("toy.inter", lambda b: b.decode().encode("utf-16")), INTER + "UTF-8"),
    "a page": (content("toy.inter", lambda b: b"<html>\n<p>404</p>\n</html>\n"),
               INTER + "lacks the column"),
    "a folder": (lambda f: ((f/"toy.inter").unlink(), (f/"toy.inter").mkdir()),
                 INTER + "is a folder"),
}


@pytest.mark.parametrize("case", RECBOLE)
def test_a_broken_recbole_file_is_refused(not_prepared, recbole, case):
    spoil, said = RECBOLE[case]
    spoil(recbole)
    not_prepared(said, recbole)


@pytest.mark.parametrize("change", [
    lambda b: b.replace(b"\n", b"\r\n"), lambda b: b"\xef\xbb\xbf" + b, lambda b: b + b"\n\n",
    lambda b: b.rstrip(b"\n"),
], ids=["lines of Windows", "a mark of UTF-8", "empty lines at the end", "no end of line"])
def test_an_unusual_recbole_file_is_taken(prepare, recbole, change, tmp_path):
    for file in ("toy.inter", "toy.item"):
        content(file, change)(recbole)
    code, _, err = prepare(recbole)
    assert code == 0, err
    data = load_dataset(tmp_path/"run"/"prepare")
    assert len(data.user) == 30 and data.n_items == 40 and len(data.item) == 180
    assert data.items["title"].iloc[-1] == "thing 39" and data.domains == ("a", "b")


def test_recbole_purchases_keep_the_order_of_fractions_of_a_second(prepare, recbole, tmp_path):
    times = [b"1.9", b"1.5", b"1.7", b"1.1", b"1.3", b"1.2"]
    for k, time in enumerate(times):
        field("toy.inter", 2 + k, 2, time)(recbole)
    assert prepare(recbole)[0] == 0
    data = load_dataset(tmp_path/"run"/"prepare")
    assert data.time[:6].tolist() == sorted(map(float, times))
    items = [int(x.split("\t")[1][1:]) for x in (recbole/"toy.inter").read_text().split("\n")[1:7]]
    by_time = [items[k] for k in (3, 5, 4, 1, 2, 0)]
    assert [int(a[1:]) for a in data.items["asin"].iloc[data.item[:6] - 1]] == by_time


LISTS = ("Alist.txt", "Blist.txt", "traindata_new.txt", "validdata_new.txt", "testdata_new.txt")
C2DSR = { # what is wrong → (what makes it so, the message)
    "an empty list of items": (content("Alist.txt", lambda b: b""), r"data/Alist\.txt.*no items"),
    "an empty second list": (content("Blist.txt", lambda b: b""), r"data/Blist\.txt.*no items"),
    "no training": (content("traindata_new.txt", lambda b: b""), "the train part.*is empty"),
    "no test": (content("testdata_new.txt", lambda b: b""), "the test part.*is empty"),
    "an item twice": (field("Alist.txt", 5, 1, b"B0"), r"data/Alist\.txt.*asin B0 stands twice"),
    "a number twice": (field("Alist.txt", 5, 2, b"3"), r"data/Alist\.txt.*item 4 stands twice"),
    "items of another list": (lambda f: [content(n, lambda b: b.replace(b"\t", b" "))(f)
                                         for n in LISTS[2:]],
                              r"data/traindata_new\.txt.*no sequence.*first because: not: user"),
}


@pytest.mark.parametrize("case", C2DSR)
def test_a_broken_c2dsr_folder_is_refused(not_prepared, c2dsr, case):
    spoil, said = C2DSR[case]
    spoil(c2dsr)
    not_prepared(said, c2dsr)


@pytest.mark.parametrize("counted_on", [False, True])
def test_an_asin_in_both_c2dsr_lists_is_two_items(prepare, c2dsr, tmp_path, counted_on):
    before = prepare(c2dsr)[0], load_dataset(tmp_path/"run"/"prepare")
    shutil.rmtree(tmp_path/"run")
    lines = [line.split("\t") for line in (c2dsr/"Blist.txt").read_text().split("\n")[:-1]]
    lines[3][1] = "B0"
    if counted_on: # as in copies of Entertainment-Education
        lines = [[a, asin, str(20 + int(index))] for a, asin, index in lines]
    (c2dsr/"Blist.txt").write_text("".join("\t".join(line) + "\n" for line in lines))
    assert prepare(c2dsr)[0] == before[0] == 0
    data = load_dataset(tmp_path/"run"/"prepare")
    asins = before[1].items["asin"].replace({"B0": "B0@X", "B23": "B0@Y"}).tolist()
    assert data.items["asin"].tolist() == asins and len(set(asins)) == 40
    assert data.item.tolist() == before[1].item.tolist()


@pytest.mark.parametrize("file", [n for n in LISTS if n != "traindata_new.txt"])
def test_a_missing_c2dsr_file_is_named(not_prepared, c2dsr, file):
    (c2dsr/file).unlink()
    not_prepared(f"data holds none of {file}", c2dsr)


BAD_SEQUENCES = [b"broken", b"", b"u\t1", b"u\t1\t2", b"u\t1\tx|3|d|", b"u\t1\t1|nan|d|",
                 b"u\t1\t999|3|d|", b"\xff\xfe\t1\t1|3|d|", b"\t1\t1|3|d|\t2|4|d|", b"\0" * 50,
                 b"u\t1\t-1|3|d|", b"<html>", b"u\t1\t1|" + b"9" * 5000 + b"|d|",
                 b"u\t1\t1|99999999999999999999999|d|"]


@pytest.mark.parametrize("bad", BAD_SEQUENCES, ids=range(len(BAD_SEQUENCES)))
def test_a_bad_c2dsr_line_is_rejected_and_counted(prepare, c2dsr, tmp_path, bad):
    line("traindata_new.txt", 4, lambda b: bad)(c2dsr)
    code, _, err = prepare(c2dsr)
    assert code == 0, err
    rejected = pd.read_parquet(tmp_path/"run"/"prepare"/"rejected.parquet")
    expected = [] if not bad else [("traindata_new.txt", 4)]
    assert list(zip(rejected["file"], rejected["line"])) == expected
    assert len(load_dataset(tmp_path/"run"/"prepare").user) == 29


REVIEWS, META = "reviews_Home_and_Kitchen_5.json.gz", "meta_Home_and_Kitchen.json.gz"


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    write_raw(folder, ShopSettings(users=400, items=60), year=2014)
    return folder


@pytest.fixture
def amazon(written, tmp_path):
    shutil.copytree(written, tmp_path/"raw")
    return tmp_path/"raw"


NAMED = ("amazon2014:food-kitchen", "--clean", "core_user=2 core_item=2 window_days=0", "--source")


def flip(b):
    at = len(b) // 2
    return b[:at] + bytes([b[at] ^ 255]) + b[at + 1:]


DAMAGE = { # what is wrong with an archive → (change of its bytes, the message)
    "cut short": (lambda b: b[:len(b) // 2], "is damaged.*ends too early"),
    "without its last bytes": (lambda b: b[:-4], "is damaged.*ends too early"),
    "a byte flipped": (flip, "is damaged"),
    "a page": (lambda b: b"<!DOCTYPE html>\n<html><body>503</body></html>", "is a web page"),
    "a page with space before": (lambda b: b"\n\n <HTML>404", "is a web page"),
    "plain text": (gzip.decompress, "is no gzip archive"),
    "zeros": (lambda b: b"\0" * 1000, "is no gzip archive"),
    "an error in XML": (lambda b: b"<?xml version='1.0'?><Error>AccessDenied</Error>", "is a web"),
    "nothing": (lambda b: b"", "is empty"),
    "garbage after its end": (lambda b: b + b"garbage", "is damaged"),
}


@pytest.mark.parametrize("file", [REVIEWS, META])
@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_archive_is_refused(not_prepared, amazon, case, file):
    change, said = DAMAGE[case]
    content(file, change)(amazon)
    message = not_prepared(f"raw/{file} {said}", *NAMED, amazon)
    assert "again" in message, "what to do is said"


@pytest.mark.parametrize("case", ["cut short", "a byte flipped", "garbage after its end"])
def test_what_can_be_read_of_a_damaged_archive_is_read_if_asked(prepare, amazon, tmp_path, case):
    content(REVIEWS, DAMAGE[case][0])(amazon)
    code, _, err = prepare(*NAMED, amazon, "--allow-damaged")
    assert code == 0, err
    rejected = pd.read_parquet(tmp_path/"run"/"prepare"/"rejected.parquet")
    assert set(rejected["file"]) == {REVIEWS}, "counted, with its reason"
    assert re.match("the file (ends too early|is damaged)", rejected["reason"].iloc[-1])


def test_a_page_is_refused_even_if_damage_is_allowed(not_prepared, amazon):
    content(REVIEWS, DAMAGE["a page"][0])(amazon)
    not_prepared(f"raw/{REVIEWS} is a web page", *NAMED, amazon, "--allow-damaged")


@pytest.mark.parametrize("file", [REVIEWS, META])
def test_a_plain_page_in_place_of_a_plain_file_is_named(not_prepared, amazon, file):
    (amazon/file).unlink()
    (amazon/file.removesuffix(".gz")).write_text("<html>503 Service Unavailable</html>\n")
    not_prepared(f"raw/{file.removesuffix('.gz')} is a web page", *NAMED, amazon)


def test_the_shop_in_amazon_form_is_taken(prepare, amazon):
    assert prepare(*NAMED, amazon)[0] == 0


def test_too_strict_cleaning_says_what_each_step_left(not_prepared, amazon):
    not_prepared(r"no purchase is left.*Relax the settings", NAMED[0], "--clean", "core_user=9999",
                 "--source", amazon)


ODD = [ # lines of reviews: what is rejected, and what is not
    ({"reviewerID": " "}, False), ({"reviewerID": None}, False), ({"asin": ""}, False),
    ({"reviewerID": "\ud800"}, False), ({"asin": "\udfff"}, False), ({"reviewerID": 7}, False),
    ({"unixReviewTime": float("nan")}, False), ({"unixReviewTime": float("inf")}, False),
    ({"unixReviewTime": True}, False), ({"unixReviewTime": "1388534400"}, False),
    ({"reviewerID": "u" * 65}, False), ({"overall": None}, True), ({"summary": "\ud800"}, True),
]


@pytest.mark.parametrize("odd, kept", ODD, ids=range(len(ODD)))
def test_an_odd_review_is_rejected_or_kept(prepare, amazon, tmp_path, odd, kept):
    lines = gzip.decompress((amazon/REVIEWS).read_bytes()).split(b"\n")
    lines[6] = json.dumps(json.loads(lines[6]) | odd).encode()
    (amazon/REVIEWS).write_bytes(gzip.compress(b"\n".join(lines)))
    code, _, err = prepare(*NAMED, amazon)
    assert code == 0, err
    rejected = pd.read_parquet(tmp_path/"run"/"prepare"/"rejected.parquet")
    assert rejected["line"].tolist() == ([] if kept else [7])


def test_lone_surrogates_in_metadata_do_no_harm(prepare, amazon, tmp_path):
    items = gzip.decompress((amazon/META).read_bytes()).split(b"\n")
    odd = [i.replace(b"'title': '", b"'title': '\\ud800") for i in items]
    odd = [i.replace(b"'brand': '", b"'brand': '\\udfff") for i in odd]
    (amazon/META).write_bytes(gzip.compress(b"\n".join(odd)))
    code, _, err = prepare(*NAMED, amazon)
    assert code == 0, err
    titles = load_dataset(tmp_path/"run"/"prepare").items["title"]
    assert titles.str.startswith("?").any(), "what cannot be written as UTF-8 becomes ?"


def test_milliseconds_keep_their_order(tmp_path):
    from llm_emf.readers import read_amazon
    for category in ("Grocery_and_Gourmet_Food", "Home_and_Kitchen"):
        rows = [{"user_id": "u", "parent_asin": f"{category}{k}", "timestamp": 10**12 + ms}
                for k, ms in enumerate((900, 100, 500))]
        (tmp_path/f"{category}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (tmp_path/f"meta_{category}.jsonl").write_text("")
    p = read_amazon(tmp_path, 2023, ("Grocery_and_Gourmet_Food", "Home_and_Kitchen"), ("f", "k"))
    assert p.time[:3].tolist() == [10**9 + .9, 10**9 + .1, 10**9 + .5]
