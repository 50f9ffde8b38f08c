"""The public names: each resolves, each is documented, and importing the package costs nothing."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import modelwright

ROOT = Path(__file__).parents[1]


def documented() -> list[str]:
    """The first column of the README's table of names."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("### Public names")[1].split("\n#")[0]
    return re.findall(r"^\| `(\w+)", section, re.MULTILINE)


def test_the_names_are_those_documented() -> None:
    assert sorted(documented()) == sorted(modelwright.__all__)
    assert sorted(modelwright.__all__) == sorted(["__version__", *modelwright.NAMES])


@pytest.mark.parametrize("name", modelwright.__all__)
def test_each_name_resolves(name: str) -> None:
    value = getattr(modelwright, name)
    if name in modelwright.NAMES:
        assert value.__module__ == modelwright.NAMES[name]
        assert value.__name__ == name
        assert value.__doc__, f"{name} has no docstring"
    assert name in dir(modelwright)


def test_an_unknown_name_is_an_attribute_error_that_names_the_known() -> None:
    with pytest.raises(AttributeError, match=r"modelwright has no name 'laod'.*load"):
        _ = modelwright.laod
    assert not hasattr(modelwright, "__path_to_nowhere__")


def test_the_version_is_the_packages() -> None:
    try:
        installed = importlib.metadata.version("modelwright")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("modelwright is not installed here, only on the path")
    assert modelwright.__version__ == installed


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'tokenizers', 'tyro', 'rich', 'huggingface_hub', 'pyarrow'}"
    code = f"import sys, modelwright; sys.exit(str({heavy} & set(sys.modules)) if {heavy} & set(sys.modules) else 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "src", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
