"""The loop: one number however the rows are divided, no step on what is not finite, and leaving between steps."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from modelwright.train.loop import Diverged, Terms, fit, loss_scaler

V, C = 17, 8


@dataclass(frozen=True)
class Rows:
    tokens: Tensor  # (B, T)
    targets: Tensor  # (B, T)
    weight: Tensor  # (B, T)


class Toy(nn.Module):
    def __init__(self, seed: int = 0, dropout: float = 0.0):
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.dropout = nn.Embedding(V, C), nn.Dropout(dropout)
        self.hidden, self.head = nn.Linear(C, C), nn.Linear(C, V)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.dropout(torch.tanh(self.hidden(self.embed(tokens)))))


def language(model: nn.Module, batch: Rows) -> tuple[Terms, dict[str, Any]]:
    logps = model(batch.tokens).float().log_softmax(-1).gather(-1, batch.targets[..., None]).squeeze(-1)
    return {"language": (-(logps * batch.weight).sum(), batch.weight.sum(), 1.0)}, {"rows": len(batch.tokens)}


def two_terms(model: nn.Module, batch: Rows) -> tuple[Terms, dict[str, Any]]:
    """Two masks whose weights differ from one micro-batch to the next, and a term that is only measured."""
    logits = model(batch.tokens).float()
    logps = logits.log_softmax(-1).gather(-1, batch.targets[..., None]).squeeze(-1)
    odd = (batch.tokens % 2).float() * batch.weight
    right = (logits.argmax(-1) == batch.targets).float() * batch.weight
    return {
        "language": (-(logps * batch.weight).sum(), batch.weight.sum(), 1.0),
        "z": ((logits.logsumexp(-1) ** 2 * odd).sum(), float(odd.sum()), 0.3),
        "accuracy": (right.sum(), batch.weight.sum(), 0.0),
    }, {}


def rows(count: int, seed: int = 1) -> Rows:
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(V, (count, 6), generator=g)
    weight = (torch.rand(count, 6, generator=g) < torch.linspace(0.05, 1, count)[:, None]).float()
    return Rows(tokens, tokens.roll(-1, 1), weight * torch.rand(count, 1, generator=g))


def split(batch: Rows, parts: int) -> list[Rows]:
    return [Rows(*part) for part in zip(*(x.chunk(parts) for x in vars(batch).values()), strict=True)]


def record(log: list[dict[str, Any]]) -> Any:
    return lambda step, metrics: log.append({"step": step, **metrics})


class Frozen(torch.optim.SGD):
    """Keeps the gradients it was given instead of following them."""

    def step(self, closure: Any = None) -> None:
        self.seen = [p.grad.clone() for group in self.param_groups for p in group["params"]]


def gradients(loss: Any, micro: list[Rows], **options: Any) -> tuple[list[Tensor], dict[str, Any]]:
    model, log = Toy(), []
    optimizer = Frozen(model.parameters(), lr=0.1)
    fit(model, micro, loss, optimizer, steps=1, accumulate=len(micro), after_step=record(log), **options)
    return optimizer.seen, log[0]


@pytest.mark.parametrize("loss", [language, two_terms])
@pytest.mark.parametrize("parts", [2, 4, 12])
def test_accumulated_is_whole(loss: Any, parts: int) -> None:
    batch = rows(12)
    whole, accumulated = (gradients(loss, split(batch, n), clip=math.inf) for n in (1, parts))
    for a, b in zip(whole[0], accumulated[0], strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm()
    for name in ("loss", "grad_norm", *loss(Toy(), batch)[0]):
        assert accumulated[1][name] == pytest.approx(whole[1][name], rel=1e-6)


def test_gradient_is_each_terms_sum_over_its_own_weight() -> None:
    batch, model = rows(12), Toy()
    terms, _ = two_terms(model, batch)
    expected = sum(coefficient * total / weight for total, weight, coefficient in terms.values())
    expected.backward()
    seen, report = gradients(two_terms, split(batch, 4), clip=math.inf)
    for p, g in zip(model.parameters(), seen, strict=True):
        torch.testing.assert_close(g, p.grad, rtol=1e-5, atol=1e-7)
    assert report["loss"] == pytest.approx(expected.item(), rel=1e-6)
    assert report["accuracy"] == pytest.approx(float(terms["accuracy"][0] / terms["accuracy"][1]), rel=1e-6)
    assert report["weight/z"] == pytest.approx(terms["z"][1], rel=1e-6)


def test_weights_told_beforehand_spare_a_pass() -> None:
    micro, calls = split(rows(12), 4), []

    def counted(model: nn.Module, batch: Rows) -> tuple[Terms, dict[str, Any]]:
        calls.append(1)
        return two_terms(model, batch)

    def weigh(batch: Rows) -> dict[str, Tensor]:
        return {"language": batch.weight.sum(), "z": ((batch.tokens % 2) * batch.weight).sum()}

    plain, told = gradients(counted, micro), gradients(two_terms, micro, weigh=weigh)
    assert len(calls) == 4 + 3  # the first micro-batch's weights are at hand
    for a, b in zip(plain[0], told[0], strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm()
    calls.clear()
    gradients(counted, micro, weigh=weigh)
    assert len(calls) == 4
    with pytest.raises(ValueError, match="weight of z"):
        gradients(two_terms, micro, weigh=lambda batch: {"language": batch.weight.sum(), "z": 1.0})


def test_a_term_without_weight_adds_nothing() -> None:
    batch = rows(4)
    nothing = Rows(batch.tokens, batch.targets, torch.zeros_like(batch.weight))
    seen, report = gradients(language, [nothing, nothing])
    assert report["loss"] == 0
    assert not report["skipped"]
    assert all(not g.any() for g in seen)
    alone, beside = gradients(language, [batch]), gradients(language, [nothing, batch])
    for a, b in zip(alone[0], beside[0], strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm()


def test_clipping_by_hand() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def slope(model: Any, scale: float) -> tuple[Terms, dict[str, Any]]:
        return {"x": (scale * (3 * model.a + 4 * model.b).sum(), 2.0, 1.0)}, {}

    for clip, expected in ((1.0, (0.6, 0.8)), (2.5, (1.5, 2.0)), (5.0, (3.0, 4.0)), (9.0, (3.0, 4.0))):
        log: list[dict[str, Any]] = []
        model = Two()
        optimizer = Frozen(model.parameters(), lr=1.0)
        # two micro-batches of weight 2: (2 + 6) (3, 4) / 4 = (6, 8), halved by the coefficient that is inside
        fit(model, [1.0, 3.0], slope, optimizer, steps=1, accumulate=2, clip=clip, after_step=record(log))
        assert log[0]["grad_norm"] == pytest.approx(5.0)  # reported as it was before
        assert [g.item() for g in optimizer.seen] == pytest.approx(expected, rel=1e-5)


def test_agrees_with_a_plain_loop() -> None:
    """The usual lines, on the mean of the batch, for twenty steps of AdamW with a schedule and clipping."""
    batches = [rows(5, seed) for seed in range(20)]
    fitted, plain, log = Toy(), Toy(), []
    ours, theirs = (torch.optim.AdamW(m.parameters(), lr=0.01) for m in (fitted, plain))
    fit(fitted, batches, language, ours, steps=20, clip=0.5, schedule=lambda s: 1 / (1 + s), after_step=record(log))
    for step, batch in enumerate(batches):
        theirs.param_groups[0]["lr"] = 0.01 / (1 + step)
        total, weight, _ = language(plain, batch)[0]["language"]
        theirs.zero_grad()
        (total / weight).backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        theirs.step()
        assert log[step]["loss"] == pytest.approx((total / weight).item(), rel=1e-5)
        assert log[step]["grad_norm"] == pytest.approx(norm.item(), rel=1e-5)
        assert log[step]["lr"] == pytest.approx(0.01 / (1 + step))
        assert log[step]["rows"] == 5
    for a, b in zip(fitted.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_rate_comes_from_the_first_rate_of_each_group() -> None:
    model, log = Toy(), []
    groups = [{"params": model.embed.parameters(), "lr": 0.5}, {"params": model.head.parameters(), "lr": 0.1}]
    optimizer = torch.optim.SGD(groups)
    for start in (0, 1):  # a second call goes on from the first rate, not from where the schedule left it
        fit(model, [rows(2)] * 9, language, optimizer, start=start, steps=start + 1, schedule=lambda s: 0.5 ** (s + 1))
        log.append([group["lr"] for group in optimizer.param_groups])
    assert log == [[0.25, 0.05], [0.125, 0.025]]


def test_bf16_computes_in_bf16_and_keeps_float32() -> None:
    model, seen = Toy(), []

    def loss(model: nn.Module, batch: Rows) -> tuple[Terms, dict[str, Any]]:
        seen.append(model(batch.tokens).dtype)
        return language(model, batch)

    optimizer = Frozen(model.parameters(), lr=0.1)
    fit(model, [rows(4)], loss, optimizer, steps=1, precision="bf16")
    assert seen == [torch.bfloat16]
    assert {g.dtype for g in optimizer.seen} == {torch.float32}
    exact, _ = gradients(language, [rows(4)])
    for a, b in zip(optimizer.seen, exact, strict=True):
        assert 0 < (a - b).norm() <= 0.02 * b.norm()


def test_fp16_scales_and_halves_the_scale_on_overflow() -> None:
    exact, _ = gradients(language, [rows(4)])
    scaled, _ = gradients(language, [rows(4)], precision="fp16")
    for a, b in zip(scaled, exact, strict=True):
        assert (a - b).norm() <= 0.01 * b.norm()
    model, log = Toy(), []
    before = [p.clone() for p in model.parameters()]
    scaler = loss_scaler("fp16", "cpu")
    scaler.load_state_dict({**scaler.state_dict(), "scale": 2.0**40})  # far too large: 24 halvings to 65,536
    scales: list[float] = []

    def after(step: int, metrics: dict[str, Any]) -> None:
        log.append(metrics["skipped"])
        scales.append(scaler.get_scale())
        if metrics["skipped"] and step < 3:
            assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))

    # sixteen skips in a row are more than `patience` allows, but an overflow is no divergence
    fit(model, [rows(4)] * 40, language, torch.optim.SGD(model.parameters(), lr=0.1), steps=40,
        precision="fp16", scaler=scaler, after_step=after, patience=3)  # fmt: skip
    overflows = log.index(False)
    assert overflows > 3
    assert all(log[:overflows])
    assert scales[:3] == [2.0**39, 2.0**38, 2.0**37]
    assert scales[overflows] == 2.0 ** (40 - overflows)
    assert log[overflows:].count(True) <= 2


def test_a_loss_that_is_not_finite_is_skipped_then_stops() -> None:
    model, log = Toy(), []

    def loss(model: nn.Module, batch: float) -> tuple[Terms, dict[str, Any]]:
        total, weight, _ = language(model, rows(3))[0]["language"]
        return {"language": (total * batch, weight, 1.0)}, {}

    nan, before = float("nan"), [p.clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    fit(model, [nan, math.inf], loss, optimizer, steps=2, patience=3, after_step=record(log))
    assert [entry["skipped"] for entry in log] == [True, True]
    assert not optimizer.state
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    log.clear()
    with pytest.raises(Diverged, match=r"3 steps in a row .* step 6"):
        fit(model, [1.0, nan, nan, 1.0, nan, nan, nan], loss, optimizer, steps=7, patience=3, after_step=record(log))
    assert [entry["skipped"] for entry in log] == [False, True, True, False, True, True, True]
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_gradient_that_is_not_finite_is_skipped() -> None:
    model = nn.Linear(1, 1)
    model.weight.data.zero_()
    log: list[dict[str, Any]] = []

    def root(model: Any, batch: Any) -> tuple[Terms, dict[str, Any]]:
        return {"x": (model.weight.sqrt().sum(), 1.0, 1.0)}, {}  # value 0, slope infinite

    fit(model, [0], root, torch.optim.SGD(model.parameters(), lr=1.0), steps=1, after_step=record(log))
    assert log[0]["skipped"]
    assert log[0]["loss"] == 0
    assert model.weight.item() == 0


def test_reads_no_batch_ahead() -> None:
    """Else a loader's state, taken after a step, would be that of a later one."""
    read: list[int] = []

    def stream() -> Iterator[Rows]:
        while True:
            read.append(1)
            yield rows(2)

    model, seen = Toy(), []
    fit(model, stream(), language, Frozen(model.parameters(), lr=0.1), steps=3, accumulate=2,
        after_step=lambda step, metrics: seen.append(len(read)))  # fmt: skip
    assert seen == [2, 4, 6]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"steps": 3}, "ended at step 2 of 3"),
        ({"steps": 1, "start": 2}, "from step 2 to step 1"),
        ({"steps": 1, "accumulate": 0}, "accumulate"),
        ({"steps": 1, "clip": 0.0}, "clip"),
    ],
)
def test_mistakes_are_said(options: dict[str, Any], match: str) -> None:
    model = Toy()
    with pytest.raises(ValueError, match=match):
        fit(model, [rows(1)] * 2, language, torch.optim.SGD(model.parameters(), lr=0.1), **options)


