"The site: built without Quarto, complete without a network, with the code that readers come for."
import base64
import functools
import http.server
import importlib.util
import io
import json
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from browser import CHROMIUM, Browser
from PIL import Image

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
    for style in (ROOT/"_docs").rglob("*.css"):
        found = re.findall(r"(?:@import|url\()\s*[\"']?(?:url\()?[\"']?(https?:[^)\"';]*)",
                           style.read_text(encoding="utf-8"))
        assert not found, f"{style.name} loads {found[0]}"


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


def test_the_api_index_lists_every_public_function_and_class(site):
    text = (ROOT/"_docs"/"guides"/"api.html").read_text(encoding="utf-8")
    for path in sorted((ROOT/"llm_emf").glob("[a-z]*.py")):
        source = path.read_text(encoding="utf-8")
        for name in re.findall(r"^(?:def|class) ([A-Za-z]\w*)", source, flags=re.M):
            listed = re.search(r"__all__ = \[.*?\]", source, flags=re.S)
            if listed and f"'{name}'" in listed[0]:
                assert f">{name}<" in text, f"{path.stem}.{name}"


def builder(monkeypatch, name): # a script of .ci/ as a module
    monkeypatch.syspath_prepend(ROOT/".ci")
    spec = importlib.util.spec_from_file_location(f"ci_{name}", ROOT/".ci"/f"{name}.py")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


def test_columns_of_words_are_read_from_the_left(monkeypatch):
    mark = builder(monkeypatch, "site").mark_words
    head = "<tr><th></th><th>item</th><th>MRR (interval)</th></tr>"
    found = mark(f"<table>{head}<tr><th>0</th><td>tea</td><td>4.0 (3.1 – 5.2)</td></tr></table>")
    assert found.count('class="words"') == 2 and '<td class="words">tea' in found
    spanned = f'<table><tr><th colspan="3">all</th></tr>{head}</table>'
    assert mark(spanned) == spanned


def test_a_line_over_several_symbols_is_drawn(monkeypatch):
    formula = r'<span class="math inline">\(\overline{1/r}\)</span>'
    site = builder(monkeypatch, "site")
    found = re.sub(r'<span class="math (inline|display)">(.*?)</span>', site.mathml, formula)
    assert found.startswith("<math") and '<mrow class="overline">' in found


def test_a_report_is_kept_without_code_and_with_its_outputs(monkeypatch):
    import nbformat
    drawn, file = Image.new("RGB", (300, 200), "white"), io.BytesIO()
    drawn.paste((76, 106, 146), (0, 0, 150, 200))
    drawn.save(file, "PNG", compress_level=0)
    figure = base64.b64encode(file.getvalue()).decode()
    picture = {"output_type": "display_data", "metadata": {"image/png": {"alt": "bars"}},
               "data": {"image/png": figure, "text/plain": "<Figure>"}}
    said = {"output_type": "stream", "name": "stdout", "text": "done"}
    cells = [nbformat.v4.new_markdown_cell(text) for text in ("before", "# Report", "## Results")]
    cells.append(nbformat.v4.new_code_cell("draw()", outputs=[said, picture]))
    kept = builder(monkeypatch, "keep_report").kept_cells([nbformat.from_dict(c) for c in cells])
    assert [c["source"] for c in kept] == ["## Results", "#| eval: false\n#| echo: false"]
    data = kept[1]["outputs"][0]["data"]
    assert list(data) == ["image/png"] and len(data["image/png"]) < len(figure)
    seen = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
    assert seen.size == (300, 200) and seen.getpixel((10, 10)) == (76, 106, 146)
    assert kept[1]["outputs"][0]["metadata"]["image/png"]["alt"] == "bars"


@pytest.mark.parametrize("path", sorted((ROOT/"nbs"/"reports").glob("*.ipynb")), ids=str)
def test_a_kept_report_says_which_run_it_is(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    title = "".join(cells[0]["source"])
    assert re.search(r"profile (quick|paper)\n", title) and re.search(r"20\d\d-\d\d-\d\d", title)
    shown = [o for c in cells if c["cell_type"] == "code" for o in c["outputs"]]
    assert sum("image/png" in o["data"] for o in shown) >= 3
    assert path.stat().st_size < 1_000_000
    assert f"reports/{path.name}" in (ROOT/"_quarto.yml").read_text(encoding="utf-8")


# in a real browser, without a network

@pytest.fixture(scope="module")
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass
    handler = functools.partial(Quiet, directory=ROOT/"_docs")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not CHROMIUM:
        pytest.skip("Chromium is not installed")
    browser = Browser(tmp_path_factory.mktemp("profile"), offline=True)
    yield browser
    browser.close()


SEEN = """(() => {
  const all = q => [...document.querySelectorAll(q)], box = e => e.getBoundingClientRect();
  const open = all('math').filter(e => e.offsetParent !== null || e.getClientRects().length);
  return JSON.stringify({
    pictures: all('main img').filter(e => !e.complete || !e.naturalWidth)
                             .map(e => e.src.slice(0, 80)),
    equations: open.filter(e => !box(e).height).length,
    raw: /\\$\\$|\\\\frac|\\\\mathrm/.test(all('main p').map(e => e.textContent).join(' ')),
    wide: document.documentElement.scrollWidth - window.innerWidth,
    tables: all('main table').filter(e => box(e).right > window.innerWidth + 1).length})
})()"""


def look(browser, url): # what is wrong with a page
    browser.complaints.clear()
    browser.open(url)
    found = json.loads(browser.js(SEEN))
    wrong = {"complaints": browser.complaints[:3], "pictures": found["pictures"][:3],
             "equations without height": found["equations"], "raw formulas": found["raw"],
             "wider than the screen": max(0, found["wide"]), "wide tables": found["tables"]}
    return {what: value for what, value in wrong.items() if value}


FEW = ["index", "06_model", "guides/own_data", "guides/measured", "11_report"]
EVERY = pytest.param(None, marks=pytest.mark.slow, id="every page")


@pytest.mark.parametrize("pages", [pytest.param(FEW, id="five pages"), EVERY])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_are_whole_in_a_browser(site, address, browser, width, pages, tmp_path):
    browser.size(width, 844)
    pages = pages or [p.relative_to(ROOT/"_docs").with_suffix("").as_posix() for p in site]
    wrong = {page: found for page in pages if (found := look(browser, f"{address}/{page}.html"))}
    assert not wrong, wrong
    browser.screenshot(tmp_path/"page.png")
    assert (tmp_path/"page.png").stat().st_size > 10_000


@pytest.mark.parametrize("asked, leads_to", [("full_rank", "07_metrics.html"),
                                             ("split_sequences", "06_model.html")])
def test_search_finds_a_function(address, browser, asked, leads_to):
    browser.size(1280, 900)
    browser.open(f"{address}/index.html")
    browser.js("document.querySelector('.smalldocs-search input').focus()")
    browser.call("Input.insertText", text=asked)
    links = "[...document.querySelectorAll('.search-result')].map(a => a.href).join(' ')"
    assert leads_to in browser.wait(links)


def test_dark_mode_can_be_chosen_and_stays(address, browser):
    browser.size(1280, 900)
    browser.open(f"{address}/index.html")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = browser.js(ground)
    browser.js("document.querySelector('.quarto-color-scheme-toggle').click()")
    dark = browser.wait(f"{ground} != {json.dumps(light)} && {ground}")
    browser.open(f"{address}/06_model.html")
    assert browser.js(ground) == dark
    browser.js("document.querySelector('.quarto-color-scheme-toggle').click()")
