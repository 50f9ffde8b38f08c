"""What each way of tuning changes of a model, how fast it learns, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from modelwright.adapt.lora import TARGETS, LoRA, add_lora, merged_copy
from modelwright.adapt.open import RECORD, save_adapter, versions
from modelwright.adapt.prompt import SoftPrompt, add_prompt
from modelwright.hub.open import LanguageModel, save
from modelwright.model.checkpoint import blank, whole, write_json
from modelwright.model.heads import relabel
from modelwright.model.transformer import Labels, Transformer

Method = Literal["full", "lora", "prompt"]
# AdamW's rate, times the width: narrow models take larger steps (Yang et al. 2022). A LoRA learns at ten times the rate
# of full fine-tuning (Schulman et al. 2025); a soft prompt has to move whole embeddings (Lester et al. 2021).
RATES: Mapping[Method, float] = {"full": 0.1, "lora": 1.0, "prompt": 3.0}


@dataclass(frozen=True)
class Adapter:
    """What is put on a model: nothing for full fine-tuning."""

    method: Method
    cfg: LoRA | SoftPrompt | None


def make_adapter(
    method: Method, model: Transformer, *, rank: int, alpha: float, targets: Sequence[str] | None, tokens: int
) -> Adapter:
    """targets: of a LoRA; None is every layer of the blocks that the model has, as Dettmers et al. 2023 find best, but
    attention's alone beside experts."""
    if method == "full":
        return Adapter(method, None)
    if method == "prompt":
        return Adapter(method, SoftPrompt(tokens))
    there = {name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    there -= {"gate", "up", "down"} if model.cfg.routing else set()
    chosen = tuple(target for target in TARGETS if target in there) if targets is None else tuple(targets)
    return Adapter(method, LoRA(rank, alpha, targets=chosen or TARGETS))


def default_rate(method: Method, width: int, share: float = 1.0) -> float:
    """`RATES[method]` / width, or a share of it, to one digit."""
    return float(f"{share * RATES[method] / width:.1g}")


# -- before -----------------------------------------------------------------------------------------------


def put_on(model: Transformer, adapter: Adapter, labels: Labels | None, generator: torch.Generator) -> Transformer:
    """The model with a head over `labels`, if it is to have one and has not, and with the adapter; ready to learn.

    Raises ValueError where the model has another head, or another adapter, already.
    """
    if labels is not None and model.cfg.labels is None:
        model = relabel(model, labels, generator)
    if model.cfg.labels != labels:
        raise ValueError(_other_labels(model.cfg.labels, labels))
    model.requires_grad_(True)
    if isinstance(adapter.cfg, LoRA):
        add_lora(model, adapter.cfg, generator)
    elif isinstance(adapter.cfg, SoftPrompt):
        add_prompt(model, adapter.cfg, generator)
    return model.train()


def _other_labels(own: Labels | None, asked: Labels | None) -> str:
    assert own is not None
    if asked is None or own.each != asked.each:
        return f"the model's head labels each {own.each}, which is not what the task asks: begin with another model"
    wanted = f"{', '.join(own.names)}, and the task {', '.join(asked.names)}"
    same = set(own.names) == set(asked.names)
    mend = "list them in that order in the task's labels" if same else "begin with a model without a head"
    return f"the model's head has the labels {wanted}: {mend}"


def with_dropout(model: Transformer, dropout: float) -> Transformer:
    """The same tensors in a model that drops out at another rate: each part keeps the one it was built with."""
    encoder = model.cfg.encoder and replace(model.cfg.encoder, dropout=dropout)
    found = blank(replace(model.cfg, dropout=dropout, encoder=encoder))
    found.load_state_dict(model.state_dict(keep_vars=True), assign=True)
    return found.train(model.training)


# -- after ------------------------------------------------------------------------------------------------


def speaking(tuned: LanguageModel, base: LanguageModel) -> LanguageModel:
    """The tuned model, under the head over the vocabulary that the base has, where tuning put one over labels there.

    base: the model as it was opened; what is not tuned it may share with the tuned one.
    """
    model = merged_copy(tuned.model)
    if model.cfg.labels != base.model.cfg.labels:
        model.cfg, model.head = base.model.cfg, base.model.head
    return replace(tuned, model=model)


def write(
    lm: LanguageModel, adapter: Adapter, directory: Path, base: str, digest: str, lineage: Mapping[str, Any],
    also: Callable[[Path], None] = lambda work: None,
) -> None:  # fmt: skip
    """The tuned model as a model directory, or as an adapter that names its base; with what it was made of.

    also: writes what else belongs into the directory, which appears with all of it or not at all.
    """
    if adapter.cfg is not None:
        save_adapter(lm, adapter.cfg, directory, base=base, base_digest=digest, lineage=lineage, also=also)
        return
    record = {"base": {"name": base, "digest": digest}, "method": {"name": "full"}, "versions": versions(), **lineage}
    with whole(directory) as work:
        save(lm, work)
        write_json(work / RECORD, record)
        also(work)
