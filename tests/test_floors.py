"""Imports go down the house's floors, stand at the top of the file, and say the whole name (docs/architecture.md)."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "modelwright"

FLOORS = {
    "model": 0, "data": 0, "losses": 0,
    "infer": 1, "plan": 1, "hub": 1,
    "adapt": 1.5,  # between two floors: it opens an adapter's base by hub, and proves a merge by what infer writes
    "train": 2, "evaluate": 2, "serve": 2, "apps": 2,
    "recipes": 3,
    "project": 4, "cli": 4,
}  # fmt: skip

# What the ground of the ground may import beside the standard library: all of it, and one file.
MODEL_IMPORTS = {"torch"}
MODEL_FILES = {"checkpoint.py": {"torch", "safetensors"}}

# The two files that import by name, so that `modelwright --help` and `import modelwright` need not wait for torch.
IMPORT_LATE = {"cli.py", "__init__.py"}


def faults(package: Path) -> list[str]:
    """Everything under `package` that breaks a rule, one line each."""
    return [
        f"{path.relative_to(package)}:{line}: {fault}"
        for path in sorted(package.rglob("*.py"))
        for line, fault in faults_of_file(package, path)
    ]


def faults_of_file(package: Path, path: Path) -> Iterator[tuple[int, str]]:
    place = path.relative_to(package)
    room = place.parts[0].removesuffix(".py")
    if room != "__init__" and room not in FLOORS:
        yield 0, f"{room} is no room of the house"
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            if isinstance(node, ast.ImportFrom) and node.level:
                yield node.lineno, "relative import: say the whole name"
            hidden = id(node) not in top
            for name in imported(node, package.name, place):
                yield from ((node.lineno, fault) for fault in judge(name, package.name, room, place.name, hidden))
        elif late_import(node) and place.as_posix() not in IMPORT_LATE:
            yield node.lineno, "imports by name, which only cli.py and the package's __init__.py do"
    yield from hidden_in_functions(tree)


def imported(node: ast.Import | ast.ImportFrom, package: str, place: Path) -> list[str]:
    """The modules that a statement names, in full: `from ..data import pack` in infer/ -> ['modelwright.data.pack']."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not node.level:
        base = node.module or ""
    else:
        above = [package, *place.parts[:-1]]
        base = ".".join([*above[: len(above) - node.level + 1], *filter(None, [node.module])])
    if base == package or node.level:  # then the names may be rooms or files
        return [f"{base}.{alias.name}" for alias in node.names]
    return [base]


def judge(name: str, package: str, room: str, file: str, hidden: bool) -> Iterator[str]:
    """What is wrong with importing the module `name` in `file` of `room`."""
    first, *rest = name.split(".")
    if first != package:
        allowed = MODEL_FILES.get(file, MODEL_IMPORTS)
        if room == "model" and first not in allowed and first not in sys.stdlib_module_names:
            yield f"model imports {first}: only {' and '.join(sorted(allowed))} and the standard library are allowed"
        return
    if hidden:
        yield f"{name} is imported below the top of the file"
    other = rest[0] if rest else ""
    if other == "__version__":
        return
    if other not in FLOORS:
        yield f"{name} is no room of the house: import the file that defines the name"
    elif room == "__init__":
        yield f"the package imports {other} before anyone asked for it: name it in the table"
    elif other != room and FLOORS[other] == FLOORS[room]:
        yield f"{room} imports {other}, which is on the same floor: a recipe introduces them"
    elif other != room and FLOORS[other] > FLOORS[room]:
        yield f"{room} imports {other}, which is on a floor above"


def hidden_in_functions(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Imports inside functions, of any library: what a file needs stands at its top."""
    seen = set()
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom) and node.lineno not in seen:
                    seen.add(node.lineno)
                    yield node.lineno, "an import inside a function"


def late_import(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return called in ("import_module", "__import__")


def test_imports_go_down() -> None:
    assert faults(PACKAGE) == []


# Then the test itself: each small house has one fault, or none.

GOOD = {
    "__init__.py": "import importlib\n__version__ = '1'\nimportlib.import_module('torch')\n",
    "cli.py": "import importlib\nfrom modelwright import __version__\nimportlib.import_module('x')\n",
    "model/attend.py": "import math\nimport torch.nn.functional as F\nfrom torch import nn\n",
    "model/transformer.py": "from modelwright.model.attend import attend\n",
    "model/checkpoint.py": "import safetensors.torch\nimport json\n",
    "data/pack.py": "import numpy\n",
    "infer/engine.py": "from modelwright.data import pack\nimport modelwright.model.attend\n",
    "recipes/pretrain.py": "from modelwright.infer.engine import generate\nfrom modelwright.data.pack import Batch\n",
}

BAD = [
    ("model/attend.py", "import numpy", "model imports numpy: only torch"),
    ("model/attend.py", "import safetensors", "model imports safetensors: only torch"),
    ("model/checkpoint.py", "import tokenizers", "model imports tokenizers: only safetensors and torch"),
    ("model/attend.py", "from modelwright.data.pack import Batch", "same floor"),
    ("model/attend.py", "import modelwright.infer.engine as e", "floor above"),
    ("data/pack.py", "from modelwright.model import attend", "same floor"),
    ("data/pack.py", "from modelwright import model", "same floor"),
    ("plan/cost.py", "from modelwright.infer.engine import generate", "same floor"),
    ("infer/engine.py", "from ..train import loop", "train, which is on a floor above"),
    ("infer/engine.py", "from ..plan.cost import flops", "plan, which is on the same floor"),
    ("infer/engine.py", "from . import sample", "relative import"),
    ("infer/engine.py", "from .. import recipes", "recipes, which is on a floor above"),
    ("infer/engine.py", "import modelwright", "modelwright is no room"),
    ("infer/engine.py", "from modelwright import load", "modelwright.load is no room"),
    ("train/loop.py", "def f():\n    from modelwright.model import attend", "below the top"),
    ("train/loop.py", "def f():\n    import json", "inside a function"),
    ("train/loop.py", "if True:\n    import modelwright.model.attend", "below the top"),
    ("train/loop.py", "class A:\n    async def f(self):\n        import json", "inside a function"),
    ("train/loop.py", "import importlib\nimportlib.import_module('modelwright.cli')", "imports by name"),
    ("train/loop.py", "__import__('modelwright.cli')", "imports by name"),
    ("utils/text.py", "", "utils is no room"),
    ("helpers.py", "", "helpers is no room"),
    ("__init__.py", "from modelwright.model.attend import attend", "before anyone asked"),
    ("recipes/pretrain.py", "from modelwright.cli import main", "floor above"),
]


def house(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / "modelwright" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / "modelwright"


def test_a_good_house_has_no_fault(tmp_path: Path) -> None:
    assert faults(house(tmp_path, GOOD)) == []


@pytest.mark.parametrize(("name", "text", "fault"), BAD)
def test_each_fault_is_found(tmp_path: Path, name: str, text: str, fault: str) -> None:
    found = faults(house(tmp_path, GOOD | {name: text}))
    assert found
    assert all(line.startswith(f"{name}:") for line in found)
    assert any(fault in line for line in found)
