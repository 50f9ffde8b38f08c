"""Many adapters on one model, each row of a forward with its own: LoRAs as thin products beside the shared layers (Chen
et al. 2023, "Punica"), soft prompts as ids of one larger vocabulary.

The model may be packed for decoding: then queries, keys and values are one product, and so are their LoRAs.

Letters: N rows, I inputs and O outputs of a layer, R rank, C width, P tokens of a soft prompt.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.adapt.lora import LoRALinear
from modelwright.adapt.prompt import SoftEmbedding, soft_ids
from modelwright.adapt.swap import swap
from modelwright.infer.packed import PackedLinear
from modelwright.model.transformer import Transformer

JOINED = {"qkv": ("q", "k", "v"), "up": ("gate", "up")}  # what packing makes one product of

Thin = tuple[Tensor, Tensor]  # A (R, I), and B (O, R) with its scale


class Bank:
    """The adapters of a model by name, and which rows of the forward under way each is for."""

    def __init__(self, names: Sequence[str], soft: Mapping[str, tuple[int, ...]]):
        self.names, self._soft = tuple(names), dict(soft)
        self.runs: list[tuple[str, slice]] = []

    def soft(self, name: str | None) -> tuple[int, ...]:
        """The ids that an adapter has before every text; an encoder-decoder's before its source."""
        return self._soft.get(name or "", ())

    def rows(self, runs: Sequence[tuple[str | None, int]]) -> None:
        """Of the next forward: which adapter, and how many of its rows in turn."""
        self.runs, end = [], 0
        for name, group in itertools.groupby(runs, key=lambda run: run[0]):
            start, end = end, end + sum(count for _, count in group)
            if name is not None:
                self.runs.append((name, slice(start, end)))


class Banked(nn.Module):
    """A layer, and beside it the LoRAs of some adapters: y = x W^T + b, and for the rows of each += x A^T B^T."""

    def __init__(self, base: nn.Module, bank: Bank, thin: Mapping[str, Thin]):
        super().__init__()
        self.base, self.bank, self.thin = base, bank, dict(thin)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        wide, rows = y.view(-1, y.size(-1)), x.reshape(-1, x.size(-1))  # (N, O), (N, I)
        for name, run in self.bank.runs:
            if name in self.thin:
                A, B = self.thin[name]
                wide[run].addmm_(rows[run] @ A.t(), B.t())
        return y


def bank(model: Transformer, adapters: Mapping[str, Transformer]) -> Bank:
    """Give `model` the LoRAs and soft prompts of these models, in place, and choose among them by the bank's `rows`.

    model: their base, plain or made ready for decoding; `adapters` are what adapt/open.py opens, by name. Raises
    ValueError for an adapter of another shape.
    """
    found = Bank(list(adapters), put_prompts(model, adapters))
    thin = {name: loras(adapted) for name, adapted in adapters.items()}
    have = {layer for layers in thin.values() for layer in layers}
    lacking = set(have)
    for name, layer in [*model.named_modules()]:
        parts = plain_names(name, layer)
        if have.intersection(parts):
            for adapter, layers in thin.items():
                check(layer, parts, layers, adapter)
            beside = {adapter: joined(layer, parts, layers) for adapter, layers in thin.items()}
            made = Banked(layer, found, {adapter: ab for adapter, ab in beside.items() if ab is not None})
            swap(model, [name], lambda _, made=made: made, type(layer))  # type: ignore[misc]
            lacking.difference_update(parts)
    if lacking:
        raise ValueError(f"the model has no layer {min(lacking)!r}, which an adapter was trained for")
    return found


def asked_as(base: Transformer, soft: tuple[int, ...]) -> Transformer:
    """What a text for an adapter is encoded by: the base's own weights, behind the ids of its soft prompt.

    It is for all that looks at a model's shape and its soft prompt, not for a forward.
    """
    shared: dict[int, Any] = {id(t): t for t in (*base.parameters(), *base.buffers())}
    same = copy.deepcopy(base, shared)
    same.embed.soft = soft
    return same


def loras(model: Transformer) -> dict[str, Thin]:
    """The LoRA of each layer by the layer's name, in the type of the model's weights."""
    return {
        name: (layer.A.detach().to(dtype), (layer.scale * layer.B.detach()).to(dtype))
        for name, layer in model.named_modules()
        if isinstance(layer, LoRALinear)
        for dtype in (layer.base.weight.dtype,)
    }


def plain_names(name: str, layer: nn.Module) -> list[str]:
    """The layers of a plain model that this one does the work of."""
    if not isinstance(layer, (nn.Linear, PackedLinear)):
        return []
    before, _, last = name.replace(".plain.", ".").rpartition(".")
    parts = JOINED[last] if isinstance(layer, PackedLinear) and len(layer.widths) > 1 else (last,)
    return [f"{before}.{part}" for part in parts]


def widths(layer: nn.Module) -> list[int]:
    """The outputs of each part of a layer."""
    assert isinstance(layer, (nn.Linear, PackedLinear))
    return layer.widths if isinstance(layer, PackedLinear) else [layer.out_features]


def check(layer: nn.Module, parts: Sequence[str], thin: Mapping[str, Thin], adapter: str) -> None:
    assert isinstance(layer, (nn.Linear, PackedLinear))
    for part, width in zip(parts, widths(layer), strict=True):
        if part in thin:
            found = thin[part][1].size(0), thin[part][0].size(1)
            if found != (width, layer.in_features):
                raise ValueError(
                    f"the adapter {adapter} is for a {part} of {found[1]} inputs and {found[0]} outputs, and the "
                    f"model's has {layer.in_features} and {width}"
                )


def joined(layer: nn.Module, parts: Sequence[str], thin: Mapping[str, Thin]) -> Thin | None:
    """One pair for all parts of a layer: the A's one below the other, the B's each in its own outputs and ranks."""
    if not (some := [thin[part] for part in parts if part in thin]):
        return None
    A = torch.cat([a for a, _ in some])  # (sum of R, I)
    B = A.new_zeros(sum(widths(layer)), len(A))
    row = column = 0
    for part, width in zip(parts, widths(layer), strict=True):
        if part in thin:
            rank = len(thin[part][0])
            B[row : row + width, column : column + rank] = thin[part][1]
            column += rank
        row += width
    return A, B


def put_prompts(model: Transformer, adapters: Mapping[str, Transformer]) -> dict[str, tuple[int, ...]]:
    """All soft prompts behind the vocabulary; the ids of each."""
    soft = {name: adapted.embed.tokens.soft for name, adapted in adapters.items() if soft_ids(adapted)}
    ids, start = {}, model.cfg.vocab
    for name, vectors in soft.items():
        ids[name] = tuple(range(start, start := start + len(vectors)))  # type: ignore[arg-type]
    if soft:
        rows = torch.cat([vectors.detach() for vectors in soft.values()])  # type: ignore[operator]
        setattr(model.embed, "tokens", SoftEmbedding(model.embed.tokens, rows.to(model.embed.tokens.weight)))  # noqa: B010
    return ids
