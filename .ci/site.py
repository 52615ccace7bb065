"Build the site: nbdev makes the pages, Quarto or smalldocs renders them, and nothing in them needs a network."
import json
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

from api import api_page
from bs4 import BeautifulSoup
from latex2mathml.converter import convert
from nbdev.config import get_config
from nbdev.serve import proc_nbs

ROOT = Path(__file__).parent.parent
PROC, OUT = ROOT/"_proc", ROOT/"_docs"
# a line over several symbols, which browsers do not stretch; the style sheet draws it
OVERLINE = re.compile(r'<mover>(<mrow>(?:(?!<mover>).)*</mrow>)<mo accent="true">&#x02015;</mo></mover>')


def page_names() -> dict:
    "Module → page: core → 00_core.html."
    found = {}
    for path in sorted((ROOT/"nbs").glob("[0-9]*.ipynb")):
        if exported := re.search(r"default_exp (\w+)", path.read_text(encoding="utf-8")):
            found[exported[1]] = f"{path.stem}.html"
    return found


def link_locally(text: str, folder: str, site: str, pages: dict) -> str:
    "Links to the published site become links to the page of this build."
    def page(m):
        return folder + pages[m[1]] if m[1] in pages else m[0]
    return re.sub(re.escape(site) + r"/(\w+)\.html", page, text)


def fix_sources() -> None:
    "The same file names and links under Quarto and smalldocs: a page is called as its notebook."
    config, pages = get_config(), page_names()
    site = f"{config.doc_host}{config.doc_baseurl}".rstrip("/")
    for path in sorted(PROC.rglob("*.ipynb")):
        folder = "../" * (len(path.relative_to(PROC).parts) - 1)
        text = link_locally(path.read_text(encoding="utf-8"), folder, site, pages)
        notebook = json.loads(text)
        for cell in notebook["cells"][:1]:
            cell["source"] = re.sub(r"^output-file:.*\n", "", "".join(cell["source"]), flags=re.M)
        path.write_text(json.dumps(notebook), encoding="utf-8")


def mathml(m: re.Match) -> str:
    "A KaTeX span as MathML, which browsers render by themselves."
    kind, latex = m[1], unescape(m[2]).strip()[2:-2]
    display = "block" if kind == "display" else "inline"
    try:
        return OVERLINE.sub(r'<mrow class="overline">\1</mrow>', convert(latex, display=display))
    except Exception as e:
        sys.exit(f"this formula cannot be converted: {latex}\n{type(e).__name__}: {e}")


def fix_pages() -> None:
    "Formulas as MathML; no script or style sheet from elsewhere."
    for path in sorted(OUT.rglob("*.html")):
        text = path.read_text(encoding="utf-8")
        text = re.sub(r'<span class="math (inline|display)">(.*?)</span>', mathml, text, flags=re.S)
        text = re.sub(r'<script[^>]*cdn\.jsdelivr\.net/npm/katex[^>]*>.*?</script>', "", text, flags=re.S)
        text = re.sub(r'<link[^>]*cdn\.jsdelivr\.net/npm/katex[^>]*>', "", text)
        path.write_text(text, encoding="utf-8")


def is_words(cell) -> bool: # of a table; numbers, intervals and dates have no letters
    return bool(re.search(r"[^\W\d_]{2}", cell.get_text()))


def mark_words(table: str) -> str:
    "Columns of words in a data frame get the class `words`, so that only numbers stand at the right."
    soup = BeautifulSoup(table, "html.parser")
    rows = [row.find_all(["th", "td"], recursive=False) for row in soup.find_all("tr")]
    body = [row for row in rows if any(cell.name == "td" for cell in row)]
    width = max(map(len, rows), default=0)
    if not body or soup.find(colspan=True) or soup.find(rowspan=True):
        return table
    for column in range(width):
        if any(is_words(row[column]) for row in body if len(row) > column):
            for row in rows:
                if len(row) > column:
                    row[column]["class"] = [*row[column].get("class", []), "words"]
    return str(soup)


def fix_tables() -> None:
    "The tables of data frames; those of the prose say themselves how they are aligned."
    frame = re.compile(r'<table[^>]*(?:class="[^"]*dataframe|id="T_)[^>]*>.*?</table>', flags=re.S)
    for path in sorted(OUT.rglob("*.html")):
        text = path.read_text(encoding="utf-8")
        fixed = frame.sub(lambda m: mark_words(m[0]), text)
        if fixed != text:
            path.write_text(fixed, encoding="utf-8")


def fix_styles() -> None:
    "The themes of Bootswatch ask for fonts of Google's; the system's are used instead."
    for path in sorted(OUT.rglob("*.css")):
        text = path.read_text(encoding="utf-8")
        fixed = re.sub(r"""@import\s+(url\(["']?https?:[^)]*\)|["']https?:[^"']*["'])[^;]*;""",
                       "", text)
        if fixed != text:
            path.write_text(fixed, encoding="utf-8")


def fix_anchors() -> None:
    "A link to a heading that is not there goes to its class, or to the top of its page."
    pages = {p: p.read_text(encoding="utf-8") for p in sorted(OUT.rglob("*.html"))}
    ids = {p: set(re.findall(r'\bid="([^"]+)"', text)) for p, text in pages.items()}
    for path, text in pages.items():
        def point(m):
            target = (path.parent/m[1]).resolve() if m[1] else path
            if target not in ids or m[2] in ids[target]:
                return m[0]
            owner = m[2].split(".")[0]
            return f'href="{m[1]}#{owner}"' if owner in ids[target] else f'href="{m[1] or "#"}"'
        fixed = re.sub(r'href="([^"#:]*)#([^"]+)"', point, text)
        if fixed != text:
            path.write_text(fixed, encoding="utf-8")


def main() -> None:
    for folder in (PROC, OUT):
        shutil.rmtree(folder, ignore_errors=True)
    print("== notebooks to pages", flush=True)
    proc_nbs(n_workers=1)
    shutil.copy(ROOT/"_quarto.yml", PROC)
    fix_sources()
    pages = {module: page.removesuffix(".html") for module, page in page_names().items()}
    (PROC/"guides"/"api.qmd").write_text(api_page(pages), encoding="utf-8")
    if shutil.which("quarto"):
        subprocess.run(["quarto", "render", PROC, "--no-execute"], check=True)
    else:
        subprocess.run([Path(sys.executable).parent/"smalldocs", "render", PROC], check=True)
        fix_pages()
    fix_tables()
    fix_styles()
    fix_anchors()
    print(f"The site: {OUT.relative_to(ROOT)}/index.html")


if __name__ == "__main__":
    main()
