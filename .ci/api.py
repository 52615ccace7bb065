"The API index, guides/api.qmd: every public name by module, from the exported library itself."
import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAD = """---
title: "API"
description: "Every public name, by module, with the first line of its documentation."
---

A name leads to its chapter, where its arguments, an example and its tests are. The list is made
from the library when the site is built. Of a class the public methods follow it.
"""


def first_line(node) -> str:
    "The beginning of a docstring, up to its first full stop or empty line."
    text = re.split(r"\n\s*\n", ast.get_docstring(node) or "")[0].replace("\n", " ")
    text = re.split(r"(?<=[a-z)`])\. (?=[A-Z`])", text)[0].rstrip(".")
    prose = re.compile(r"(`[^`]*`)|([|<\[\]$*_^~])")
    return prose.sub(lambda m: m[1] or "\\" + m[2], text)


def is_public_def(node) -> bool:
    return (isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            and not node.name.startswith("_"))


def patched(node) -> str: # the class that a `@patch` function belongs to; "" if none
    marked = any(ast.unparse(d).split("(")[0] == "patch" for d in node.decorator_list)
    return ast.unparse(node.args.args[0].annotation) if marked else ""


def entries(tree: ast.Module) -> list: # (name, summary), methods right after their class
    "What a module defines for others."
    listed = next((ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign)
                   and ast.unparse(n.targets[0]) == "__all__"), [])
    found = {}
    for node in filter(is_public_def, tree.body):
        owner = "" if isinstance(node, ast.ClassDef) else patched(node)
        if owner.startswith("_"):
            continue
        if owner or node.name in listed:
            name = f"{owner}.{node.name}" if owner else node.name
            found.setdefault(owner or name, []).append((name, first_line(node)))
        if isinstance(node, ast.ClassDef):
            found[node.name] += [(f"{node.name}.{m.name}", first_line(m)) for m in node.body
                                 if is_public_def(m) and isinstance(m, ast.FunctionDef)]
    return [entry for group in found.values() for entry in group]


def row(page: str, name: str, summary: str) -> str:
    label = name if "." not in name else "." + name.partition(".")[2]
    return f"| [`{label}`](../{page}.ipynb#{name.lower()}) | {summary} |"


def section(page: str, module: str) -> str:
    "The table of one module."
    tree = ast.parse((ROOT/"llm_emf"/f"{module}.py").read_text(encoding="utf-8"))
    rows = [row(page, name, summary) for name, summary in entries(tree)]
    table = ["| | |", "| --- | --- |", *rows] if rows else []
    return "\n".join([f"## llm_emf.{module}", "", first_line(tree)
                      + f". [Chapter {page.partition('_')[0]}](../{page}.ipynb)", "", *table, ""])


def api_page(pages: dict) -> str: # pages: module → page
    "The text of the page."
    return HEAD + "\n" + "\n".join(section(page, module) for module, page in pages.items())
