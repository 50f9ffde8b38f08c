"""One loop for every recipe: it knows batches, a loss and an optimizer, and not what is learned.

A step reads `accumulate` micro-batches and follows the gradient of

    sum over terms of  coefficient * (its sums over micro-batches and ranks) / (its weights over the same)

so one large batch, the same rows in several micro-batches and the same rows spread over processes give the
same number, however unevenly the weights lie. The mean of the micro-batches' means, which looks alike, would
count a token of a short row for more than one of a long row.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

Batch = TypeVar("Batch")
Terms = dict[str, tuple[Tensor, Tensor | float, float]]  # term -> (sum, weight, coefficient)
Loss = Callable[[nn.Module, Batch], tuple[Terms, dict[str, Any]]]
Forward = Callable[[Batch], tuple[Terms, dict[str, Any]]]
Weigh = Callable[[Batch], Mapping[str, Tensor | float]]
Precision = Literal["fp32", "bf16", "fp16"]


class Diverged(RuntimeError):
    """Too many steps in a row had a loss or a gradient that is no finite number; the weights precede them all."""


def constant(step: int) -> float:
    """The schedule that leaves every rate as it is."""
    return 1.0


def fit(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Loss[Batch],
    optimizer: Optimizer,
    *,
    steps: int,
    start: int = 0,
    accumulate: int = 1,
    clip: float = 1.0,
    precision: Precision = "fp32",
    schedule: Callable[[int], float] = constant,
    after_step: Callable[[int, dict[str, Any]], None] = lambda step, metrics: None,
    scaler: GradScaler | None = None,
    weigh: Weigh[Batch] | None = None,
    patience: int = 10,
) -> None:
    """Train `model` in place from step `start` up to, not including, step `steps`.

    batches: on the model's device, `accumulate` of them a step. loss(model, batch) gives the same terms every
    time, and metrics, of which the last micro-batch's are passed on; a term of coefficient 0 is averaged but
    not learned. clip: the largest norm that all gradients together may have; math.inf for any. schedule: step
    -> what to multiply every group's rate by. scaler: `loss_scaler(...)`, for a caller that saves its state.
    weigh(batch) gives the terms' weights without running the model; see `_divisors` for when it saves time.
    Whether dropout is on (`model.train()`) is the caller's to say.

    after_step(step, metrics) is told `loss`, each term's mean and `weight/<term>`, `grad_norm` before
    clipping, `lr` of the first group, `skipped` (loss or gradient not finite: the optimizer was left alone)
    and the loss's metrics.

    Raises ValueError where the batches end early or the arguments make no sense, and Diverged after
    `patience` skipped steps in a row.
    """
    _check(start, steps, accumulate, clip, patience)
    scaler = scaler or loss_scaler(precision, _device(model))
    forward, stream, failures = _forward(model, loss, precision), iter(batches), 0
    for step in range(start, steps):
        rate = _set_rate(optimizer, schedule(step))
        micro = _take(stream, accumulate, step, steps)
        report, metrics, factor = _backward(forward, micro, scaler, weigh)
        gradients = _gradients(optimizer)
        scaler.unscale_(optimizer)
        norm = _clip(gradients, factor, clip)
        finite = math.isfinite(report["loss"]) and math.isfinite(norm)
        if finite:
            optimizer.step()
        failures = 0 if finite else failures + (not _overflowed(report["loss"], scaler))
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        after_step(step, {**metrics, **report, "grad_norm": norm, "lr": rate, "skipped": not finite})
        if failures == patience:
            raise Diverged(f"{failures} steps in a row had no finite loss or gradient, the last of them step {step}")


def loss_scaler(precision: Precision, device: torch.device | str) -> GradScaler:
    """Dynamic loss scaling for fp16 (Micikevicius et al. 2018, section 3.2); inert for the other precisions.

    Half precision loses gradients below 6e-8, so the loss is multiplied by a scale before backward and the
    gradients are divided by it after. An overflow halves the scale and skips the step; 2,000 good steps in a
    row double it.
    """
    return GradScaler(torch.device(device).type, enabled=precision == "fp16")


def _check(start: int, steps: int, accumulate: int, clip: float, patience: int) -> None:
    if not 0 <= start <= steps:
        raise ValueError(f"training cannot go from step {start} to step {steps}: start between 0 and the end")
    if accumulate < 1 or patience < 1:
        raise ValueError(f"accumulate ({accumulate}) and patience ({patience}) must be 1 or more")
    if not clip > 0:
        raise ValueError(f"clip {clip} would stop all learning: give a positive norm, or math.inf")


def _take(stream: Iterator[Batch], count: int, step: int, steps: int) -> list[Batch]:
    micro = list(islice(stream, count))
    if len(micro) < count:
        raise ValueError(f"the batches ended at step {step} of {steps}: give more data or fewer steps")
    return micro


def _set_rate(optimizer: Optimizer, multiplier: float) -> float:
    """A group's rate is the one it was made with times the multiplier -> the first group's, to be reported."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * multiplier
    return float(optimizer.param_groups[0]["lr"])


def _forward(model: nn.Module, loss: Loss[Batch], precision: Precision) -> Forward[Batch]:
    """The loss on one micro-batch; bf16 and fp16 by autocast, so the weights and their gradients stay float32."""
    kind = _device(model).type
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16

    def forward(batch: Batch) -> tuple[Terms, dict[str, Any]]:
        with torch.autocast(kind, dtype) if precision != "fp32" else nullcontext():
            return loss(model, batch)

    return forward


