"""How far labellers agree: Krippendorff's alpha, 1 - (observed disagreement) / (that of chance).

1 is full agreement, 0 what labels dealt out at random would have, and below 0 they contradict each other. It takes any
number of labellers and labels that are missing (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability").

Of rankings, the **unit** is a pair of completions of one prompt, and its **values** are 1 (the first is better), 0 (a
tie) and -1 (the second is), with the **ordinal** metric. Ranks themselves would not do for values: rank 4 of 4 is not
rank 4 of 9, and a labeller who ties two makes those behind them other numbers. Which completion of a pair is the first
is arbitrary, so that each pair counts in both directions; 1 and -1 are then equally frequent, the ordinal metric is
the interval one (to mistake the better for the worse is four times as bad as a tie), and no numbering changes alpha.

Letters: M labellers, U units, V values, P prompts, K completions of a prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modelwright.evaluate.bootstrap import resampled, resamples, smallest

Array = NDArray[np.float64]
Scale = Literal["nominal", "ordinal", "interval"]
SEED, LEVEL = 0, 0.95
CHOICES = np.array([-1.0, 0.0, 1.0])
UNSEEN = (0.5, 0.5)  # what a prompt of full contradiction weighs in an interval, and one of full agreement


def alpha(labels: Array, scale: Scale) -> float:
    """Krippendorff's alpha of labels (M, U), NaN where one is missing.

    NaN where it says nothing: no unit has two labels, or all labels are the same.
    """
    values = np.unique(labels[~np.isnan(labels)])
    return float(alphas(coincidences(labels, values).reshape(1, -1), values, scale)[0])


def coincidences(labels: Array, values: Array) -> Array:
    """(V, V): how often two labels of one unit were this value and that, each unit's pairs over its labels less 1."""
    every = [(labels == value).sum(0) for value in values]
    counts = np.array(every, float).reshape(len(values), -1).T  # (U, V)
    many = counts[counts.sum(1) > 1]  # a label that stands alone pairs with none
    pairs = many[:, :, None] * many[:, None, :] - many[:, :, None] * np.eye(len(values))  # (U, V, V)
    weighed: Array = pairs / (many.sum(1) - 1)[:, None, None]
    found: Array = weighed.sum(0)
    return found


def alphas(sums: Array, values: Array, scale: Scale) -> Array:
    """alpha of each row of coincidences, (R, V * V) -> (R,)."""
    o = sums.reshape(len(sums), len(values), len(values))
    n_c = o.sum(2)  # (R, V)
    n = n_c.sum(1)  # (R,)
    apart = _differences(n_c, values, scale)  # (R, V, V)
    observed = (o * apart).sum((1, 2)) / np.maximum(n, 1e-300)
    # c = k costs nothing, so that n_c n_k also stands for n_c (n_c - 1)
    chance = (n_c[:, :, None] * n_c[:, None, :] * apart).sum((1, 2)) / np.maximum(n * (n - 1), 1e-300)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((chance > 0) & (n > 1), 1 - observed / chance, np.nan)


def _differences(n_c: Array, values: Array, scale: Scale) -> Array:
    """The squared difference of each two values, (R, V, V)."""
    if scale == "ordinal":  # the labels between two values, half of the two included
        middle = np.cumsum(n_c, 1) - n_c / 2  # (R, V)
        return (middle[:, :, None] - middle[:, None, :]) ** 2
    apart = (values[:, None] - values[None, :]) ** 2
    return np.broadcast_to(apart if scale == "interval" else (apart > 0).astype(float), (len(n_c), *apart.shape))


# -- rankings ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """alpha with its interval over prompts, None where it says nothing (yet); `alike`: the share of equal choices
    among two labellers' choices of one pair; how many labellers, prompts that two or more ranked, and their pairs."""

    alpha: float | None
    low: float | None
    high: float | None
    alike: float | None
    labellers: int
    prompts: int
    pairs: int


def agreement(rankings: Mapping[str, Mapping[str, Sequence[int]]]) -> Agreement:
    """Of {prompt: {labeller: ranks}}, ranks (K,) in the same order for all, 1 the best.

    The interval holds the truth with probability 0.95 by the Bayesian bootstrap: prompts are drawn anew, with half a
    prompt of full agreement and half of full contradiction that were not seen (`evaluate.bootstrap`). Raises ValueError
    for rankings of one prompt that are not equally long.
    """
    people = {name for by in rankings.values() for name in by}
    shared = [_choices(prompt, list(by.values())) for prompt, by in rankings.items() if len(by) > 1]
    tables = [coincidences(labels, CHOICES) for labels in shared if labels.shape[1]]
    if not tables:
        return Agreement(None, None, None, None, len(people), 0, 0)
    stats = np.stack([table.ravel() for table in tables])  # (P, 9)
    total = stats.sum(0).reshape(3, 3)
    value = alphas(stats.sum(0)[None], CHOICES, "ordinal")[0]
    low, high = (None, None) if np.isnan(value) else _interval(stats, value)
    pairs = sum(labels.shape[1] for labels in shared) // 2  # which count in both directions
    told = None if np.isnan(value) else float(value)
    return Agreement(told, low, high, float(np.trace(total) / total.sum()), len(people), len(tables), pairs)


def _choices(prompt: str, ranks: Sequence[Sequence[int]]) -> Array:
    """(M, K (K - 1)): what each labeller chose of each pair, in both directions."""
    if len({len(one) for one in ranks}) > 1:
        raise ValueError(f"the rankings of {prompt} are of different numbers of completions")
    table = np.array(ranks, dtype=float)  # (M, K)
    pairs = list(combinations(range(table.shape[1]), 2))
    chosen = [np.sign(table[:, j] - table[:, i]) for i, j in pairs]
    return np.stack([*chosen, *(-one for one in chosen)], 1) if pairs else np.empty((len(table), 0))


def _interval(stats: Array, value: float) -> tuple[float, float]:
    size = stats.sum(1).mean()
    contradicted, agreed = np.zeros((3, 3)), np.diag([size / 2, 0, size / 2])
    contradicted[0, 2] = contradicted[2, 0] = size / 2
    error = (1 - LEVEL) / 2
    more = np.stack([contradicted.ravel(), agreed.ravel()])
    found = alphas(resampled(stats, more, UNSEEN, resamples(error), SEED), CHOICES, "ordinal")
    return min(smallest(found, error), float(value)), max(-smallest(-found, error), float(value))


def by_item(judged: Iterable[tuple[str, str, Sequence[int]]]) -> dict[str, dict[str, Sequence[int]]]:
    """(prompt, labeller, ranks) -> what `agreement` takes."""
    found: dict[str, dict[str, Sequence[int]]] = {}
    for prompt, labeller, ranks in judged:
        found.setdefault(prompt, {})[labeller] = ranks
    return found
