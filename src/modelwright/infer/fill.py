"""What an encoder does in place of writing: the likeliest tokens where a word is missing."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from modelwright.infer.engine import evaluating
from modelwright.infer.text import LanguageModel, encode, refuse_labels


@dataclass(frozen=True)
class Candidate:
    """One token for a mask: its id, its own text, and how likely it is."""

    token: int
    text: str
    probability: float


@torch.inference_mode()
def fill_mask(lm: LanguageModel, text: str, top: int = 5) -> list[list[Candidate]]:
    """The likeliest tokens for each mask in the text, in order, the likeliest first.

    Raises ValueError for a model that is no encoder, a text without a mask, one beyond the context, and top below 1.
    """
    model, mask = lm.model, lm.tokenizer.mask
    refuse_labels(model.cfg)
    if model.cfg.shape != "encoder" or mask is None:
        raise ValueError(f"a {model.cfg.shape} has no mask to fill: let this model generate instead")
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}")
    ids = [*model.embed.soft, *encode(lm.tokenizer, text, (mask,))]
    if mask not in ids:
        raise ValueError(
            f"the text has no {lm.tokenizer.decode([mask], special=True)} to fill: put one where a word is missing"
        )
    if len(ids) > model.cfg.context:
        raise ValueError(f"the text has {len(ids)} tokens, but the model's context is {model.cfg.context}: shorten it")
    tokens = torch.tensor([ids], device=model.embed.tokens.weight.device)
    with evaluating(model):
        hidden = model.hidden(tokens)[tokens == mask]  # (masks, C)
        best = model.logits(hidden).float().softmax(-1).topk(min(top, model.cfg.vocab))
    return [
        [Candidate(i, lm.tokenizer.decode([i], special=True), p) for i, p in zip(row, probs, strict=True)]
        for row, probs in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
