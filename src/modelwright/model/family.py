"""What a family of published checkpoints is: a spelling of the configuration, and a table of tensor names.

The families themselves are in `families.py`; here stand the two records and the words to read a config.json with.
A setting that would change what a model computes and that the Transformer does not have is refused, never ignored;
dropout does not, outside training, so of a family's several rates one is read and the others are passed over.
"""

from __future__ import annotations

import re
import reprlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from modelwright.model.transformer import Config

Json = Mapping[str, Any]  # the content of a config.json


@dataclass(frozen=True)
class Name:
    """One line of a table of names; `{}` stands for the number of a block, and for that of an expert behind it.

    `ours` is a module, whose `weight` and `bias` are meant alike, or a whole parameter; `theirs` its names in a file:
    the first that is there is read, all are written. `part` of `parts` says which piece, along the outputs, it is of a
    tensor that holds several of ours, one after the other or, `by_head`, so for each head; `turned`, that their matrix
    is (in, out); `row`, that their vector is (1, n). A line with `gated` holds only for feed-forwards that are, or are
    not, gated; one with `labelled` only for models that have, or have not, labels; one with `each` only for labels of
    each such thing. With `stacked`, ours is a stack of matrices, of which each has a name of its own in a file.
    """

    ours: str
    theirs: tuple[str, ...]
    part: int = 0
    parts: int = 1
    by_head: bool = False
    turned: bool = False
    row: bool = False
    gated: bool | None = None
    labelled: bool | None = None
    each: str | None = None
    stacked: bool = False
    groups: int = 1  # how often the parts follow each other: the model's heads where they do so by head

    def pieces(self, parameter: Tensor) -> list[tuple[Name, Tensor]]:
        """What a file holds of a parameter: each matrix of a stack under its own name, all else as one."""
        if not self.stacked:
            return [(self, parameter)]
        names = [tuple(their.format(e) for their in self.theirs) for e in range(len(parameter))]
        return [(replace(self, theirs=t, stacked=False), p) for t, p in zip(names, parameter.unbind(), strict=True)]


@dataclass(frozen=True)
class Family:
    """All there is to know of a family. Patterns are regular expressions over whole tensor names.

    `older` rewrites names of older files to today's. `buffers` are tensors that can be computed, `copies` repeat
    another tensor and must equal it, `aside` are weights of parts that the Transformer does not have; `zeros` are
    numbers for each token of the vocabulary, (1, V), which are 0 in every release. `fused`: stacks of a layer's
    experts, each (E, outputs, inputs) and made of several side by side, and the names of these, with `{}` for the
    number of an expert. `unsaid`: what a config.json says where whoever writes it says nothing else.
    """

    model_type: str
    architectures: tuple[str, ...]
    read: Callable[[Json], Config]
    write: Callable[[Config], dict[str, Any]]
    names: tuple[Name, ...]
    older: tuple[tuple[str, str], ...] = ()
    buffers: tuple[str, ...] = ()
    copies: tuple[tuple[str, str], ...] = ()
    aside: tuple[str, ...] = ()
    zeros: tuple[str, ...] = ()
    fused: tuple[tuple[str, tuple[str, ...]], ...] = ()
    unsaid: Mapping[str, Any] = field(default_factory=dict)

    def place(self, ours: str, cfg: Config) -> Name:
        """Where the parameter `ours` of a model of `cfg` stands in a file: its line, with `{}` filled in."""
        module, _, leaf = ours.rpartition(".")
        for name in self.names:
            if name.gated not in (None, cfg.gated) or name.labelled not in (None, cfg.labels is not None):
                continue
            if name.each is not None and (cfg.labels is None or cfg.labels.each != name.each):
                continue
            pattern = re.escape(name.ours).replace(r"\{\}", r"(\d+)")
            for stem, tail in ((ours, ""), (module, f".{leaf}"))[: 1 if name.stacked else 2]:
                if found := re.fullmatch(pattern, stem):
                    theirs = tuple(their.format(*found.groups(), "{}") + tail for their in name.theirs)
                    return replace(name, ours=ours, theirs=theirs, groups=cfg.heads if name.by_head else 1)
        raise ValueError(f"a {self.model_type} checkpoint has no place for the parameter {ours}")

    def apart(self, theirs: str, experts: int) -> list[tuple[str, int, int, int]]:
        """Of a fused tensor of so many experts, each piece: its name, its expert, and which it is of how many."""
        for pattern, names in self.fused:
            if found := re.fullmatch(pattern, theirs):
                pieces = [(e, i) for e in range(experts) for i in range(len(names))]
                return [(names[i].format(*found.groups(), e), e, i, len(names)) for e, i in pieces]
        return []

    def today(self, theirs: str) -> str:
        """Today's name of a tensor that an older file may name otherwise."""
        for pattern, replacement in self.older:
            theirs = re.sub(pattern, replacement, theirs)
        return theirs


