"""What each way of tuning changes of a model, how fast it learns, and what is kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modelwright.adapt.lora import LoRA, add_lora
from modelwright.adapt.open import RECORD, save_adapter, versions
from modelwright.adapt.prompt import SoftPrompt, add_prompt
from modelwright.hub.open import LanguageModel, save
from modelwright.model.checkpoint import whole, write_json
from modelwright.model.heads import relabel
from modelwright.model.transformer import Labels, Transformer

Method = Literal["full", "lora", "prompt"]
# Learning rates of AdamW, times the width, for models of any size: small models take larger steps. A LoRA learns at
# ten times the rate of full fine-tuning (Schulman et al. 2025); a soft prompt has to move whole embeddings.
RATES: Mapping[Method, float] = {"full": 0.1, "lora": 1.0, "prompt": 3.0}


@dataclass(frozen=True)
class Adapter:
    """What is put on a model: nothing for full fine-tuning."""

    method: Method
    cfg: LoRA | SoftPrompt | None


def default_rate(method: Method, width: int) -> float:
    return float(f"{RATES[method] / width:.1g}")


def put_on(model: Transformer, adapter: Adapter, labels: Labels | None, generator: torch.Generator) -> Transformer:
    """The model with a head over `labels`, if it is to have one and has not, and with the adapter; ready to learn.

    Raises ValueError where the model has another head, or another adapter, already.
    """
    if labels is not None and model.cfg.labels != labels:
        if model.cfg.labels is not None:
            raise ValueError(
                f"the model's head has the labels {', '.join(model.cfg.labels.names)}, and the task "
                f"{', '.join(labels.names)}: begin with a model without a head"
            )
        model = relabel(model, labels, generator)
    model.requires_grad_(True)
    if isinstance(adapter.cfg, LoRA):
        add_lora(model, adapter.cfg, generator)
    elif isinstance(adapter.cfg, SoftPrompt):
        add_prompt(model, adapter.cfg, generator)
    return model.train()


def learning(model: Transformer) -> dict[str, Tensor]:
    """What learns, by name."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def keep(model: Transformer, path: Path) -> None:
    """Write what learns, so that the best moment can be gone back to; whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    save_file({name: p.contiguous() for name, p in learning(model).items()}, part)
    part.replace(path)


@torch.no_grad()
def go_back(model: Transformer, path: Path) -> None:
    """The model as it was when `keep` wrote it."""
    kept = load_file(path)
    for name, p in learning(model).items():
        p.copy_(kept[name])


def write(
    lm: LanguageModel, adapter: Adapter, directory: Path, base: str, digest: str, lineage: dict[str, Any]
) -> None:
    """The tuned model as a model directory, or as an adapter that names its base; with what it was made of."""
    if adapter.cfg is not None:
        save_adapter(lm, adapter.cfg, directory, base=base, base_digest=digest, lineage=lineage)
        return
    record = {"base": {"name": base, "digest": digest}, "method": {"name": "full"}, "versions": versions(), **lineage}
    with whole(directory, overwrite=True) as work:
        save(lm, work)
        write_json(work / RECORD, record)
