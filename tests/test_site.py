"The site: built without Quarto, complete without a network, with the code that readers come for."
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

ROOT = Path(__file__).parent.parent
SHOWN = { # page → what its code must show
    "05_attention.html": ["EncoderBank", "scaled_dot_product_attention"],
    "06_model.html": ["LLMEMF", "softmax", "logsumexp"],
    "07_metrics.html": ["full_rank", "bootstrap", "log2"],
    "07a_task.html": ["Scorer", "Method", "put_last"],
    "08_train.html": ["Trainer", "backward", "clip_gradients"],
    "09_baselines.html": ["item_similarity", "ItemKNNScorer"],
}


class Links(HTMLParser):
    "The links, sources and ids of a page."
    def __init__(self, text):
        super().__init__()
        self.links, self.loaded, self.ids = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a[k] for k in ("id", "name") if a.get(k)}
        if tag == "a" and a.get("href"):
            self.links.append(a["href"])
        if tag in ("script", "img") and a.get("src"):
            self.loaded.append(a["src"])
        if tag == "link" and "stylesheet" in (a.get("rel") or "") and a.get("href"):
            self.loaded.append(a["href"])


@pytest.fixture(scope="module")
def site():
    done = subprocess.run([sys.executable, ".ci/site.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return {p: Links(p.read_text(encoding="utf-8")) for p in (ROOT/"_docs").rglob("*.html")}


def local(page, link): # (file, fragment), or None for a link to elsewhere
    url = urlparse(link)
    if url.scheme or link.startswith("//"):
        return None
    path = (page.parent/unquote(url.path)).resolve() if url.path else page
    return path, unquote(url.fragment)


def test_every_notebook_is_a_page(site):
    names = {p.relative_to(ROOT/"_docs").with_suffix("").as_posix() for p in site}
    notebooks = [p for p in (ROOT/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts]
    books = {p.relative_to(ROOT/"nbs").with_suffix("").as_posix() for p in notebooks}
    assert books <= names, books - names


def test_links_lead_to_pages_and_headings_that_are_there(site):
    missing = []
    for page, found in site.items():
        for link in found.links:
            if (at := local(page, link)) is None:
                continue
            path, fragment = at
            path = path/"index.html" if path.is_dir() else path
            if not path.exists():
                missing.append((page.name, link))
            elif fragment and path.suffix == ".html" and fragment not in site[path].ids:
                missing.append((page.name, link))
    assert not missing, missing[:20]


def test_nothing_is_loaded_from_elsewhere(site):
    for page, found in site.items():
        for source in found.loaded:
            if source.startswith("data:"):
                continue
            at = local(page, source)
            assert at is not None, f"{page.name} loads {source}"
            assert at[0].exists(), f"{page.name}: {source} is missing"


def test_formulas_are_rendered(site):
    formulas = 0
    for page in site:
        text = page.read_text(encoding="utf-8")
        assert 'class="math' not in text, f"{page.name} holds a formula that is not rendered"
        formulas += len(re.findall("<math", text))
    assert formulas > 100


@pytest.mark.parametrize("name", SHOWN)
def test_code_is_visible(site, name):
    text = (ROOT/"_docs"/name).read_text(encoding="utf-8")
    code = re.sub(r"<[^>]+>", "", " ".join(re.findall(r"<pre.*?</pre>", text, flags=re.S)))
    for word in SHOWN[name]:
        assert word in code, f"{name} does not show {word}"
