"""Optimizers and their rates: which parameter learns by which rule, and how fast at each step.

Letters: R rows and C columns of a weight matrix (its outputs and inputs), M matrices of one shape.
"""

import math
from collections.abc import Callable, Collection, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.adamw import adamw

Kind = Literal["adamw", "muon"]
Adjust = Literal["original", "match_rms_adamw"]
Schedule = Callable[[int], float]

FUSED = ("cpu", "cuda", "mps", "xpu")  # one kernel for the whole update; on a CPU five times faster
QUINTIC = (3.4445, -4.7750, 2.0315)


def make(
    model: nn.Module,
    kind: Kind = "adamw",
    lr: float = 3e-4,
    *,
    decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    matrix_lr: float | None = None,
    momentum: float = 0.95,
    adjust: Adjust = "match_rms_adamw",
    decay_embeddings: bool = False,
    embeddings: Collection[str] = ("embed.", "head.proj."),
) -> Optimizer:
    """AdamW for all of a model, or Muon for its hidden matrices and AdamW for the rest, as one optimizer.

    Frozen parameters are left out. Weights decay in matrices only, and in embeddings where `decay_embeddings`
    says so. `matrix_lr` (by default `lr`), `momentum` and `adjust` are Muon's. `embeddings`: see `groups`.
    """
    if kind not in ("adamw", "muon"):
        raise ValueError(f"no optimizer is called {kind!r}: take adamw or muon")
    parts = groups(model, embeddings)
    if not any(parts.values()):
        raise ValueError("every parameter of the model is frozen, so there is nothing to train")
    decays = {"matrices": decay, "embeddings": decay if decay_embeddings else 0.0, "vectors": 0.0}
    made: list[dict[str, Any]] = [
        {"name": name, "params": params, "lr": lr, "weight_decay": decays[name]}
        for name, params in parts.items()
        if params
    ]
    fused = all(p.device.type in FUSED and p.is_floating_point() for group in made for p in group["params"])
    if kind == "adamw":
        return AdamW(made, lr=lr, betas=betas, eps=eps, fused=fused)
    for group in made:
        if group["name"] == "matrices":
            group.update(muon=True, lr=lr if matrix_lr is None else matrix_lr, momentum=momentum, adjust=adjust)
    return Muon(made, betas=betas, eps=eps, fused=fused)


