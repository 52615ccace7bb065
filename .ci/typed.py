"""The library with patched methods inside their classes, for type checkers, which know no @patch.

    python .ci/typed.py check            # mypy on the whole library, bodies included
    python .ci/typed.py stubs FOLDER     # a .pyi beside each module of a built package
"""
import ast
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
INSTEAD = {"patch": [], "patch(as_prop=True)": ["property"],
           "patch(cls_method=True)": ["classmethod"]}


def parsed(text: str) -> list: # of statements
    "Source as a tree."
    return ast.parse(text).body


def arguments(function) -> list: # of (argument, default or None)
    "The arguments of a function with their defaults."
    a = function.args
    plain = a.posonlyargs + a.args
    defaults = [None] * (len(plain) - len(a.defaults)) + a.defaults
    return [*zip(plain, defaults), *zip(a.kwonlyargs, a.kw_defaults)]


def say_optional(tree) -> None:
    "`x: int = None` means `x: int | None = None`, for arguments and fields."
    pairs = [pair for f in ast.walk(tree) if isinstance(f, FUNCTIONS) for pair in arguments(f)]
    pairs += [(n, n.value) for n in ast.walk(tree) if isinstance(n, ast.AnnAssign)]
    for owner, default in pairs:
        known = owner.annotation and ast.unparse(owner.annotation)
        if known and isinstance(default, ast.Constant) and default.value is None:
            if "None" not in known and known not in ("object", "Any"):
                owner.annotation = ast.parse(f"{known} | None", mode="eval").body


def as_method(function, instead: list):
    "A patched function as it would stand in its class."
    function.args.args[0].annotation = None
    function.decorator_list = [ast.parse(name, mode="eval").body for name in instead] + [
        d for d in function.decorator_list if ast.unparse(d) not in INSTEAD]
    return function


def empty(function):
    "The same signature without a body."
    made = ast.parse(ast.unparse(function)).body[0]
    made.body = parsed("raise NotImplementedError")
    return made


def unpatched(sources: dict) -> dict: # module → tree
    "The modules, with each patched function inside its class, which may lie in another module."
    trees = {name: ast.parse(text) for name, text in sources.items()}
    classes = {n.name: n for t in trees.values() for n in t.body if isinstance(n, ast.ClassDef)}
    for tree in trees.values():
        say_optional(tree)
        here = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef)}
        for node in [n for n in tree.body if isinstance(n, FUNCTIONS)]:
            patch = {ast.unparse(d) for d in node.decorator_list} & set(INSTEAD)
            if not patch:
                continue
            owner = ast.unparse(node.args.args[0].annotation).strip("'\"")
            if owner in here:
                tree.body.remove(node)
                here[owner].body.append(as_method(node, INSTEAD[patch.pop()]))
            else: # its body is checked where it is
                classes[owner].body.append(as_method(empty(node), INSTEAD[patch.pop()]))
                node.decorator_list = [d for d in node.decorator_list
                                       if ast.unparse(d) not in INSTEAD]
    return trees


def attributes(owner: ast.ClassDef) -> list: # of declarations
    "What methods assign to `self`."
    known = {n.target.id for n in owner.body if isinstance(n, ast.AnnAssign)}
    known |= {n.name for n in owner.body if isinstance(n, FUNCTIONS)}
    names = {n.attr: None for n in ast.walk(owner) if isinstance(n, ast.Attribute)
             and isinstance(n.ctx, ast.Store) and ast.unparse(n.value) == "self"}
    # in a dataclass a declaration would be a field
    form = "{}: Any" if "dataclass" not in " ".join(map(ast.unparse, owner.decorator_list)) else (
        "@property\ndef {}(self) -> Any: ...")
    return [line for name in names if name not in known for line in parsed(form.format(name))]


def stub(tree: ast.Module) -> str:
    "Signatures and attributes, without bodies."
    for owner in [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]:
        owner.body += attributes(owner)
    for f in [n for n in ast.walk(tree) if isinstance(n, FUNCTIONS)]:
        f.body = parsed("...")
        for owner, default in arguments(f):
            if default is not None and not isinstance(default, ast.Constant):
                default.__class__, default.value, default._fields = ast.Constant, ..., ("value",)
    kept = [n for n in tree.body if not isinstance(n, (ast.Expr, ast.If))]
    for n, node in enumerate(kept): # `A = B | C` would be an alias of types
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp):
            (kept[n],) = parsed(f"{ast.unparse(node.targets[0])}: Any")
    return "from typing import Any\n" + ast.unparse(ast.Module(kept, [])) + "\n"


def read_sources(folder: Path) -> dict: # module → text
    "The modules of a package."
    return {p.stem: p.read_text(encoding="utf-8") for p in sorted(folder.glob("*.py"))
            if p.stem != "_modidx"}


def write_stubs(folder: Path) -> None:
    "A .pyi beside each module, and py.typed."
    for name, tree in unpatched(read_sources(folder)).items():
        (folder/f"{name}.pyi").write_text(stub(tree), encoding="utf-8")
    (folder/"py.typed").touch()


def mypy(folder: Path, *what) -> int: # its exit status
    "Run mypy where the package is found first."
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT/"pyproject.toml", *what]
    return subprocess.run([*command, "--cache-dir", ROOT/".mypy_cache"/folder.name],
                          cwd=folder).returncode


def check() -> int: # 0 if all is well
    "mypy on a copy of the library, then on a user's lines against its stubs."
    with tempfile.TemporaryDirectory() as tmp:
        full, stubs = Path(tmp)/"bodies", Path(tmp)/"stubs"
        (full/"llm_emf").mkdir(parents=True)
        for name, tree in unpatched(read_sources(ROOT/"llm_emf")).items():
            text = ast.unparse(tree) + "\n"
            (full/"llm_emf"/f"{name}.py").write_text(text, encoding="utf-8")
        shutil.copytree(ROOT/"llm_emf", stubs/"llm_emf", ignore=shutil.ignore_patterns("assets"))
        write_stubs(stubs/"llm_emf")
        shutil.copy(ROOT/"tests"/"typed_use.py", stubs)
        return mypy(full, "-p", "llm_emf") or mypy(stubs, "-p", "llm_emf", "-m", "typed_use")


if __name__ == "__main__":
    if sys.argv[1:] == ["check"]:
        sys.exit(check())
    write_stubs(Path(sys.argv[2]))
