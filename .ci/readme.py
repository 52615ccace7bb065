"README.md from nbs/index.ipynb: prose, shown code and its output; links lead into nbs/."
import json
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent


def shown_output(output: dict) -> str:
    "Markdown as it is; other text as a block."
    data = output.get("data", {})
    if "text/markdown" in data:
        return "".join(data["text/markdown"])
    text = "".join(data.get("text/plain", output.get("text", ""))).rstrip()
    return f"```text\n{text}\n```"


def shown(cell: dict) -> list: # of parts
    "What the README has of a cell."
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source]
    code = [] if re.match(r"#\s*\|\s*(echo: false|hide)", source) else [f"```python\n{source}\n```"]
    return code + [shown_output(o) for o in cell["outputs"] if o["output_type"] != "error"]


def into_nbs(text: str) -> str:
    "Links to pages and pictures, seen from the root of the repository."
    return re.sub(r"\]\(((?:guides/|images/)?\w+\.(?:ipynb|svg))", r"](nbs/\1", text)


def make() -> str:
    "The text of the README."
    cells = json.loads((ROOT/"nbs"/"index.ipynb").read_text(encoding="utf-8"))["cells"]
    parts = [textwrap.dedent(part).strip() for cell in cells for part in shown(cell)]
    return into_nbs("\n\n".join(part for part in parts if part) + "\n")


if __name__ == "__main__":
    (ROOT/"README.md").write_text(make(), encoding="utf-8")
    print("README.md is made from nbs/index.ipynb")