# -- reading a config.json --------------------------------------------------------------------------------


ACTS: dict[str, Any] = {  # theirs -> ours; the first of several is the one that is written
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


def key_of(table: Mapping[str, Any], value: Any) -> str | None:
    return next((key for key, entry in table.items() if entry == value), None)


def unsupported(config: Json, key: str, supported: str) -> ValueError:
    return ValueError(
        f"config.json ({config.get('model_type')}): {key} = {reprlib.repr(config.get(key))}; supported: {supported}"
    )


def only(config: Json, **supported: tuple[Any, ...]) -> None:
    """Refuses a setting whose value is none of the supported; left out or null, it is taken as the first of them."""
    for key, values in supported.items():
        if config.get(key) is not None and config[key] not in values:
            raise unsupported(config, key, " or ".join(map(repr, values)))


def known(config: Json, architectures: tuple[str, ...]) -> None:
    """Refuses what no family has: heads other than the language model's, and packed weights."""
    only(config, quantization_config=(None,))
    named = config.get("architectures") or []
    if not isinstance(named, list) or not all(isinstance(architecture, str) for architecture in named):
        raise unsupported(config, "architectures", f"a list of names: {', '.join(architectures)}")
    for architecture in named:
        if architecture not in architectures:
            raise ValueError(
                f"config.json ({config.get('model_type')}): architecture {architecture!r}; "
                f"supported: {', '.join(architectures)}"
            )


def size(config: Json, *keys: str, default: int | None = None) -> int:
    """The whole number above 0 under the first of `keys` that is set; ValueError where there is none."""
    key = next((key for key in keys if config.get(key) is not None), keys[0])
    value = default if config.get(key) is None else config[key]
    if type(value) is not int or value < 1:
        raise unsupported(config, key, "a whole number above 0")
    return value


def number(config: Json, key: str, default: float) -> float:
    """The number of at least 0 under `key`; JSON as Python writes it may also hold NaN and Infinity."""
    value = default if config.get(key) is None else config[key]
    if type(value) not in (int, float) or not 0 <= value <= sys.float_info.max:
        raise unsupported(config, key, "a number of at least 0")
    return float(value)


def positive(config: Json, key: str, default: float) -> float:
    """The number above 0 under `key`: one that is divided by."""
    found = number(config, key, default)
    if found == 0:
        raise unsupported(config, key, "a number above 0")
    return found


def rate(config: Json, key: str, default: float) -> float:
    """The share of what is dropped."""
    found = number(config, key, default)
    if found > 1:
        raise unsupported(config, key, "a share from 0 to 1")
    return found


def settings(config: Json, key: str) -> Json:
    """The object under `key`; empty where it is left out or null."""
    found = config.get(key)
    if found is not None and not isinstance(found, dict):
        raise unsupported(config, key, "an object of settings, or null")
    return found or {}


def yes(config: Json, key: str, default: bool) -> bool:
    only(config, **{key: (default, not default)})
    return default if config.get(key) is None else bool(config[key])


def activation(config: Json, key: str, default: str) -> Any:
    only(config, **{key: tuple(ACTS)})
    return ACTS[config.get(key) or default]


def head_width(config: Json, width: int, heads: int) -> int:
    if width % heads:
        raise ValueError(f"config.json ({config.get('model_type')}): {heads} heads cannot share a width of {width}")
    return width // heads
