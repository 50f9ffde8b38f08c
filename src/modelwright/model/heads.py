"""Give a model another head: the labels of a task in the place of the vocabulary.

Letters: C width, L labels.
"""

import copy
from dataclasses import replace
from typing import Any

import torch

from modelwright.model.transformer import Head, Labels, Transformer


def relabel(model: Transformer, labels: Labels, generator: torch.Generator) -> Transformer:
    """A model of the same body, to the tensor, with a fresh head over `labels`: proj (L, C); for texts a pooler (C, C).

    proj is drawn from N(0, 0.02) as in BERT (Devlin et al. 2019), so that the first predictions are nearly even; the
    pooler as any other layer, from N(0, 1/C). `model` itself keeps its own head and is not changed.

    Raises ValueError for a model that is no encoder: no checkpoint format that we write holds labels for one.
    """
    if model.cfg.shape != "encoder":
        raise ValueError(
            f"labels are for an encoder, and this model is a {model.cfg.shape}: let it answer with the label as text"
        )
    shared: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    found = copy.deepcopy(model, shared)
    found.cfg = replace(model.cfg, labels=labels, tied=False, head_transform=False, head_bias=True, scale_logits=1.0)
    found.head = Head(found.cfg)
    with torch.no_grad():
        for name, p in found.head.named_parameters():
            spread = 0.02 if name == "proj.weight" else p.size(-1) ** -0.5
            p.zero_() if name.endswith("bias") else p.normal_(0.0, spread, generator=generator)
    found.head.to(model.embed.tokens.weight)
    return found.train(model.training)
