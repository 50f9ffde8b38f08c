"""How well preferences are foretold: of two answers, was the one that was chosen given the higher reward?

Letters: n rankings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modelwright.evaluate.metrics import METRICS
from modelwright.evaluate.statistics import Interval, interval

BINS = 10  # of calibration, of equally many pairs each


@dataclass(frozen=True)
class Margin:
    """Of a pair: the reward of what was chosen, less the other's; the ranking it is of; what it counts there."""

    value: float
    group: str
    weight: float


@dataclass(frozen=True)
class Foretold:
    """accuracy: the share of pairs told right, a tie half; its interval is over rankings, whose pairs are not
    independent. log_loss: -log sigmoid(margin), nats; ln 2 is what a coin has. calibration: how far, in the mean over
    bins, the weighted share that was right lies from sigmoid(|margin|), which is what the model claims."""

    accuracy: Interval
    margin: float
    log_loss: float
    calibration: float
    pairs: int


def foretold(margins: Sequence[Margin], *, seed: int = 0) -> Foretold:
    """Raises ValueError where there is no pair."""
    values, weights = (np.array([getattr(m, name) for m in margins]) for name in ("value", "weight"))
    right = (values > 0) + 0.5 * (values == 0)
    groups = np.unique([m.group for m in margins], return_inverse=True)[1]
    sums = [np.bincount(groups, counted).astype(np.float64) for counted in (weights * right, weights)]
    stats = np.stack(sums, 1)  # (n, 2)
    return Foretold(
        accuracy=interval(stats, METRICS["accuracy"], seed=seed),
        margin=float(np.average(values, weights=weights)),
        log_loss=float(np.average(np.logaddexp(0, -values), weights=weights)),
        calibration=_calibration(np.abs(values), right, weights),
        pairs=len(margins),
    )


def _calibration(sure: np.ndarray, right: np.ndarray, weights: np.ndarray) -> float:
    """The expected calibration error of Guo et al. 2017, eq. 3, over bins of equally many pairs, each by its weight."""
    gaps, order = weights * (1 / (1 + np.exp(-sure)) - right), np.argsort(sure, kind="stable")
    return float(sum(abs(gaps[part].sum()) for part in np.array_split(order, BINS)) / weights.sum())
