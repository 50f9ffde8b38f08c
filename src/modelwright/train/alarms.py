"""When learning by reward goes wrong, it seldom shows in the reward: what to look at instead, and when to stop.

`history` has a row for each experience: `step`, which the weights that wrote it had reached; what `rollout.told` says;
`ratio` and `ratio_max` of its first minibatch; and now and then `gold`, the mean of a second reward that nothing learns
from, with its standard error `gold_error`. An alarm that needs what a row lacks passes it over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

Row = Mapping[str, float]


@dataclass(frozen=True)
class Limits:
    """From where on something is wrong. inf, or for shares 0, leaves an alarm out."""

    noise: float = 4.0
    """Standard errors that KL may be below 0: more come by chance once in 30,000 experiences."""
    least: float = 0.01
    """Nats that KL may be below 0 in any case, by rounding."""
    ratio: float = 0.02
    """How far from 1 the mean ratio may be before the first step: bf16 rounds within 0.01, fp32 within 1e-5."""
    ratio_max: float = 1.5
    """The largest ratio there: a single token's, so bf16 may reach 1.1."""
    entropy: float = 0.1
    """Share of its entropy at first that a policy is to keep: with less, the answers of a group are all the same."""
    ended: float = 0.2
    """Share of how many answers ended at first that is to be kept: a reward that reads cut texts is easily misled."""
    growth: float = 3.0
    """Times their length at first that answers may have: rewards that were learned favour long ones."""
    fall: float = 2.0
    """Standard errors of the difference that gold may be below its best: once in 40 by chance, `patience` in a row far
    more seldom."""
    patience: int = 3
    """Experiences (of gold: measurements) in a row, for all that moves by chance. KL and ratios need only one."""


@dataclass(frozen=True)
class Alarm:
    """What was seen, from which step on, and which step's weights were the best before it. stop: not only to be told,
    but to end the run."""

    name: str
    said: str
    since: int
    best: int
    stop: bool = True


def alarms(history: Sequence[Row], limits: Limits = Limits()) -> list[Alarm]:
    """Those that ring at the end of a history, the gravest first."""
    found: list[Alarm] = []
    for alarm in (_kl, _ratio, _gold, _constant, _ends, _growth, _entropy):
        for name, what, at, stop in alarm(history, limits):
            since, best = int(history[at]["step"]), best_of(history[:at] or history[:1])
            found.append(Alarm(name, f"{what}, since step {since}", since, best, stop))
    return found


def best_of(history: Sequence[Row]) -> int:
    """The step of the highest gold; where it was never measured, of the highest reward less its penalty."""
    measured = [row for row in history if "gold" in row]
    key = "gold" if measured else "reward"
    return int(max(measured or history, key=lambda row: row.get(key, row.get("score", 0.0)))["step"])


Rung = Iterator[tuple[str, str, int, bool]]  # name, what was seen, since which row, whether to stop


def _lasting(history: Sequence[Row], key: str, wrong: Callable[[float], bool], patience: int = 1) -> int | None:
    """Where the rows began that are wrong to the end, if there are enough of them."""
    rows = [at for at, row in enumerate(history) if key in row]
    count = 0
    while count < len(rows) and wrong(history[rows[-1 - count]][key]):
        count += 1
    return rows[-count] if count >= patience else None


def _first(history: Sequence[Row], key: str, patience: int) -> float | None:
    """The mean over as many rows at the beginning; None before there are more than these."""
    found = [row[key] for row in history if key in row]
    return fmean(found[:patience]) if len(found) > patience else None


def _kl(history: Sequence[Row], limits: Limits) -> Rung:
    row = history[-1] if history else {}
    if "kl" in row and row["kl"] < -max(limits.noise * row.get("kl_error", 0.0), limits.least):
        yield (
            "kl", f"KL to the reference is {row['kl']:.3g}, and no KL is below 0: answers are drawn from another "
            "distribution than the one that is compared (sampling rules, dropout, padding)", len(history) - 1, True,
        )  # fmt: skip


def _ratio(history: Sequence[Row], limits: Limits) -> Rung:
    at = _lasting(history, "ratio", lambda ratio: abs(ratio - 1) > limits.ratio)
    worst = _lasting(history, "ratio_max", lambda ratio: ratio > limits.ratio_max)
    if at is not None or worst is not None:
        since, row = min(a for a in (at, worst) if a is not None), history[-1]
        yield (
            "ratio", f"before the first step on new answers the ratio is {row.get('ratio', 1):.3g} on average and "
            f"{row.get('ratio_max', 1):.3g} at most, and should be 1: old and new log-probabilities are not computed "
            "alike", since, True,
        )  # fmt: skip


def _gold(history: Sequence[Row], limits: Limits) -> Rung:
    """Gao et al. 2023: the proxy goes on rising while what it stands for falls."""
    measured = [row for row in history if "gold" in row]
    if not measured:
        return
    best = max(measured, key=lambda row: row["gold"])

    def worse(row: Row) -> bool:
        error = (best.get("gold_error", 0.0) ** 2 + row.get("gold_error", 0.0) ** 2) ** 0.5
        return best["gold"] - row["gold"] > limits.fall * error and row["score"] > best["score"]

    after = [float(worse(row)) for row in measured]
    count = 0
    while count < len(after) and after[-1 - count]:
        count += 1
    if count >= limits.patience:
        now, at = measured[-1], next(at for at, row in enumerate(history) if row is measured[-count])
        yield (
            "gold", f"the gold reward fell from {best['gold']:.3g} to {now['gold']:.3g} while the reward that is "
            f"learned rose from {best['score']:.3g} to {now['score']:.3g}: the policy has found its faults", at, True,
        )  # fmt: skip


def _constant(history: Sequence[Row], limits: Limits) -> Rung:
    """Told at once; but a reward that is seldom given may well be 0 throughout the first answers."""
    at = _lasting(history, "constant", bool)
    if at is not None:
        said = f"the reward gave {history[-1].get('score', 0):.3g} to every answer: nothing can be learned from it"
        yield "constant", said, at, len(history) - at >= limits.patience


def _ends(history: Sequence[Row], limits: Limits) -> Rung:
    """Where answers never ended, they may be meant to be cut: that is told, and no reason to stop."""
    first = _first(history, "ended", limits.patience)
    if first is None:
        return
    never = first < 0.05
    limit = 0.05 if never else limits.ended * first
    at = _lasting(history, "ended", lambda ended: ended < limit, limits.patience)
    if at is not None:
        said = (
            f"{history[-1]['ended']:.0%} of the answers end by themselves, {first:.0%} did at first: they are cut off"
        )
        yield "ends", said, at, not never


def _growth(history: Sequence[Row], limits: Limits) -> Rung:
    first = _first(history, "length", limits.patience)
    if first is None:
        return
    at = _lasting(history, "length", lambda length: length > limits.growth * first, limits.patience)
    if at is not None:
        yield "length", f"answers have {history[-1]['length']:.0f} tokens, {first:.0f} at first", at, True


def _entropy(history: Sequence[Row], limits: Limits) -> Rung:
    first = _first(history, "entropy", limits.patience)
    if first is None:
        return
    at = _lasting(history, "entropy", lambda entropy: entropy < limits.entropy * first, limits.patience)
    if at is not None:
        said = f"entropy is {history[-1]['entropy']:.2g} nats a token, {first:.2g} at first: all answers are alike"
        yield "entropy", said, at, True
