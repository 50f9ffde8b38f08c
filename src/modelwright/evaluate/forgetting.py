"""What a model has lost by learning something else: its loss on general text, before and after.

A model that is tuned on one task grows worse at what it is not shown (McCloskey and Cohen 1989; Biderman et al. 2024,
for LoRA and full fine-tuning), and the task's own metric does not tell.

Letters: n texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelwright.evaluate.metrics import METRICS, Metric, amounts, of_any, ratio
from modelwright.evaluate.scorer import Rolling, Scorer
from modelwright.evaluate.statistics import Interval, interval, paired

NATS = Metric("nats_per_token", frozenset(), False, of_any(amounts), ratio, None)
BITS = METRICS["bits_per_byte"]


@dataclass(frozen=True)
class Change:
    """A loss before and after, and how much it has grown on the same texts; p as of `statistics.paired`."""

    before: Interval
    after: Interval
    difference: Interval
    p: float


@dataclass(frozen=True)
class Forgetting(Change):
    """In nats a token; and the same in bits per byte, which models of other tokenizers share."""

    bits: Change


def forgetting(
    before: Scorer, after: Scorer, texts: Sequence[str], *, level: float = 0.95, seed: int = 0
) -> Forgetting:
    """How much the loss on general texts has grown from one model to the other; a difference above 0 is forgetting.

    An encoder and an encoder-decoder are asked to fill the same gaps (`scorer.rolling`). Where one has a soft prompt,
    the other is to spare as many tokens, or texts would be read in other windows. Raises ValueError for no text, and
    for a model of labels.
    """
    return grown(before.rolling(texts), after.rolling(texts), level=level, seed=seed)


def grown(one: Sequence[Rolling], other: Sequence[Rolling], *, level: float = 0.95, seed: int = 0) -> Forgetting:
    """The same of what both models said of the texts: for a model that is no more, once it has been tuned."""
    kept = [i for i in range(len(one)) if one[i].tokens and other[i].tokens]
    if not kept:
        raise ValueError(
            "there is no text to measure forgetting on: give some that the base model was trained on, or like it"
        )
    old, new = [one[i] for i in kept], [other[i] for i in kept]
    nats = _change(per_token(old), per_token(new), NATS, level, seed)
    return Forgetting(
        nats.before, nats.after, nats.difference, nats.p, _change(per_byte(old), per_byte(new), BITS, level, seed)
    )


def _change(old: NDArray[np.float64], new: NDArray[np.float64], metric: Metric, level: float, seed: int) -> Change:
    before, after = (interval(stats, metric, level=level, seed=seed) for stats in (old, new))
    apart = paired(new, old, metric, level=level, seed=seed)
    return Change(before, after, apart.difference, apart.p)


def per_token(found: Sequence[Rolling]) -> NDArray[np.float64]:
    """(n, 2): nats and tokens, the statistics of perplexity."""
    return np.array([amounts(-one.logp, one.tokens) for one in found])


def per_byte(found: Sequence[Rolling]) -> NDArray[np.float64]:
    """(n, 2): nats and bytes, the statistics of bits per byte."""
    return np.array([amounts(-one.logp, one.bytes) for one in found])
