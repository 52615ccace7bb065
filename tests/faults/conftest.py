"Fixtures of the fault table: a good data set in each format, and what a refusal looks like."
import re

import pytest
from good_data import good_tables, write_tables


@pytest.fixture
def folder(tmp_path):
    "A good data set in parquet."
    return write_tables(tmp_path/"data", *good_tables())


@pytest.fixture
def refused(here, tmp_path):
    "Run a command that must end with exit code 1 and a short message that fits a pattern."
    def run(said, *args):
        code, _, err = here(*args)
        message = err[err.find("llm-emf: "):].strip()
        assert code == 1 and re.search(said, message, re.S), (args, err)
        assert "Traceback" not in message and message.count("\n") <= 2, err
        assert len(message) < 1000, err
        return message
    return run


@pytest.fixture
def prepare(here, tmp_path):
    "Run `prepare` on a folder: exit code, output, errors. The run folder is `tmp_path/run`."
    def run(folder, *more):
        return here("prepare", "--dataset", folder, "--profile", "smoke",
                    "--out", tmp_path/"run", *more)
    return run


@pytest.fixture
def not_prepared(refused, tmp_path):
    "`prepare` on a folder is refused with a message that fits a pattern; no stage is left."
    def run(said, folder, *more):
        message = refused(said, "prepare", "--dataset", folder, "--profile", "smoke",
                          "--out", tmp_path/"run", *more)
        assert not (tmp_path/"run"/"prepare").exists()
        return message
    return run


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    "The folder of a small shop that has been prepared. Tests copy it before they damage it."
    from llm_emf.core import open_run
    from llm_emf.data import prepare
    from llm_emf.shop import ShopSettings
    run = open_run(tmp_path_factory.mktemp("shop")/"run", "shop", "smoke", 0, "cpu")
    prepare(run, shop=ShopSettings(items=32, users=40))
    return run.path
