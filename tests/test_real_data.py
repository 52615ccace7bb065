"All stages on a sample of real Amazon sequences: no pictures, MiniLM as the text encoder, SmolLM2 asked about a few titles."
import pandas as pd

from llm_emf.core import stage_summary


def test_real_sequences(cli, real_sample, tmp_path):
    out = tmp_path/"run"
    code, said, err = cli("reproduce", "--dataset", real_sample, "--profile", "smoke", "--out", out, "--limit", 3, "--device", "cpu")
    assert code == 0, err
    assert "LLM-EMF" in said and "report.html" in said
    page = (out/"report.html").read_text(encoding="utf-8")
    assert "the visual branch is absent" in page and "minilm" in page and "(3 were asked)" in page
    assert stage_summary(out/"train-llm-emf")["modalities"] == "id + tex"
    assert stage_summary(out/"encode")["pictures"] == "none" and not (out/"encode"/"img.npy").exists()
    texts = pd.read_parquet(out/"enrich"/"llm_text.parquet")
    assert (texts["reason"] != "not asked").sum() == 3
    results = pd.read_csv(out/"results.csv")
    assert set(results["domain"]) == {"food", "kitchen", "all"} and "oracle" not in set(results["method"])
    assert (results.loc[results["domain"] == "all", "users"] == 60).all()
