"""The LSTM: against its equations, in packed rows and in pieces, written by the engine, saved, pretrained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modelwright import cli
from modelwright.adapt.lora import LoRA, add_lora
from modelwright.infer.engine import Engine, Request
from modelwright.infer.packed import Int8Linear, PackedLinear, can_int8, can_pack, prepare
from modelwright.infer.sample import Sampling
from modelwright.model.cache import Cache
from modelwright.model.checkpoint import load, save
from modelwright.model.config import Config
from modelwright.model.families import family_of_model
from modelwright.model.recurrent import Runs
from modelwright.model.recurrent_families import lstm
from modelwright.model.transformer import Transformer, initialise
from modelwright.plan import cost, memory, size
from modelwright.plan.size import ByHand
from modelwright.recipes.watch import Watch
from oracles import greedy, greedy_cached, plain_lstm
from pretrained import stopping_at, write_corpus

CFG = lstm(50, 16, 2, 32)
CLOSE: dict[str, Any] = {"atol": 1e-6, "rtol": 1e-5}


def make(cfg: Config = CFG, seed: int = 0) -> Transformer:
    """Weights large enough that gates open and close: of a fresh model all are nearly half open."""
    model = initialise(Transformer(cfg), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.embed.tokens.weight.mul_(12)
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))))
    return model.eval()


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(CFG.vocab, shape, generator=torch.Generator().manual_seed(seed))


# -- the equations ----------------------------------------------------------------------------------------


def test_it_is_its_equations_and_so_are_its_gradients() -> None:
    model, x = make(), tokens(3, 9)
    x[2] = x[0]
    found, plain = model.hidden(x), torch.stack([plain_lstm(model, row) for row in x])
    torch.testing.assert_close(found, plain, **CLOSE)
    assert found.std() > 0.2  # the weights say something
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    ours, theirs = (torch.autograd.grad((y * weight).sum(), [*model.parameters()]) for y in (found, plain))
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4)


def test_it_is_pytorchs_own() -> None:
    model, x = make(), tokens(2, 12)
    theirs = torch.nn.LSTM(16, 16, 2, batch_first=True)
    with torch.no_grad():
        for at, block in enumerate(model.stack.blocks):
            for name, p in (("weight_ih", "input.weight"), ("bias_ih", "input.bias"), ("weight_hh", "state.weight")):
                getattr(theirs, f"{name}_l{at}").copy_(block.get_parameter(p))
            getattr(theirs, f"bias_hh_l{at}").zero_()
    torch.testing.assert_close(model.hidden(x), theirs(model.embed(x, None, None))[0], **CLOSE)


def test_runs_stand_in_the_order_in_which_they_are_read() -> None:
    begins = torch.tensor([1, 0, 1, 0, 0, 0, 1, 0, 0], dtype=torch.bool)
    runs = Runs.of(begins)
    assert runs.order.tolist() == [2, 6, 0, 3, 7, 1, 4, 8, 5]
    assert runs.counts == [3, 3, 2, 1]
    assert runs.first.tolist() == [2, 6, 0]
    assert runs.order[runs.back].tolist() == list(range(9))


def test_fresh_forget_gates_are_open() -> None:
    model = initialise(Transformer(CFG), torch.Generator().manual_seed(0))
    for block in model.stack.blocks:
        i, f, g, o = block.get_parameter("input.bias").chunk(4)
        assert (f == 1).all()
        assert not any(part.any() for part in (i, g, o))
        for name in ("input.weight", "state.weight"):
            assert block.get_parameter(name).std().item() == pytest.approx(16**-0.5, rel=0.1)


def test_dropout_is_between_layers_and_never_between_tokens() -> None:
    """With all but one feature dropped on the way up, what a layer keeps still reaches the end."""
    model = make(replace(CFG, layers=1, dropout=0.5)).train()
    torch.manual_seed(0)
    x = model.stack(torch.ones(1, 40, 16), torch.arange(40)[None], None)
    kept = model.eval().stack(torch.ones(1, 40, 16), torch.arange(40)[None], None)
    there = x != 0
    assert 0.4 < there.float().mean() < 0.6
    torch.testing.assert_close(x[there], 2 * kept[there], **CLOSE)  # no state was touched


# -- packed, padded, kept ---------------------------------------------------------------------------------


SEGMENTS = torch.tensor([[1] * 5 + [2] * 6, [1] * 3 + [2] * 4 + [0] * 4, [0] * 2 + [1] * 9])
DOCUMENTS = ((0, 0, 5), (0, 5, 11), (1, 0, 3), (1, 3, 7), (2, 2, 11))


def test_packed_and_padded_rows_are_the_documents_apart() -> None:
    model, x = make(), tokens(3, 11)
    together = model.hidden(x, segment=SEGMENTS)
    for row, start, end in DOCUMENTS:
        alone = model.hidden(x[row : row + 1, start:end])
        torch.testing.assert_close(together[row : row + 1, start:end], alone, **CLOSE)


def test_gradients_of_packed_rows_are_those_of_the_documents_apart() -> None:
    model, x, y = make(), tokens(3, 11), tokens(3, 11, seed=1)
    (model(x, y, segment=SEGMENTS) * (SEGMENTS > 0)).sum().backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    torch.stack([model(x[r : r + 1, i:j], y[r : r + 1, i:j]).sum() for r, i, j in DOCUMENTS]).sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p.grad, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["plain", "segments"])
@pytest.mark.parametrize("cut", range(1, 11))
def test_kept_is_read_anew_wherever_it_is_cut(cut: int, segments: Tensor | None) -> None:
    model, x = make(), tokens(3, 11)
    cache = Cache(CFG, 3, 11, torch.float32)
    parts = []
    for i, j in ((0, cut), (cut, 11)):
        part = None if segments is None else segments[:, i:j]
        parts.append(model.hidden(x[:, i:j], segment=part, cache=cache))
    torch.testing.assert_close(torch.cat(parts, 1), model.hidden(x, segment=segments), **CLOSE)


@torch.no_grad()
def test_a_row_may_part_at_any_token() -> None:
    """What was kept of every token is right, not of the last alone: a beginning is taken over, and goes on."""
    model, x, other = make(), tokens(2, 8), tokens(3, 4, seed=1)
    for shared in range(1, 9):
        cache = Cache(CFG, 2, 12, torch.float32)
        model.hidden(x, cache=cache)
        cache.select(torch.tensor([1, 0, 1]))
        cache.length = shared
        rows = torch.cat([x[[1, 0, 1], :shared], other], 1)
        torch.testing.assert_close(model.hidden(other, cache=cache), model.hidden(rows)[:, shared:], **CLOSE)


# -- the engine -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ready", [False, True], ids=["plain", "packed"])
def test_the_engine_writes_what_the_model_does(ready: bool) -> None:
    """Prompts that share a beginning, in blocks of four tokens, computed in parts; and longer than any context."""
    plain = make()
    model = prepare(plain) if ready else plain
    if ready and can_pack(plain):
        assert isinstance(model.stack.blocks[0].get_submodule("state"), PackedLinear)
    prompts = [[1, 2, 3], [4] * 9, [5], [1, 2, 3, 7, 8, 9, 1, 2], [1, 2, 3, 7, 8, 9, 6], list(range(40))]
    engine = Engine(model, blocks=200, size=4, budget=7)
    for _ in range(2):  # the second time what is shared is found, and copied
        written = engine.run([Request(prompt, Sampling(40, 0.0)) for prompt in prompts])
        for prompt, new in zip(prompts, written, strict=True):
            asked = torch.tensor([prompt])
            wanted = greedy(plain, asked, 40)[0, len(prompt) :].tolist()
            assert [one.token for one in new] == wanted
            assert greedy_cached(plain, asked, 40)[0, len(prompt) :].tolist() == wanted


def test_the_engine_scores_what_the_model_does() -> None:
    model = make()
    said = tokens(20).tolist()
    stream = Engine(model, blocks=20, size=4, budget=6).submit(Request(said, Sampling(1, 0.0), scored=1))
    list(stream)
    logps = model(torch.tensor([said])).log_softmax(-1)[0]
    for at, score in enumerate(stream.scores):
        assert score.logp == pytest.approx(logps[at, said[at + 1]].item(), abs=1e-5)
    assert len(stream.scores) == 19


@torch.no_grad()
def test_eight_bits_and_bfloat16_say_nearly_the_same() -> None:
    model, x = make(), tokens(2, 30)
    plain = model.hidden(x)
    half = make().to(torch.bfloat16).hidden(x)
    assert half.dtype == torch.bfloat16
    assert (half.float() - plain).abs().max() < 0.05
    if can_int8():
        eight = prepare(model, int8=True)
        assert isinstance(eight.stack.blocks[0].get_submodule("input"), Int8Linear)
        assert 0 < (eight.hidden(x) - plain).abs().max() < 0.1


# -- files, plans, and what is refused --------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_it_is_saved_and_opened(tied: bool, tmp_path: Path) -> None:
    model = make(replace(CFG, tied=tied, dropout=0.25))
    assert family_of_model(model.cfg).model_type == "modelwright-lstm"
    save(model, tmp_path / "m")
    again = load(tmp_path / "m")
    assert again.cfg == model.cfg
    torch.testing.assert_close(again(tokens(1, 7)), model(tokens(1, 7)), **CLOSE)


@pytest.mark.parametrize(
    "cfg", [CFG, lstm(50, 24, 1, 32, tied=False), size.shape("causal", 4096, 5_000_000, ByHand(arch="lstm"))]
)
def test_it_is_counted_as_it_is_built(cfg: Config) -> None:
    model = Transformer(cfg)
    assert cost.parameters(cfg) == sum(p.numel() for p in model.parameters())
    assert cost.matrices(cfg) == sum(p.numel() for p in model.stack.parameters() if p.dim() == 2)
    assert cost.forward_flops(cfg, 10) == 2 * 10 * (cost.matrices(cfg) + cfg.width * cfg.vocab)


def test_a_size_is_met_with_two_layers() -> None:
    for parameters in (300_000, 5_000_000, 60_000_000):
        cfg = size.shape("causal", 4096, parameters, ByHand(arch="lstm"))
        assert cost.parameters(cfg) == pytest.approx(parameters, rel=0.05)
        assert (cfg.recurrent, cfg.layers) == (True, 2)
    assert size.shape("causal", 4096, 5_000_000, ByHand(arch="lstm", layers=4)).layers == 4


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activations_are_what_autograd_keeps(dropout: float) -> None:
    cfg = lstm(64, 32, 3, 32, dropout=dropout)
    model = initialise(Transformer(cfg), torch.Generator().manual_seed(0)).train()
    own, found = {p.untyped_storage().data_ptr() for p in model.parameters()}, dict[int, int]()

    def keep(t: Tensor) -> Tensor:
        if (at := t.untyped_storage().data_ptr()) not in own:
            found[at] = t.untyped_storage().nbytes()
        return t

    x = torch.randn(2, 24, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = model.stack(x, torch.arange(24)[None], None)
    assert sum(found.values()) == pytest.approx(2 * memory.activations(cfg, 24, 0, 4), rel=0.1)
    assert y.requires_grad


def test_what_an_lstm_has_not_is_refused_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="reads from left to right"):
        replace(CFG, causal=False)
    with pytest.raises(ValueError, match="this model is an LSTM: tune it in full"):
        add_lora(make(), LoRA(targets=("q",)), torch.Generator())
    said = {
        "--objective masked": "--arch lstm is of --objective causal, and --objective masked takes bert, distilbert",
        "--heads 4 --ffn 8": "leave out --heads, --ffn",
        "--init somewhere": "--init goes on from a model as it is: leave out --arch",
    }
    for flags, told in said.items():
        argv = ["pretrain", "desk", "--arch", "lstm", "--time", "1s", "-o", str(tmp_path / "r"), *flags.split()]
        assert cli.main(argv) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


# -- learning ---------------------------------------------------------------------------------------------


def test_it_learns_what_a_bag_of_the_last_token_cannot() -> None:
    """A run of a's or b's is to end as it began: nothing of its middle says how."""
    draw = torch.Generator().manual_seed(0)
    first = torch.randint(2, (64, 1), generator=draw)
    x = torch.cat([first, torch.full((64, 6), 2)], 1)
    y = torch.cat([torch.full((64, 6), -1), first], 1)
    model = initialise(Transformer(lstm(3, 16, 1, 8, tied=False)), draw)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(100):
        loss = -model(x, y).sum() / 64
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1  # of ln 2 = 0.69, which is all that the last token alone leaves


def test_pretrain_resume_generate_evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, runs = write_corpus(tmp_path), [tmp_path / name for name in ("whole", "parts")]
    flags = "--arch lstm --width 32 --layers 1 --vocab 300 --context 32 --batch 128 --steps 30 --precision fp32 --json"
    for run, last in zip(runs, (None, 14), strict=True):
        if last is not None:
            monkeypatch.setattr(Watch, "step", stopping_at(last))
        assert cli.main(["pretrain", str(data), *flags.split(), "-o", str(run)]) == (0 if last is None else 143)
    monkeypatch.undo()
    assert "arch: lstm" in (runs[1] / "run.yaml").read_text()
    assert cli.main(["pretrain", "--resume", "-o", str(runs[1])]) == 0
    whole, parts = (load(run / "model").state_dict() for run in runs)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    steps = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1]["held_out_loss"] < steps[0]["loss"] - 0.5

    model = str(runs[0] / "model")
    capsys.readouterr()
    assert cli.main(["generate", model, "the", "--max-new", "40", "--temperature", "0"]) == 0
    assert capsys.readouterr().out != "\n"
    assert cli.main(["evaluate", model, "--text", str(data), "--limit", "20", "--by-position", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(one["first"], one["last"]) for one in found["by_position"]] == [(0, 1), (2, 3), (4, 7), (8, 15), (16, 31)]
    assert sum(one["tokens"] for one in found["by_position"]) == found["tokens"]
