"""The pretraining objectives share one loss: the batch says what is to be predicted, and where.

Letters: B batch, T tokens of a row.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Rows(Protocol):
    """Each (B, T); `source` is what an encoder reads, or None."""

    @property
    def tokens(self) -> Tensor: ...
    @property
    def targets(self) -> Tensor: ...
    @property
    def weight(self) -> Tensor: ...
    @property
    def pos(self) -> Tensor: ...
    @property
    def segment(self) -> Tensor: ...
    @property
    def source(self) -> Any: ...


Terms = dict[str, tuple[Tensor, Tensor | float, float]]  # term -> (sum, weight, coefficient)


def language_model(model: nn.Module, batch: Rows) -> tuple[Terms, dict[str, Any]]:
    """Cross-entropy, - sum_t w_t log p(target_t | what the model may see), in nats, and its weight sum_t w_t.

    Next token (Radford et al. 2018, eq. 1), masked token (Devlin et al. 2019, section 3.1) or corrupted span (Raffel
    et al. 2020, section 3.1.4), as the batch was made. Places of weight 0 never meet the vocabulary.

    A model with experts has a second term, `balance` (Fedus et al. 2021, eq. 4): of each layer as `Traffic.balance`
    tells, the mean over layers, in its config's coefficient. A product of two means, it is not the same number for a
    large batch as for its parts; each micro-batch counts for 1. Metrics: `load` of the busiest expert as a multiple of
    an even share, in its worst layer, and `dropped`, the share of choices that found no place.
    """
    traffic: list[Any] = []
    logps = read(model, batch, traffic)  # (B, T)
    terms: Terms = {"loss": ((-logps * batch.weight).sum(), batch.weight.sum(), 1.0)}
    if not traffic:
        return terms, {}
    balance = torch.stack([layer.balance for layer in traffic]).mean()
    load = torch.stack([layer.load for layer in traffic]).max()
    dropped = torch.stack([layer.dropped for layer in traffic]).mean()
    cfg: Any = model.cfg
    return terms | {"balance": (balance, 1.0, cfg.routing.balance)}, {"load": load.item(), "dropped": dropped.item()}


def weigh(batch: Rows) -> dict[str, Tensor | float]:
    """The weights of `language_model`'s terms, without running the model."""
    return {"loss": batch.weight.sum(), "balance": 1.0}


def read(model: nn.Module, batch: Rows, traffic: list[Any] | None = None) -> Any:
    """What a model says of a batch: log p of its targets (B, T), 0 where they weigh 0; a critic, its values too.

    Into `traffic` goes what the routers of a model with experts did.
    """
    targets = batch.targets.masked_fill(batch.weight == 0, -1)
    mixed = getattr(getattr(model, "cfg", None), "routing", None) is not None
    asked = {"traffic": traffic} if mixed and traffic is not None else {}
    return model(batch.tokens, targets, pos=batch.pos, segment=batch.segment, source=batch.source, **asked)
