"Our SASRec and BERT4Rec beside RecTools', in an environment that has the extra `rectools`."
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent/"benchmarks"
TINY = "--users 300 --epochs 2 --d 16 --layers 1 --rates 0.003 --only-print".split()


@pytest.fixture
def bench(monkeypatch):
    "The benchmark as a module."
    pytest.importorskip("rectools", reason="the extra `rectools` is not installed; it needs an "
                        "environment of its own, see benchmarks/against_rectools.py")
    monkeypatch.syspath_prepend(BENCHMARKS)
    import against_rectools
    return against_rectools


@pytest.mark.slow
def test_both_sides_are_fitted_ranked_and_compared(bench):
    rows = bench.main(bench.parse(TINY))
    names = [row["model, protocol, domain"] for row in rows]
    assert names == [f"{m}, {p}, {d}" for m in ("sasrec", "bert4rec")
                     for p in ("full", "sampled999") for d in ("kitchen", "food", "all")]
    for row in rows:
        assert abs(row["ours MRR %"] - row["RecTools MRR %"] - row["difference"]) < .02
        assert row["low"] < row["difference"] < row["high"] and row["users"] > 100
        chance = 100 * (1/np.arange(1, 601)).mean()                    # 600 items in each domain
        assert min(row["ours MRR %"], row["RecTools MRR %"]) > chance/2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sasrec", "bert4rec"])
def test_a_scorer_that_reads_wrong_items_is_found_out(bench, name):
    options = bench.parse(TINY)
    task = bench.make_task(bench.shop_dataset(bench.ShopSettings(users=300))[0])
    scorer, _ = bench.fit_theirs(name, task, bench.settings_of(name, task, options), 0.003)
    bench.check_scorer(scorer, task)
    scorer.number = scorer.number.flip(0)
    with pytest.raises((AssertionError, KeyError)):
        bench.check_scorer(scorer, task)
