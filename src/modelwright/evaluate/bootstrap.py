"""What a metric might have been on other examples: weights drawn anew for the examples there are, and their sums.

Efron's bootstrap (1979) draws n examples with replacement; Rubin's Bayesian bootstrap (1981) draws weights from a
Dirichlet distribution, which is the same smoothly. Both know only what they saw: where all answers are right, no
resample holds a wrong one, and the interval has width 0, which is a lie. So examples that were not seen get a weight
too: the worst that might have been drawn, and the best.

- A bound to decide on gives the worst the weight of one example. That is Gaffke's bound (2005; Learned-Miller and
  Thomas 2019, arXiv:1905.06208): of right and wrong answers exactly Clopper and Pearson's (1934), which never errs
  more often than it says; of other bounded scores no case is known where it does, though a proof is missing.
- An interval to read gives the worst and the best half of one each. Of right and wrong answers that would be
  Jeffreys' interval, which holds the truth about as often as it says (Brown, Cai and DasGupta 2001).

docs/statistics.md compares both with the usual intervals.

Letters: n examples, m examples that were not seen, k statistics, R resamples.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 2000
BEYOND = 50  # resamples that are to lie outside a bound, or its place is a matter of luck
NUMBERS = 1 << 21  # weights held at once: 16 MB


def resamples(error: float) -> int:
    """How many to draw for a bound that may be wrong with probability `error`."""
    return max(RESAMPLES, math.ceil(BEYOND / error))


def weights(n: int, unseen: Sequence[float], draws: int, seed: int) -> Iterator[Array]:
    """`draws` rows of weights for m unseen examples and n seen ones, Dirichlet(unseen ..., 1, ..., 1), in chunks (<=
    R, m + n).

    Each row sums to n and what the unseen ones weigh on average. The rows depend on the seed alone, not on the size
    of the chunks.
    """
    few, many = np.random.default_rng(seed).spawn(2)
    rows = max(1, NUMBERS // (n + len(unseen)))
    for start in range(0, draws, rows):
        j = min(rows, draws - start)
        chunk = np.concatenate([few.standard_gamma(unseen, (j, len(unseen))), many.standard_exponential((j, n))], 1)
        yield chunk * ((n + sum(unseen)) / chunk.sum(1, keepdims=True))


def resampled(stats: Array, more: Array, unseen: Sequence[float], draws: int, seed: int) -> Array:
    """Sums of weighted statistics (R, k): of the examples (n, k), and of others (m, k) that weigh `unseen` (m,) on
    average."""
    every = np.concatenate([more, stats])  # (m + n, k)
    return np.concatenate([w @ every for w in weights(len(stats), unseen, draws, seed)])


def smallest(values: Array, error: float) -> float:
    """The value that a share `error` of such draws lies at or below: of R values the one of rank error (R + 1),
    rounded down.

    Values of this rank lie beyond a further draw with probability at most `error`, however few were drawn.
    """
    rank = max(1, math.floor(error * (len(values) + 1)))
    return float(np.partition(values, rank - 1)[rank - 1])


def clopper_pearson(right: int, n: int, error: float) -> float:
    """The share of right answers that lies under the true one but with probability `error` at most (Clopper and
    Pearson 1934).

    It is the p for which `right` or more of n would come with probability `error`: 0 where none is right, error^(1/n)
    where all are. For an upper bound take 1 - clopper_pearson(n - right, n, error).
    """
    if right == 0:
        return 0.0
    j = np.arange(right, n + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])  # log 0!, log 1!, ... log n!
    ways = logs[n] - logs[j] - logs[n - j]
    low, high = 0.0, 1.0
    while low < (p := (low + high) / 2) < high:  # until no number lies between
        tail = np.exp(ways + j * math.log(p) + (n - j) * math.log1p(-p)).sum()
        low, high = (p, high) if tail <= error else (low, p)
    return low