def test_terms_must_stay_the_same() -> None:
    names = iter(["a", "b"])

    def loss(model: nn.Module, batch: Rows) -> tuple[Terms, dict[str, Any]]:
        return {next(names): language(model, batch)[0]["language"]}, {}

    with pytest.raises(ValueError, match=r"\['a'\] and then \['b'\]"):
        gradients(loss, [rows(1)] * 2)


def train(rank: int, world: int, directory: Path) -> None:
    """What each process runs: its share of the same rows, two micro-batches a step; in step 2, NaN on rank 0 alone."""
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{directory}/meet", rank=rank, world_size=world)
    model, log = Toy(), []
    micro: list[Rows] = []
    for step in range(4):
        share = split(rows(12, step), world)[rank]
        spoiled = share.weight * (math.nan if step == 2 and rank == 0 else 1.0)
        micro += split(Rows(share.tokens, share.targets, spoiled), 2)
    for loss, clip in ((language, 1.0), (two_terms, math.inf)):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        fit(model, micro, loss, optimizer, steps=4, accumulate=2, clip=clip, after_step=record(log))
    log = [{key: value for key, value in entry.items() if key != "rows"} for entry in log]
    (directory / f"{world}-{rank}.json").write_text(json.dumps(log))
    save_file(dict(model.named_parameters()), directory / f"{world}-{rank}.safetensors")
    if world > 1:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    mp.spawn(train, (2, tmp_path), nprocs=2)
    train(0, 1, tmp_path)
    alone = json.loads((tmp_path / "1-0.json").read_text())
    assert [entry["skipped"] for entry in alone] == [False, False, True, False] * 2
    for rank in (0, 1):
        together = json.loads((tmp_path / f"2-{rank}.json").read_text())
        for one, two in zip(alone, together, strict=True):
            assert two == pytest.approx(one, rel=1e-5, nan_ok=True)
        parameters = load_file(tmp_path / f"2-{rank}.safetensors")
        for name, p in load_file(tmp_path / "1-0.safetensors").items():
            torch.testing.assert_close(parameters[name], p, rtol=1e-5, atol=1e-6)