def groups(model: nn.Module, embeddings: Collection[str] = ("embed.", "head.proj.")) -> dict[str, list[nn.Parameter]]:
    """A model's trainable parameters as `matrices`, `embeddings` and `vectors` (biases, norms: all below 2-D).

    An embedding is the weight of an `nn.Embedding`, any matrix whose name begins with one of `embeddings`, and the
    router of a layer of experts: rows that stand for tokens or experts, not a map from one hidden space to another.
    A tied weight is one parameter, of its first name.
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    parts: dict[str, list[nn.Parameter]] = {"matrices": [], "embeddings": [], "vectors": []}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        if p.ndim < 2:
            parts["vectors"].append(p)
        elif id(p) in tables or name.startswith(tuple(embeddings)) or name.endswith(".router.weight"):
            parts["embeddings"].append(p)
        else:
            parts["matrices"].append(p)
    return parts


class Muon(Optimizer):
    """Muon (Jordan et al. 2024) for the groups marked `muon`, AdamW for the others.

    With gradient G, momentum mu, rate eta and decay lambda, for a weight W of R rows and C columns:

        m <- mu m + (1 - mu) G
        W <- (1 - eta lambda) W - eta s orthogonal((1 - mu) G + mu m)

    where s is sqrt(max(1, R / C)) ("original"), or 0.2 sqrt(max(R, C)) ("match_rms_adamw", Liu et al. 2025,
    eq. 4: steps as large as AdamW's, so that one rate suits both). Weights of one shape are orthogonalised
    together, up to three times as fast as one by one where they are small; a weight of more dimensions is a
    stack of matrices.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        adjust: Adjust = "match_rms_adamw",
        iterations: int = 5,
        dtype: torch.dtype = torch.bfloat16,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        fused: bool = False,
    ):
        super().__init__(params, {
            "muon": False, "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "adjust": adjust,
            "iterations": iterations, "dtype": dtype, "betas": betas, "eps": eps, "fused": fused,
        })  # fmt: skip
        for group in self.param_groups:
            if group["adjust"] not in ("original", "match_rms_adamw"):
                raise ValueError(f"Muon knows no adjust={group['adjust']!r}: take original or match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if group["muon"]:
                self._muon(params, group)
            elif params:
                self._adamw(params, group)

    def _muon(self, params: list[Tensor], group: dict[str, Any]) -> None:
        shapes: dict[torch.Size, list[Tensor]] = {}
        for p in params:
            shapes.setdefault(p.shape, []).append(p)
        for shape, alike in shapes.items():
            update = torch.stack(self._momentum(alike, group["momentum"]))  # (M, ..., R, C)
            update = orthogonal(update, group["iterations"], group["dtype"]).to(alike[0].dtype)
            torch._foreach_mul_(alike, 1 - group["lr"] * group["weight_decay"])
            rate = group["lr"] * _adjusted(shape, group["adjust"])
            torch._foreach_add_(alike, list(update.unbind()), alpha=-rate)

    def _momentum(self, params: list[Tensor], momentum: float) -> list[Tensor]:
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        gradients = [p.grad for p in params if p.grad is not None]
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        return list(torch._foreach_lerp(gradients, buffers, momentum))

    def _adamw(self, params: list[Tensor], group: dict[str, Any]) -> None:
        for p in params:
            if not self.state[p]:
                step = torch.zeros((), dtype=torch.float32, device=p.device if group["fused"] else "cpu")
                self.state[p].update(step=step, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
        gradients = [p.grad for p in params if p.grad is not None]
        states = [self.state[p] for p in params]
        first, second, steps = ([state[key] for state in states] for key in ("exp_avg", "exp_avg_sq", "step"))
        adamw(
            params, gradients, first, second, [], steps, fused=group["fused"], amsgrad=False, maximize=False,
            beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"], weight_decay=group["weight_decay"],
            eps=group["eps"],
        )  # fmt: skip


def orthogonal(matrices: Tensor, iterations: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The nearest matrix with orthonormal rows or columns, roughly: (..., R, C) -> (..., R, C) of `dtype`.

    For G = U S V^T this tends to U V^T by a Newton-Schulz iteration (Jordan et al. 2024) from G / ||G||_F:

        X <- a X + (b X X^T + c (X X^T)^2) X,     which takes each singular value s to  a s + b s^3 + c s^5.

    The coefficients trade accuracy for speed: from any s above 0.01, five rounds lead between 0.68 and 1.14.
    """
    a, b, c = QUINTIC
    tall = matrices.size(-2) > matrices.size(-1)  # X X^T is the smaller of the two products when X is wide
    x = (matrices.mT if tall else matrices).to(dtype)
    shape, x = x.shape, x.flatten(0, -3) if x.ndim > 2 else x[None]  # (M, R, C), R <= C
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.mT  # (M, R, R)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.reshape(shape)
    return x.mT if tall else x


def _adjusted(shape: torch.Size, adjust: Adjust) -> float:
    rows, columns = shape[-2:]
    if adjust == "original":
        return math.sqrt(max(1.0, rows / columns))
    return 0.2 * math.sqrt(max(rows, columns))


def cosine(steps: int, warmup: int = 0, floor: float = 0.0) -> Schedule:
    """Rise for `warmup` steps, then fall by half a cosine to `floor` at `steps` (Loshchilov & Hutter 2017)."""
    return _decayed(steps, warmup, floor, steps - warmup, lambda left: 0.5 - 0.5 * math.cos(math.pi * left))


def linear(steps: int, warmup: int = 0, floor: float = 0.0) -> Schedule:
    """Rise for `warmup` steps, then fall in a line to `floor` at `steps`."""
    return _decayed(steps, warmup, floor, steps - warmup, lambda left: left)


def stable(steps: int, warmup: int = 0, decay: int = 0, floor: float = 0.0) -> Schedule:
    """Rise for `warmup` steps, stay at 1, and fall in a line over the last `decay` (Hu et al. 2024, section 4)."""
    return _decayed(steps, warmup, floor, decay, lambda left: left)


def _decayed(steps: int, warmup: int, floor: float, decay: int, shape: Callable[[float], float]) -> Schedule:
    """shape(share of the decay that is left, 1 to 0) -> 1 to 0. No step before `steps` has a multiplier of 0."""
    if not 0 <= warmup <= steps or not 0 <= decay <= steps - warmup:
        raise ValueError(f"{warmup} steps of warm-up and {decay} of decay do not fit into {steps} steps")

    def multiplier(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        left = min(1.0, max(0, steps - step) / decay) if decay else 1.0
        return floor + (1 - floor) * shape(left)

    return multiplier
