"All stages on a sample of real Amazon sequences: no pictures, MiniLM as the text encoder, SmolLM2 asked about a few titles."
import pandas as pd

from llm_emf.baselines import run_baselines
from llm_emf.clip import encode
from llm_emf.core import open_run, stage_summary
from llm_emf.data import prepare
from llm_emf.enrich import enrich
from llm_emf.report import report
from llm_emf.train import evaluate, profile_variants, train


def test_real_sequences(real_sample, tmp_path):
    run = open_run(tmp_path/"run", real_sample, "smoke", 0, "cpu")
    out = run.path
    prepare(run); enrich(run, limit=3); encode(run)
    assert profile_variants(run) == ["llm-emf", "sasrec"]
    for variant in profile_variants(run): train(run, variant); evaluate(run, variant)
    run_baselines(run); report(run)
    page = (out/"report.html").read_text(encoding="utf-8")
    assert "the visual branch is absent" in page and "minilm" in page and "(3 were asked)" in page
    assert "nobody buys a thing twice" in page and "Full ranking with what the user has left in" in page
    assert stage_summary(out/"train-llm-emf")["modalities"] == "id + tex"
    assert stage_summary(out/"encode")["pictures"] == "none" and not (out/"encode"/"img.npy").exists()
    texts = pd.read_parquet(out/"enrich"/"llm_text.parquet")
    assert (texts["reason"] != "not asked").sum() == 3
    results = pd.read_csv(out/"results.csv")
    assert set(results["domain"]) == {"food", "kitchen", "all"} and set(results["method"]) == {"popularity", "item-knn", "sasrec", "llm-emf"}
    assert (results.loc[results["domain"] == "all", "users"] == 60).all()
