"""What a longer context is worth to a model: its loss by how much of a text it has read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelwright.adapt.prompt import soft_ids
from modelwright.evaluate.reading import strips
from modelwright.evaluate.scorer import ModelScorer, Told, untold
from modelwright.model.config import Config


class Bucket(NamedTuple):
    """Positions first to last of a row, and of each text that has any, nats and tokens that were predicted there."""

    first: int
    last: int
    stats: NDArray[np.float64]  # (texts, 2)


def refuse_placeless(cfg: Config) -> None:
    """Raises ValueError for a model that does not predict each token from those before it."""
    if cfg.shape != "decoder" or cfg.labels:
        what = f"an {cfg.shape}" if cfg.shape != "decoder" else "a decoder with labels in the place of its words"
        raise ValueError(f"only a decoder predicts each token from those before it, and this model is {what}")


def by_position(scorer: ModelScorer, texts: Sequence[str], *, told: Told = untold) -> list[Bucket]:
    """The loss at positions 0-1, 2-3, 4-7, ... of rows, up to the context.

    A text is cut into rows that share nothing, so that at position p every model has read p + 1 tokens and no more, one
    that could look further back too. Raises ValueError for a model that is no decoder.
    """
    cfg, tokenizer, soft = scorer.model.cfg, scorer.tokenizer, soft_ids(scorer.model)
    refuse_placeless(cfg)
    begin = tokenizer.eos if tokenizer.bos is None else tokenizer.bos
    cut = [strips(tokenizer.encode(text), begin, cfg.context, soft, apart=True) if text else [] for text in texts]
    rows = [(i, row) for i, some in enumerate(cut) for row in some]
    longest = max((len(row.tokens) - len(soft) for _, row in rows), default=0)
    sums = np.zeros((len(texts), max(1, (longest - 1).bit_length()), 2))
    for owners, batch, logps in scorer.read(rows, told):
        at, weight = (batch.pos.cpu().numpy() - len(soft)).clip(1), batch.weight.cpu().numpy()  # (B, T)
        bucket, owner = np.log2(at).astype(int), np.broadcast_to(np.array(owners)[:, None], at.shape)
        there = weight > 0
        nats = -logps.double().cpu().numpy()[there]
        said = np.stack([nats, np.ones_like(nats)], axis=1)  # (n, 2)
        np.add.at(sums, (owner[there], bucket[there]), said)
    stats = [sums[sums[:, k, 1] > 0, k] for k in range(sums.shape[1])]
    return [Bucket(2**k if k else 0, 2 ** (k + 1) - 1, one) for k, one in enumerate(stats) if len(one)]
