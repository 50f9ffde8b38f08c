"""The three pretraining objectives share one loss: the batch says what is to be predicted, and where.

Letters: B batch, T tokens of a row.
"""

from __future__ import annotations

from typing import Any, Protocol

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
    """
    logps = read(model, batch)  # (B, T)
    return {"loss": ((-logps * batch.weight).sum(), batch.weight.sum(), 1.0)}, {}


def read(model: nn.Module, batch: Rows) -> Any:
    """What a model says of a batch: log p of its targets (B, T), 0 where they weigh 0; a critic, its values too."""
    targets = batch.targets.masked_fill(batch.weight == 0, -1)
    return model(batch.tokens, targets, pos=batch.pos, segment=batch.segment, source=batch.source)
