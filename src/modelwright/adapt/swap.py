"""Surgery on a built model: every layer that matches a name is replaced by one that is made of it.

LoRA, a quantised weight, a pruned one: each is a `make`. What is put in can be taken out again in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn


def swap(
    model: nn.Module,
    match: str | Collection[str],
    make: Callable[[nn.Module], nn.Module],
    kind: type[nn.Module] = nn.Linear,
) -> nn.Module:
    """Replace in place every layer of this kind whose dotted name matches, by `make(layer)`.

    match: a regular expression over whole names, or the names themselves. Raises ValueError where no layer matches.
    """
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, kind) and (re.fullmatch(match, name) if isinstance(match, str) else name in match)
    ]
    if not found:
        said = match if isinstance(match, str) else ", ".join(sorted(match))
        raise ValueError(f"the model has no {kind.__name__} whose name matches {said}")
    for name, module in found:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, make(module))
    return model


def learned(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that are trained, by name: all that a checkpoint of an adapted model needs beside its base."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def restore_learned(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy back what `learned` gave. Raises ValueError naming what is missing, unknown or of another shape."""
    own = learned(model)
    wrong = [f"{name} is missing" for name in own if name not in tensors]
    wrong += [f"{name} is unknown" for name in tensors if name not in own]
    wrong += [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(p.shape)}"
        for name, p in own.items()
        if name in tensors and tensors[name].shape != p.shape
    ]
    if wrong:
        raise ValueError(f"the saved tensors do not fit what the model trains: {', '.join(wrong)}")
    for name, p in own.items():
        p.copy_(tensors[name])
