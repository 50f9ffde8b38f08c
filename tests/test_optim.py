"""Optimizers: who learns by which rule, Muon against its equation and torch's, rates against numbers made by hand."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from modelwright.train.optim import Muon, cosine, groups, linear, make, orthogonal, stable


class Toy(nn.Module):
    def __init__(self, tied: bool = True):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.ModuleDict({"tokens": nn.Embedding(11, 6)})
        self.relative = nn.Embedding(4, 2)
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(3)])
        self.up, self.norm = nn.Linear(6, 9, bias=False), nn.LayerNorm(6)
        self.head = nn.ModuleDict({"transform": nn.Linear(6, 6), "proj": nn.Linear(6, 11)})
        if tied:
            self.head["proj"].weight = self.embed["tokens"].weight


def named(model: nn.Module, params: list[Tensor]) -> set[str]:
    return {name for name, p in model.named_parameters() if any(p is q for q in params)}


def with_gradients(model: nn.Module, seed: int) -> nn.Module:
    g = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=g)
    return model


def plain(g: Tensor) -> Tensor:
    """The iteration on the singular values themselves, which is all that it changes."""
    u, s, v = torch.linalg.svd(g.double(), full_matrices=False)
    s = s / s.norm(dim=-1, keepdim=True)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return ((u * s[..., None, :]) @ v).float()


@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_stands_in_one_group(tied: bool) -> None:
    model = Toy(tied)
    model.layers[2].requires_grad_(False)
    parts = groups(model)
    matrices = {"layers.0.weight", "layers.1.weight", "up.weight", "head.transform.weight"}
    assert named(model, parts["matrices"]) == matrices
    tables = {"embed.tokens.weight", "relative.weight"}
    assert named(model, parts["embeddings"]) == (tables if tied else tables | {"head.proj.weight"})
    assert named(model, parts["vectors"]) == {
        "layers.0.bias", "layers.1.bias", "norm.weight", "norm.bias", "head.transform.bias", "head.proj.bias",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("decay_embeddings", [False, True])
def test_only_matrices_decay(kind: Any, decay_embeddings: bool) -> None:
    """Gradients of zero move nothing, so what is left of a weight is its decay alone."""
    model = Toy()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make(model, kind, 0.1, decay=0.5, decay_embeddings=decay_embeddings)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    decayed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    parts = groups(model)
    assert decayed == named(model, parts["matrices"] + (parts["embeddings"] if decay_embeddings else []))
    for name in decayed:
        torch.testing.assert_close(dict(model.named_parameters())[name], before[name] * 0.95)


def test_adamw_by_hand() -> None:
    """Loshchilov & Hutter 2019, algorithm 2: at first the moments, corrected, are g and g^2: lr sign(g)."""
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, -2.0]])
    optimizer = make(model, lr=0.1, decay=0.2, betas=(0.9, 0.99), eps=0.0)
    model.weight.grad = torch.tensor([[3.0, -5.0]])
    optimizer.step()
    torch.testing.assert_close(model.weight.data, torch.tensor([[1 * 0.98 - 0.1, -2 * 0.98 + 0.1]]))
    model.weight.grad = torch.tensor([[1.0, -5.0]])
    before = model.weight.data.clone()
    optimizer.step()
    first, second = (0.9 * 0.3 + 0.1) / (1 - 0.81), (0.99 * 0.09 + 0.01) / (1 - 0.9801)
    expected = before * 0.98 - 0.1 * torch.tensor([[first / math.sqrt(second), -1.0]])
    torch.testing.assert_close(model.weight.data, expected)


def test_muon_gives_the_rest_to_adamw() -> None:
    """Where there is no matrix for Muon, both kinds are AdamW to the bit."""
    models = Toy(), Toy()
    for model in models:
        for layer in (*model.layers, model.up, model.head["transform"]):
            layer.weight.requires_grad_(False)
    optimizers = [make(m, kind, 0.01, decay_embeddings=True) for m, kind in zip(models, ("adamw", "muon"), strict=True)]
    for seed in range(5):
        for model, optimizer in zip(models, optimizers, strict=True):
            with_gradients(model, seed)
            optimizer.step()
    assert isinstance(optimizers[1], Muon)
    for a, b in zip(*(m.parameters() for m in models), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("shape", [(8, 8), (8, 20), (20, 8)])
def test_muon_is_torchs_muon(adjust: Any, shape: tuple[int, int]) -> None:
    """Both iterate in bfloat16 but add up in another order: to 1% of the way that they went."""
    torch.manual_seed(0)
    start = [torch.randn(shape) for _ in range(3)]
    ours, theirs = ([nn.Parameter(x.clone()) for x in start] for _ in range(2))
    settings: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.3, "momentum": 0.9}
    first = Muon([{"params": ours, "muon": True, "adjust": adjust, **settings}])
    second = torch.optim.Muon(theirs, adjust_lr_fn=adjust, **settings)
    for _ in range(6):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(shape)
            b.grad = a.grad.clone()
        first.step()
        second.step()
    for a, b, x in zip(ours, theirs, start, strict=True):
        assert (a - b).norm() < 0.01 * (b - x).norm()


def test_muon_in_float32_is_its_equation() -> None:
    torch.manual_seed(0)
    w, momentum, lr, decay = torch.randn(12, 5), 0.9, 0.1, 0.3
    p, m = nn.Parameter(w.clone()), torch.zeros(12, 5)
    settings: dict[str, Any] = {"lr": lr, "weight_decay": decay, "momentum": momentum, "adjust": "original"}
    optimizer = Muon([{"params": [p], "muon": True}], dtype=torch.float32, **settings)
    for _ in range(3):
        p.grad = torch.randn(12, 5)
        m = momentum * m + (1 - momentum) * p.grad
        w = (1 - lr * decay) * w - lr * math.sqrt(12 / 5) * plain((1 - momentum) * p.grad + momentum * m)
        optimizer.step()
        torch.testing.assert_close(p.detach(), w, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 4), (2, 3, 9), (5, 12, 7), (2, 3, 6, 4), (1, 5), (5, 1)])
def test_newton_schulz_moves_the_singular_values_only(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    g = torch.randn(shape) * 50
    assert orthogonal(g, dtype=torch.float32).shape == shape
    torch.testing.assert_close(orthogonal(g, dtype=torch.float32), plain(g), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_singular_values_come_near_one(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(32, 32))
    g = q * torch.linspace(0.02, 1, 32) @ q.T  # norm 3.4, so the smallest is 0.006 of it
    singular = torch.linalg.svdvals(orthogonal(g, dtype=dtype).float())
    assert singular.min() > 0.6
    assert singular.max() < 1.2


def test_a_gradient_of_zero_stays_zero() -> None:
    assert not orthogonal(torch.zeros(2, 3, 4)).any()


def test_schedules_by_hand() -> None:
    c = cosine(12, warmup=4, floor=0.1)
    assert [c(s) for s in (0, 1, 3)] == [0.25, 0.5, 1.0]
    assert [c(s) for s in (4, 8, 12, 99)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    assert c(6) == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)
    assert [linear(10, warmup=2, floor=0.2)(s) for s in (0, 2, 6, 9, 10)] == pytest.approx([0.5, 1, 0.6, 0.3, 0.2])
    assert [stable(10, warmup=2, decay=4)(s) for s in (1, 2, 6, 7, 9, 10)] == pytest.approx([1, 1, 1, 0.75, 0.25, 0])
    assert stable(10)(9) == 1


@given(st.integers(1, 300), st.data())
def test_no_step_is_wasted(steps: int, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(0, steps))
    decay = data.draw(st.integers(0, steps - warmup))
    for schedule in (cosine(steps, warmup), linear(steps, warmup), stable(steps, warmup, decay)):
        rates = [schedule(step) for step in range(steps)]
        assert all(0 < rate <= 1 for rate in rates)
        assert rates[:warmup] == sorted(rates[:warmup])
        assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


@pytest.mark.parametrize("make_schedule", [lambda: cosine(5, 6), lambda: linear(5, -1), lambda: stable(9, 5, 5)])
def test_a_schedule_that_does_not_fit(make_schedule: Any) -> None:
    with pytest.raises(ValueError, match="do not fit into"):
        make_schedule()


def test_mistakes_are_said() -> None:
    with pytest.raises(ValueError, match=r"'adam'.*adamw or muon"):
        make(Toy(), "adam")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frozen"):
        make(Toy().requires_grad_(False))
    with pytest.raises(ValueError, match="match_rms_adamw"):
        make(Toy(), "muon", adjust="rms")  # type: ignore[arg-type]


def test_matrices_have_their_own_rate() -> None:
    rates = {g["name"]: g["lr"] for g in make(Toy(), "muon", 0.003, matrix_lr=0.02).param_groups}
    assert rates == {"matrices": 0.02, "embeddings": 0.003, "vectors": 0.003}
