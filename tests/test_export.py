"The exported user encoder, run by torch.export's loader and by onnxruntime; a vector index."
import numpy as np
import pytest
import torch

from llm_emf.core import set_seed
from llm_emf.data import shop_dataset
from llm_emf.export import UserEncoder, user_vectors
from llm_emf.hybrid import Hybrid, HybridSettings
from llm_emf.model import LLMEMF, ModelSettings
from llm_emf.recommend import Recommender
from llm_emf.shop import ShopSettings
from llm_emf.train import ModelScorer


@pytest.fixture(scope="module", params=["llm-emf", "hybrid"])
def recommender(request):
    data, _ = shop_dataset(ShopSettings(users=50))
    set_seed(0)
    rng = np.random.default_rng(0)
    vectors = {m: rng.standard_normal((data.n_items + 1, 12), np.float32) for m in ("img", "tex")}
    if request.param == "hybrid":
        settings = HybridSettings(d=8, hidden=16, layers=1, views=("id", "words-tex", "img"))
        titles = data.items["title"].tolist()
        model = Hybrid(settings, data.n_items, data.n_x, titles, vectors)
    else:
        model = LLMEMF(ModelSettings(d=8, hidden=16, layers=1), data.n_items, data.n_x, vectors)
    return Recommender(ModelScorer(model), data)


def batches(n_items): # one history of one item, the longest, many
    rng = np.random.default_rng(1)
    for n, length in ((1, 1), (3, 50), (40, 17)):
        items = torch.from_numpy(rng.integers(1, n_items + 1, (n, length)))
        longest = torch.from_numpy(rng.integers(1, length + 1, n))
        yield items * (torch.arange(length) < longest[:, None])


@pytest.mark.parametrize("ending", ["pt2", "onnx"])
def test_the_exported_encoder_gives_the_states_of_the_model(recommender, tmp_path, ending):
    if ending == "onnx":
        for package in ("onnx", "onnxscript"):
            pytest.importorskip(package)
        onnxruntime = pytest.importorskip("onnxruntime")
    file = recommender.export_encoder(tmp_path/f"encoder.{ending}")
    if ending == "pt2":
        run = torch.export.load(file).module()
    else:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        assert [o.name for o in session.get_outputs()] == ["states"]

        def run(items):
            return torch.from_numpy(session.run(None, {"items": items.numpy()})[0])
    model = recommender.scorer.model
    for items in batches(recommender.dataset.n_items):
        packed = user_vectors(model, items, 0)[:, :, :-1] # own is X, other is Y
        with torch.no_grad():
            found = run(items)
        assert found.shape == packed.shape
        assert (found - packed).abs().max() < 1e-4
        assert (found - UserEncoder(model)(items)).abs().max() < 1e-4