def _backward(
    forward: Forward[Batch],
    micro: Sequence[Batch],
    scaler: GradScaler,
    weigh: Weigh[Batch] | None,
) -> tuple[dict[str, float], dict[str, Any], float]:
    """Go backward on every micro-batch -> the report, the metrics, what the gradients must still be multiplied by."""
    sums: dict[str, Tensor] = {}  # term -> (2,): its sum and its weight so far
    divisors: dict[str, Tensor] = {}
    for batch in micro:
        terms, metrics = forward(batch)
        _add(sums, terms)
        divisors = divisors or _divisors(forward, micro, terms, weigh)
        parts = [terms[name][2] * terms[name][0] / divisor for name, divisor in divisors.items()]
        scaler.scale(torch.stack(parts).sum()).backward()  # type: ignore[no-untyped-call]
    table = _over_ranks(torch.stack(list(sums.values())))  # (terms, 2)
    weights = dict(zip(sums, _positive(table[:, 1]), strict=True))
    return _report(terms, table), metrics, _factor(divisors, weights)


def _divisors(
    forward: Forward[Batch],
    micro: Sequence[Batch],
    first: Terms,
    weigh: Weigh[Batch] | None,
) -> dict[str, Tensor]:
    """What each learned term's sum is divided by before backward: learned term -> ().

    Terms that are added up cannot be divided apart once their gradients are, so several terms need the
    weights of the whole step before the first backward. One micro-batch has them at hand; for more, `weigh`
    tells them from the batch alone or, where there is none, the rest of the step runs forward once more
    without gradients. A single term is spared that: it is divided by a guess here and by the rest of the
    truth in `_factor`; the guess, the first micro-batch's weight times their number, only keeps fp16's
    gradients in range.
    """
    learned = [name for name, (_, _, coefficient) in first.items() if coefficient]
    if not learned:
        raise ValueError(f"no term of the loss is learned: the coefficients of {', '.join(first)} are all 0")
    weights = torch.stack([_pair(first[name])[1] for name in learned])  # (learned,)
    if len(learned) == 1:
        weights = weights * len(micro)
    else:
        weigh = weigh or (lambda batch: {name: weight for name, (_, weight, _) in forward(batch)[0].items()})
        with torch.no_grad():
            for batch in micro[1:]:
                told = weigh(batch)
                weights = weights + torch.stack([torch.as_tensor(told[name]).to(weights) for name in learned])
    return dict(zip(learned, _positive(_over_ranks(weights)), strict=True))


def _factor(divisors: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> float:
    """What turns gradients divided by `divisors` into gradients divided by the step's true weights."""
    factors = {name: float(divisor / weights[name]) for name, divisor in divisors.items()}
    for name, factor in factors.items():
        if len(factors) > 1 and abs(factor - 1) > 1e-5:
            raise ValueError(f"the weight of {name} turned out to be 1/{factor:g} of what `weigh` told")
    return next(iter(factors.values())) if len(factors) == 1 else 1.0


def _add(sums: dict[str, Tensor], terms: Terms) -> None:
    if sums and list(sums) != list(terms):
        raise ValueError(f"the loss gave the terms {list(sums)} and then {list(terms)}: give all every time")
    for name, term in terms.items():
        sums[name] = sums.get(name, 0.0) + _pair(term)


def _pair(term: tuple[Tensor, Tensor | float, float]) -> Tensor:
    """A term's sum and weight: (2,) float32."""
    total = term[0].detach().float()
    return torch.stack([total, torch.as_tensor(term[1]).detach().to(total)])


def _positive(weights: Tensor) -> Tensor:
    """A term that nothing weighs in a step adds nothing to it: its sum, 0, is divided by 1."""
    return torch.where(weights == 0, 1.0, weights)


def _report(terms: Terms, table: Tensor) -> dict[str, float]:
    """Each term's mean and weight, and the loss that the step went down: table (terms, 2)."""
    means = dict(zip(terms, (table[:, 0] / _positive(table[:, 1])).tolist(), strict=True))
    weights = {f"weight/{name}": weight for name, weight in zip(terms, table[:, 1].tolist(), strict=True)}
    total = sum(coefficient * means[name] for name, (_, _, coefficient) in terms.items() if coefficient)
    return {**means, **weights, "loss": total}


def _gradients(optimizer: Optimizer) -> list[Tensor]:
    """What the optimizer is to follow, summed over ranks (which all hold a whole copy of the model)."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if _distributed():  # a parameter that this rank's rows did not reach may have been reached elsewhere
        for p in parameters:
            p.grad = _over_ranks(torch.zeros_like(p) if p.grad is None else p.grad)
    return [p.grad for p in parameters if p.grad is not None]


def _clip(gradients: list[Tensor], factor: float, clip: float) -> float:
    """Multiply by `factor`, then shrink to the norm `clip`, in one pass -> the norm between the two.

    Pascanu et al. 2013, algorithm 1: g <- g * min(1, clip / ||g||), over all gradients as one vector.
    """
    norm = float(torch.nn.utils.get_total_norm(gradients)) * factor
    scale = factor * min(1.0, clip / (norm + 1e-6))
    if scale != 1.0:
        torch._foreach_mul_(gradients, scale)
    return norm


def _overflowed(loss: float, scaler: GradScaler) -> bool:
    """fp16 found its scale too large, which is its way of working and no sign of divergence."""
    return scaler.is_enabled() and math.isfinite(loss) and scaler.get_scale() > 1


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _over_ranks(tensor: Tensor) -> Tensor:
    if _distributed():
        dist.all_reduce(tensor)
    return tensor


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
