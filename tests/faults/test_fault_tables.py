"Broken data sets in parquet: refused with the file, the row and what to do, or taken as stated."
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from good_data import good_tables, write_tables

from llm_emf.data import load_dataset


def items_with(**columns):
    return lambda i, s: (i.assign(**columns), s)


def item_cell(column, row, value): # one cell of items.parquet
    def spoil(i, s):
        values = i[column].astype(object).tolist() if column in i else [f"B{k}" for k in range(40)]
        values[row] = value
        return i.assign(**{column: values}), s
    return spoil


def cell(column, row, value): # one cell of sequences.parquet
    def spoil(i, s):
        values = s[column].tolist() if column in s else ["train"] * 30
        values[row] = value
        return i, s.assign(**{column: values})
    return spoil


def column(name, make): # a whole column of sequences.parquet
    return lambda i, s: (i, s.assign(**{name: [make(k) for k in range(30)]}))


ITEMS, USERS = r"data/items\.parquet.*", r"data/sequences\.parquet.*"
REFUSED = { # what is wrong → (what makes it so, the message)
    "no column item": (lambda i, s: (i.drop(columns="item"), s), ITEMS + "lacks the column 'item'"),
    "no column domain": (lambda i, s: (i.drop(columns="domain"), s), ITEMS + "column 'domain'"),
    "no column title": (lambda i, s: (i.drop(columns="title"), s), ITEMS + "column 'title'"),
    "a capital letter": (lambda i, s: (i.rename(columns={"item": "Item"}), s), ITEMS + "'item'"),
    "no items": (lambda i, s: (i[:0], s), ITEMS + "holds no items"),
    "an item twice": (item_cell("item", 5, 4), ITEMS + "item 4 stands twice"),
    "a null item": (lambda i, s: (i.assign(item=i["item"].astype("Int64").mask(i["item"] == 3)), s),
                    ITEMS + "row 3.*'item' is empty"),
    "items that are fractions": (items_with(item=np.arange(40) + .5), ITEMS + "'item' must hold"),
    "items that are dates": (items_with(item=pd.date_range("2020", periods=40)),
                             ITEMS + "'item' must hold"),
    "items that are truth values": (items_with(item=[True, False] * 20), ITEMS + "'item' must"),
    "a null domain": (item_cell("domain", 7, None), ITEMS + "row 7.*'domain' is empty"),
    "a blank domain": (item_cell("domain", 7, " "), ITEMS + "row 7.*'domain' is empty"),
    "three domains": (item_cell("domain", 7, "c"), ITEMS + "exactly two names, not 3"),
    "one domain": (items_with(domain="a"), ITEMS + "exactly two names, not 1"),
    "domains in lists": (items_with(domain=[["a"]] * 40), ITEMS + "'domain' must hold"),
    "titles in lists": (items_with(title=[["a"]] * 40), ITEMS + "'title' must hold"),
    "titles in bytes": (items_with(title=[b"\xff\xfe"] * 40), ITEMS + "'title' must hold"),
    "an asin twice": (item_cell("asin", 9, "B8"), ITEMS + "asin B8 stands twice"),
    "a null asin": (item_cell("asin", 9, None), ITEMS + "row 9.*'asin' is empty"),
    "a blank asin": (item_cell("asin", 9, ""), ITEMS + "row 9.*'asin' is empty"),
    "asins in lists": (items_with(asin=[["a"]] * 40), ITEMS + "'asin' must hold"),
    "categories in lists": (items_with(categories=[["a"]] * 40), ITEMS + "'categories' must"),
    "a column of our own": (items_with(item_id=range(40)), ITEMS + "'item_id'"),
    "no column user": (lambda i, s: (i, s.drop(columns="user")), USERS + "lacks the column 'user'"),
    "no column items": (lambda i, s: (i, s.drop(columns="items")), USERS + "the column 'items'"),
    "no users": (lambda i, s: (i, s[:0]), USERS + "holds no users"),
    "a null user": (cell("user", 4, None), USERS + "row 4.*'user' is empty"),
    "a blank user": (cell("user", 4, "  "), USERS + "row 4.*'user' is empty"),
    "a user twice": (cell("user", 4, "u3"), USERS + "user u3 stands twice"),
    "users that are not numbers": (column("user", lambda k: float("nan") if k == 2 else float(k)),
                                   USERS + "'user' "),
    "users in lists": (column("user", lambda k: [k]), USERS + "'user' must hold"),
    "a null sequence": (cell("items", 6, None), USERS + r"row 6 \(user u6\).*empty"),
    "an empty sequence": (cell("items", 6, []), USERS + r"row 6 \(user u6\).*empty"),
    "a null in a sequence": (cell("items", 6, [1, None, 2]), USERS + "row 6.*an item is missing"),
    "an item that is not there": (cell("items", 6, [1, 99]), USERS + "row 6.*item 99 is not in"),
    "a negative item": (cell("items", 6, [1, -1]), USERS + "row 6.*item -1 is not in"),
    "a huge item": (cell("items", 6, [1, 2**62]), USERS + "row 6.*is not in"),
    "items that are half": (cell("items", 6, [1.5, 2.0]), USERS + "'items' must hold lists"),
    "items by name, ids in numbers": (column("items", lambda k: ["1", "2", "3", "4", "5", "6"]),
                                      USERS + "row 0.*item '?1'? is not in"),
    "sequences as text": (column("items", lambda k: "[1, 2, 3]"), USERS + "'items' must hold"),
    "sequences as numbers": (column("items", lambda k: 3), USERS + "'items' must hold lists"),
    "lists of lists": (column("items", lambda k: [[1, 2], [3]]), USERS + "'items' must hold lists"),
    "lists of truth values": (column("items", lambda k: [True, False]), USERS + "'items' must"),
    "times and items differ": (cell("times", 6, [1, 2]), USERS + r"row 6 \(user u6\).*2 times.*6"),
    "they differ in two rows, not in sum": (
        lambda i, s: (i, s.assign(times=[[1] * 5, [1] * 7] + s["times"].tolist()[2:])),
        USERS + "row 0.*5 times.*6 items"),
    "no times for one": (cell("times", 6, None), USERS + "row 6.*0 times"),
    "a time that is no number": (cell("times", 6, [1., 2, 3, float("nan"), 5, 6]),
                                 USERS + "row 6.*time"),
    "an endless time": (cell("times", 6, [1., 2, 3, 4, 5, float("inf")]), USERS + "row 6.*time"),
    "a null time": (cell("times", 6, [1, 2, None, 4, 5, 6]), USERS + "row 6.*time"),
    "times in words": (column("times", lambda k: list("abcdef")), USERS + "'times' must hold"),
    "times as dates": (column("times", lambda k: list(pd.date_range("2020", periods=6))),
                       USERS + "'times' must hold lists of numbers"),
    "times that go back": (cell("times", 6, [1, 2, 9, 4, 5, 6]), USERS + r"row 6.*position 3\)"),
    "an unknown split": (cell("split", 6, "dev"), USERS + "row 6.*unknown split 'dev'"),
    "a null split": (cell("split", 6, None), USERS + "row 6.*unknown split nan"),
    "a split without tests": (column("split", lambda k: ["train", "valid"][k % 2]),
                              "the test part.*is empty"),
    "one purchase each": (column("items", lambda k: [k]), USERS + "6 times.*1 item"),
    "histories too short to test": (
        lambda i, s: (i, s.drop(columns="times").assign(items=[[k] for k in range(30)])),
        "the valid part.*is empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_broken_table_is_refused(not_prepared, tmp_path, case):
    spoil, said = REFUSED[case]
    not_prepared(said, write_tables(tmp_path/"data", *spoil(*good_tables())))


ACCEPTED = { # what is unusual → what makes it so
    "text ids": lambda i, s: (i.assign(item=[f"i{k}" for k in i["item"]]),
                              s.assign(items=[[f"i{k}" for k in x] for x in s["items"]])),
    "asins as numbers": items_with(asin=np.arange(40) + 10**9),
    "domains as numbers": items_with(domain=[0] * 20 + [1] * 20),
    "titles as numbers": items_with(title=range(40)),
    "pictures as numbers": items_with(picture=range(40)),
    "null titles": items_with(title=[None, float("nan"), " ", ""] * 10),
    "users as numbers": column("user", lambda k: k),
    "ids of 64 bits": lambda i, s: (i.assign(item=i["item"] + 2**40), s.assign(
        items=[[k + 2**40 for k in x] for x in s["items"]])),
    "ids in any order": lambda i, s: (i[::-1], s),
    "domains mixed": items_with(domain=["a", "b"] * 20),
    "times of half seconds": column("times", lambda k: [1.25, 1.5, 1.75, 2.0, 2.25, 2.5]),
    "more columns": items_with(colour="red", brand=None, categories=None, description="x"),
    "no times": lambda i, s: (i, s.drop(columns="times")),
    "a title of a megabyte": item_cell("title", 3, "wok " * 250_000),
    "a title with a zero and a joker": item_cell("title", 3, "a\0b \U0001f0cf"),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_an_unusual_table_is_taken(prepare, tmp_path, case):
    code, _, err = prepare(write_tables(tmp_path/"data", *ACCEPTED[case](*good_tables())))
    assert code == 0, err
    data = load_dataset(tmp_path/"run"/"prepare")
    assert len(data.user) == 30 and data.n_items == 40 and data.n_x == 20
    for name in ("asin", "title", "domain"):
        assert data.items[name].map(type).eq(str).all(), name
    assert not data.items["title"].isin(["None", "nan", "<NA>"]).any()


def test_times_keep_their_fractions(prepare, tmp_path):
    items, sequences = ACCEPTED["times of half seconds"](*good_tables())
    prepare(write_tables(tmp_path/"data", items, sequences))
    assert load_dataset(tmp_path/"run"/"prepare").time[:6].tolist() == sequences["times"][0]


def test_a_purchase_listed_twice_is_counted(prepare, tmp_path):
    "The target equals the item before it, at the same time, for one user in three."
    items, sequences = good_tables()
    doubled = [x[:5] + x[4:5] if k % 3 == 0 else [1, 2, 3, 4, 5, 6]
               for k, x in enumerate(sequences["items"])]
    times = [[10, 20, 30, 40, 50, 50]] * 30
    code, _, err = prepare(write_tables(tmp_path/"data", items,
                                        sequences.assign(items=doubled, times=times)))
    leaks = pd.read_csv(tmp_path/"run"/"prepare"/"leaks.csv").set_index("check")["found"]
    assert code == 0 and leaks["test targets equal to the item just before"] == 10


FILES = { # what stands in place of items.parquet → (bytes, the message)
    "nothing": (b"", "cannot be read as parquet"),
    "zeros": (b"\0" * 500, "cannot be read as parquet"),
    "text": (b"item,domain,title\n1,a,x\n", "cannot be read as parquet"),
    "latin-1": ("item;Ger\xe4t".encode("latin-1"), "cannot be read as parquet"),
    "a page": (b"<!DOCTYPE html><html>404</html>", "cannot be read as parquet"),
    "magic bytes alone": (b"PAR1", "cannot be read as parquet"),
    "a broken footer": (b"PAR1" + b"\xff" * 100 + b"PAR1", "cannot be read as parquet"),
    "an archive": (b"PK\x03\x04" + b"\0" * 100, "cannot be read as parquet"),
}


@pytest.mark.parametrize("file", ["items.parquet", "sequences.parquet"])
@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_parquet_is_named(not_prepared, folder, case, file):
    content, said = FILES[case]
    (folder/file).write_bytes(content)
    not_prepared(f"data/{file}.*{said}", folder)


@pytest.mark.parametrize("file", ["items.parquet", "sequences.parquet"])
def test_half_a_file_is_named(not_prepared, folder, file):
    content = (folder/file).read_bytes()
    for size in (8, len(content) // 2, len(content) - 8):
        (folder/file).write_bytes(content[:size])
        not_prepared(f"data/{file} cannot be read as parquet", folder)


@pytest.mark.parametrize("file", ["items.parquet", "sequences.parquet"])
def test_a_missing_file_and_a_folder_in_its_place_are_named(not_prepared, folder, file):
    (folder/file).unlink()
    not_prepared(f"data is no data set: {file} is missing", folder)
    (folder/file).mkdir()
    not_prepared(f"data/{file} is a folder", folder)


def test_a_column_that_stands_twice_is_named(not_prepared, folder):
    table = pq.read_table(folder/"items.parquet")
    pq.write_table(table.append_column("title", table["title"]), folder/"items.parquet")
    not_prepared(ITEMS + "column title stands twice", folder)


def test_a_struct_in_place_of_a_title_is_named(not_prepared, folder):
    table = pq.read_table(folder/"items.parquet")
    titles = pa.array([{"en": "x"}] * 40)
    pq.write_table(table.set_column(2, "title", titles), folder/"items.parquet")
    not_prepared(ITEMS + "cannot be read as parquet: Unsupported cast from struct", folder)
