"""What a user's file names: keys, and where data come from: files, URLs, or the embedded desk.

The desk is a word and no path, wherever the command is called: `./desk` is the folder of that name. Text to read is
`desk`, `desk+episodes` or `desk+gaps`, perhaps with a number (`desk:50k`); tables of examples are `desk:NAME`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

DESKS = DESK, EPISODES, GAPS = "desk", "desk+episodes", "desk+gaps"


class Twice(ValueError):
    """A key that stands twice in one mapping."""


class Strict(yaml.SafeLoader):
    """Takes no key twice: of two values, YAML's usual readers keep the last in silence."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in lines:
                raise Twice(f"says {key.value} twice, on line {lines[key.value]} and on line {line}: leave one out")
            lines[key.value] = line
        return node


def read_yaml(path: Path) -> Any:
    """What a YAML file says. Raises ValueError for what is no YAML, and for a key that stands there twice."""
    try:
        return yaml.load(path.read_text("utf-8"), Strict)  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except Twice as error:
        raise ValueError(f"{path} {error}") from None


def known(said: Iterable[object], names: Iterable[str], where: str, what: str = "key") -> None:
    """Raises ValueError for an unknown name, with the one that it is spelled most like."""
    names = list(names)
    for name in said:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
            hint = f"perhaps you meant {near[0]}" if near else f"it may be {', '.join(names)}"
            raise ValueError(f"{where} has an unknown {what} {name!r}: {hint}")


def is_desk(source: str) -> bool:
    return source.partition(":")[0] in DESKS


def is_path(source: str) -> bool:
    return "://" not in source and not is_desk(source)


def located(source: str, base: Path) -> str:
    """A path as it is from here, where `base` is the directory that it was said in; what is no path, as it is."""
    return str(base / Path(with_environment(source)).expanduser()) if is_path(source) else source


def absolute(source: str) -> str:
    return str(Path(source).resolve()) if is_path(source) else source


def with_environment(path: str) -> str:
    """A path with `$NAME` replaced from the environment. Raises ValueError for a name that is not there."""
    found = os.path.expandvars(path)
    if missing := re.search(r"\$\{?(\w+)", found):
        raise ValueError(
            f"{path} asks for the environment variable {missing[1]}, which is not set: export {missing[1]}=..."
        )
    return found
