"The guides run from top to bottom as they stand."
from pathlib import Path

import pytest

from llm_emf.cli import run_notebook

GUIDES = sorted((Path(__file__).parent.parent/"nbs"/"guides").glob("*.ipynb"))


@pytest.mark.parametrize("path", GUIDES, ids=lambda p: p.stem)
def test_guide(path, tmp_path):
    run_notebook(path, tmp_path/path.name, {})


def test_a_method_takes_twenty_lines():
    import json
    cells = json.loads(GUIDES[0].read_text(encoding="utf-8"))["cells"]
    first = next("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    lines = [line for line in first.splitlines() if line.strip()]
    assert "Method" in first and len(lines) <= 22, len(lines)
