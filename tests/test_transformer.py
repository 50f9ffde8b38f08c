"""The identities every model must keep, on one small model of each shape. In float64, so that only mistakes show."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from modelwright.model.cache import Cache
from modelwright.model.positions import alibi_slopes, relative_bucket, rope_frequencies, sinusoids
from modelwright.model.transformer import (
    Config,
    Local,
    Relative,
    Rope,
    RopeScaling,
    Transformer,
    initialise,
)

DECODER = Config(
    vocab=97, width=32, layers=2, heads=4, kv_heads=2, head=8, ffn=48, context=64, rope=Rope(), scale_logits=0.5
)
ENCODER = replace(
    DECODER,
    kv_heads=4,
    causal=False,
    pre_norm=False,
    norm="layer",
    final_norm=False,
    rope=None,
    learned=True,
    types=2,
    embed_norm=True,
    act="gelu",
    gated=False,
    attn_bias=True,
    ffn_bias=True,
    head_transform=True,
    head_bias=True,
)
BOTH = replace(DECODER, kv_heads=4, rope=None, relative=Relative(8, 16), attn_scale=1.0, tied=False)
BOTH = replace(BOTH, encoder=replace(BOTH, causal=False))
WINDOWED = replace(DECODER, layers=3, local=Local(3, (0, 2), Rope(50.0)), qk_norm=True, part_norm=True, embed_scale=3.0)
SLOPED = replace(
    DECODER, rope=None, alibi=True, norm="layer", gated=False, qkv_bias=True, embed_norm=True, local=Local(4)
)
PALM = replace(DECODER, kv_heads=1, parallel=True, norm="layer", norm_bias=False)
FIRST = replace(BOTH, relative=None, attn_scale=None, encoder=None, sinusoidal=True, pre_norm=False, final_norm=False)
FIRST = replace(FIRST, norm="layer", tied=True, embed_scale=32**0.5, act="relu", gated=False)
FIRST = replace(FIRST, encoder=replace(FIRST, causal=False))
SPEAK = {"decoder": DECODER, "both": BOTH, "windows": WINDOWED, "slopes": SLOPED, "parallel": PALM, "first": FIRST}
SHAPES = pytest.mark.parametrize("cfg", (SPEAK | {"encoder": ENCODER}).values(), ids=SPEAK | {"encoder": ENCODER})
CAUSAL = pytest.mark.parametrize("cfg", SPEAK.values(), ids=SPEAK)


def build(cfg: Config) -> tuple[Transformer, torch.Generator]:
    generator = torch.Generator().manual_seed(0)
    model = initialise(Transformer(cfg), generator).double()
    for p in model.parameters():  # biases and norms away from 0 and 1, where a mistake could hide
        p.data += 0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return model, generator


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randint(97, shape, generator=generator)


def source(tokens: Tensor, segment: list[int], pos: list[int]) -> SimpleNamespace:
    rows = len(tokens)
    return SimpleNamespace(
        tokens=tokens, segment=torch.tensor(segment).expand(rows, -1), pos=torch.tensor(pos).expand(rows, -1)
    )


def apart(model: Transformer, tokens: Tensor, read: Tensor) -> Tensor:
    memory = model.encode(read) if model.cfg.encoder else None
    return model(tokens, memory=memory)


@SHAPES
def test_packed_is_apart(cfg: Config) -> None:
    model, generator = build(cfg)
    tokens, read = draw(generator, 3, 11), draw(generator, 3, 10)
    pos = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1]).expand(3, -1)
    segment = torch.tensor([1, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0]).expand(3, -1)
    reads = source(read, [1] * 6 + [2] * 3 + [0], [*range(6), *range(3), 0]) if cfg.encoder else None
    packed = model(tokens, pos=pos, segment=segment, source=reads)
    assert torch.isfinite(packed).all()
    torch.testing.assert_close(packed[:, :5], apart(model, tokens[:, :5], read[:, :6]), rtol=0, atol=1e-12)
    torch.testing.assert_close(packed[:, 5:9], apart(model, tokens[:, 5:9], read[:, 6:9]), rtol=0, atol=1e-12)


@CAUSAL
@pytest.mark.parametrize("cuts", [(11,), (5, 6, 11), tuple(range(1, 12))], ids=["whole", "chunks", "one by one"])
def test_cached_is_full(cfg: Config, cuts: tuple[int, ...]) -> None:
    model, generator = build(cfg)
    tokens, read = draw(generator, 3, 11), draw(generator, 3, 7)
    memory = model.encode(read) if cfg.encoder else None
    cache = Cache(cfg, 3, 11, torch.float64)
    parts = [model(tokens[:, i:j], memory=memory, cache=cache) for i, j in zip((0, *cuts), cuts, strict=False)]
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens, memory=memory), rtol=0, atol=1e-12)


@CAUSAL
def test_left_padded_rows_decode_as_alone(cfg: Config) -> None:
    model, generator = build(cfg)
    tokens, read = draw(generator, 2, 8), draw(generator, 2, 6)
    segment, pos = torch.ones(2, 6, dtype=torch.long), torch.arange(6).repeat(2, 1)
    segment[1, :3], pos[1] = 0, torch.tensor([0, 0, 0, 0, 1, 2])
    reads = source(read, [1] * 4 + [0] * 2, [0, 1, 2, 3, 0, 0])
    memory = model.encode(reads.tokens, reads.pos, reads.segment) if cfg.encoder else None
    cache = Cache(cfg, 2, 8, torch.float64)
    parts = [model(tokens[:, :6], pos=pos, segment=segment, memory=memory, cache=cache)]
    parts += [model(tokens[:, i : i + 1], memory=memory, cache=cache) for i in (6, 7)]
    got = torch.cat(parts, 1)
    assert torch.isfinite(got).all()
    torch.testing.assert_close(got[:1], apart(model, tokens[:1], read[:1, :4]), rtol=0, atol=1e-12)
    torch.testing.assert_close(got[1:, 3:], apart(model, tokens[1:, 3:], read[1:, :4]), rtol=0, atol=1e-12)


@CAUSAL
def test_selected_rows_go_on_as_themselves(cfg: Config) -> None:
    model, generator = build(cfg)
    tokens, read = draw(generator, 3, 8), draw(generator, 3, 5)
    memory = model.encode(read) if cfg.encoder else None
    cache = Cache(cfg, 3, 8, torch.float64)
    model(tokens[:, :7], memory=memory, cache=cache)
    rows = torch.tensor([2, 0, 2])
    cache.select(rows)
    memory = memory and replace(memory, x=memory.x[rows])
    got = model(tokens[rows, 7:], memory=memory, cache=cache)
    torch.testing.assert_close(got, apart(model, tokens, read)[rows, 7:], rtol=0, atol=1e-12)


def test_a_full_cache_says_so() -> None:
    model, generator = build(DECODER)
    with pytest.raises(ValueError, match="holds 4 tokens and was given 5"):
        model(draw(generator, 1, 5), cache=Cache(DECODER, 1, 4, torch.float64))


@SHAPES
def test_only_an_encoder_looks_ahead(cfg: Config) -> None:
    model, generator = build(cfg)
    tokens, memory = draw(generator, 1, 9), None
    x = model.embed(tokens, torch.arange(9)[None], None).detach().requires_grad_()
    if cfg.encoder:
        memory = model.encode(draw(generator, 1, 4))
    y = model.stack(x, torch.arange(9)[None], None, memory)
    (grad,) = torch.autograd.grad(y[0, 4].sum(), x)
    ahead = grad[0, 5:].abs().max().item()
    assert (ahead == 0) == cfg.causal
    assert grad[0, 0].abs().max() > 0


@SHAPES
def test_log_probabilities_are_those_of_the_logits(cfg: Config) -> None:
    model, generator = build(cfg)
    tokens, targets, read = draw(generator, 3, 11), draw(generator, 3, 11), draw(generator, 3, 6)
    targets[0, 3] = targets[2] = -1
    memory = model.encode(read) if cfg.encoder else None
    logps = model(tokens, memory=memory).log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    expected = (logps * (targets >= 0)).float()
    torch.testing.assert_close(model(tokens, targets, memory=memory), expected, rtol=0, atol=2e-6)
    assert model(tokens, torch.full_like(tokens, -1), memory=memory).abs().sum() == 0


def test_two_towers_and_a_tied_head_share_one_table() -> None:
    model = Transformer(DECODER)
    assert model.head.proj.weight is model.embed.tokens.weight
    assert "encoder.blocks.1.attn.q.weight" in dict(Transformer(BOTH).named_parameters())


def test_rotary_positions_see_only_distance() -> None:
    model, generator = build(DECODER)
    tokens = draw(generator, 1, 6)
    shifted = model(tokens, pos=torch.arange(6)[None] + 40)
    torch.testing.assert_close(shifted, model(tokens), rtol=0, atol=1e-5)  # the angles are float32


def test_llama3_scaling_by_hand() -> None:
    cfg = Rope(500_000.0, RopeScaling(factor=8.0, low=1.0, high=4.0, original=8192))
    plain, scaled = (rope_frequencies(c, 128, torch.device("cpu")) for c in (replace(cfg, scaling=None), cfg))
    assert scaled[0] == plain[0] == 1.0  # turns 1304 times in 8192 tokens: fast, kept
    torch.testing.assert_close(scaled[-1], plain[-1] / 8)  # turns 0.003 times: slow, stretched
    turns = 8192 * plain / (2 * torch.pi)
    middle = ((turns > 1) & (turns < 4)).nonzero()[0, 0]
    keep = (turns[middle] - 1) / 3
    torch.testing.assert_close(scaled[middle], plain[middle] * (keep + (1 - keep) / 8))


def test_relative_buckets_by_hand() -> None:
    gaps = torch.tensor([-200, -128, -16, -15, -1, 0, 1, 15, 200])
    causal = relative_bucket(gaps, Relative(32, 128), causal=True).tolist()
    assert causal == [31, 31, 16, 15, 1, 0, 0, 0, 0]
    both = relative_bucket(gaps, Relative(32, 128), causal=False).tolist()
    assert both == [15, 15, 10, 9, 1, 0, 17, 25, 31]


def test_a_shape_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="4 heads cannot share 3"):
        replace(DECODER, kv_heads=3)
    with pytest.raises(ValueError, match="head width of 7 is odd"):
        replace(DECODER, head=7)


def test_initial_predictions_are_nearly_even() -> None:
    for cfg in (DECODER, ENCODER, BOTH):
        model = initialise(Transformer(replace(cfg, scale_logits=1.0)), torch.Generator().manual_seed(1))
        tokens = torch.arange(64)[None]
        memory = model.encode(tokens) if cfg.encoder else None
        loss = -model(tokens, tokens.roll(-1), memory=memory).mean()
        assert abs(loss - torch.tensor(97.0).log()) < 0.15


def test_a_cache_s_rows_are_reordered_where_they_part() -> None:
    """Beams of two texts: three rows each, which share their source; what is alike before they part is not copied."""
    model, generator = build(BOTH)
    start, read = draw(generator, 2, 1), draw(generator, 2, 6)
    memory = model.encode(read)
    cache = Cache(model.cfg, 2, 6, torch.float64)
    model(start, memory=memory, cache=cache)
    cache.select(torch.tensor([0, 0, 0, 1, 1, 1]))
    assert all(kv is not None and len(kv[0]) == 2 for kv in cache.cross)
    tails = draw(generator, 6, 2)
    tails[1, 0] = tails[0, 0]
    for at in range(2):
        model(tails[:, at : at + 1], memory=memory, cache=cache)
    rows = torch.tensor([1, 1, 2, 5, 4, 3])
    cache.select(rows, torch.tensor([2, 0, 0, 1, 0, 1]))  # the first's start and first token are the second's too
    last = draw(generator, 6, 1)
    found = model(last, memory=memory, cache=cache)[:, -1]
    whole = torch.cat([start.repeat_interleave(3, 0), tails], 1)[rows]
    for at, row in enumerate(found):
        expected = apart(model, torch.cat([whole[at], last[at]])[None], read[at // 3][None])[0, -1]
        torch.testing.assert_close(row, expected)
    cache.select(torch.tensor([3, 4, 5]))
    assert all(kv is not None and len(kv[0]) == 1 for kv in cache.cross)
    found = model(last[:3], memory=model.encode(read[1:]), cache=cache)[:, -1]
    expected = apart(model, torch.cat([whole[3], last[3], last[0]])[None], read[1][None])[0, -1]
    torch.testing.assert_close(found[0], expected)


@pytest.mark.parametrize("cfg", [BOTH, WINDOWED, SLOPED], ids=["relative", "windows", "slopes"])
def test_a_cache_that_goes_on_with_padding_within_measures_distances_by_position(cfg: Config) -> None:
    """A start that two rows share, then tails of two tokens and of one: the places in the cache tell other gaps."""
    model, generator = build(cfg)
    start, tail, read = draw(generator, 1, 3), draw(generator, 2, 2), draw(generator, 1, 6)
    memory = model.encode(read.expand(2, -1)) if cfg.encoder else None
    cache = Cache(model.cfg, 2, 5, torch.float64)
    model(start.expand(2, -1), memory=memory, cache=cache)
    pos, segment = torch.tensor([[3, 4], [0, 3]]), torch.tensor([[1, 1], [0, 1]])
    found = model(tail, pos=pos, segment=segment, memory=memory, cache=cache)[:, -1]
    alone = [torch.cat([start[0], tail[0]]), torch.cat([start[0], tail[1, 1:]])]
    for row, tokens in zip(found, alone, strict=True):
        torch.testing.assert_close(row, apart(model, tokens[None], read)[0, -1])


def test_slopes_by_hand() -> None:
    """Press et al. 2022, section 3: of 8 heads 1/2 to 1/256; and of 12 those, then every second of 16 heads'."""
    eight = [1 / 2**n for n in range(1, 9)]
    assert alibi_slopes(8).tolist() == eight
    more = [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]
    torch.testing.assert_close(alibi_slopes(12), torch.tensor([*eight, *more]), rtol=1e-6, atol=0)
    assert alibi_slopes(1).tolist() == [2.0**-8]


def test_slopes_are_added_to_the_scores() -> None:
    """Two keys that say the same, a place apart: e^slope is how much more the nearer one counts."""
    cfg = replace(SLOPED, layers=1, local=None, heads=2, kv_heads=2, head=16)
    bias = Transformer(cfg).stack.bias(torch.tensor([[4]]), torch.arange(5)[None])
    assert bias is not None
    assert bias.tolist() == [[[[-4 / 16, -3 / 16, -2 / 16, -1 / 16, 0]], [[-4 / 256, -3 / 256, -2 / 256, -1 / 256, 0]]]]


def test_sinusoids_by_hand() -> None:
    table = sinusoids(torch.tensor([[0, 7, 1000]]), 6)
    assert table.shape == (1, 3, 6)
    assert table[0, 0].tolist() == [0, 0, 0, 1, 1, 1]
    for row, pos in ((1, 7), (2, 1000)):
        for i in range(3):
            angle = torch.tensor(pos / 10_000 ** (2 * i / 6), dtype=torch.float64)
            torch.testing.assert_close(table[0, row, i].double(), angle.sin(), rtol=0, atol=1e-4)
            torch.testing.assert_close(table[0, row, 3 + i].double(), angle.cos(), rtol=0, atol=1e-4)


def test_the_first_transformers_vectors_by_hand() -> None:
    """Embeddings times sqrt(C), and the table of sines, at both ends (Vaswani et al. 2017, sections 3.4 and 3.5)."""
    model, generator = build(FIRST)
    tokens = draw(generator, 1, 5)
    table = sinusoids(torch.arange(5)[None], 32).double()
    expected = model.embed.tokens.weight[tokens] * 32**0.5 + table
    torch.testing.assert_close(model.embed(tokens, torch.arange(5)[None], None), expected, rtol=0, atol=1e-12)
    assert model.source is None  # an encoder's tokens are placed the same way


def test_a_parallel_block_by_hand() -> None:
    """y = x + attention(norm(x)) + feed-forward(norm(x)), the norm the same (Chowdhery et al. 2022, section 2)."""
    model, generator = build(PALM)
    x = torch.randn(1, 6, 32, generator=generator, dtype=torch.float64)
    block: Any = model.stack.blocks[1]
    pos = torch.arange(6)[None]
    mask, _ = model.stack.masks(pos, None, None, None)
    turn, _ = model.stack.turns(pos, torch.float64)
    n = (
        (x - x.mean(-1, keepdim=True))
        / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        * block.attn_norm.weight
    )
    f = block.ffn
    gate, up = n @ f.gate.weight.T, n @ f.up.weight.T
    expected = x + block.attn(n, mask, turn, None) + (gate * gate.sigmoid() * up) @ f.down.weight.T
    torch.testing.assert_close(block(x, mask, turn, None, None, None, None), expected, rtol=0, atol=1e-12)
    assert block.attn_norm.bias is None
    assert not any("ffn_norm" in name for name, _ in model.named_parameters())


def test_norms_of_parts_and_of_queries_by_hand() -> None:
    model, generator = build(replace(WINDOWED, norm="rms_from_one"))
    x = torch.randn(1, 6, 32, generator=generator, dtype=torch.float64)
    block: Any = model.stack.blocks[1]
    pos = torch.arange(6)[None]
    mask, _ = model.stack.masks(pos, None, None, None)
    turn, _ = model.stack.turns(pos, torch.float64)

    def rms(x: Tensor, norm: Any) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * (1 + norm.weight)

    def attention(n: Tensor) -> Tensor:
        q = rms(block.attn.q(n).unflatten(-1, (4, 8)), block.attn.q_norm).transpose(1, 2)
        k = rms(block.attn.k(n).unflatten(-1, (2, 8)), block.attn.k_norm).transpose(1, 2).repeat_interleave(2, 1)
        v = block.attn.v(n).unflatten(-1, (2, 8)).transpose(1, 2).repeat_interleave(2, 1)
        angle = torch.arange(6.0)[:, None] * 10_000 ** (-torch.arange(0, 8, 2) / 8)
        spin = torch.polar(torch.ones_like(angle), angle)  # e^(i angle), of the pairs (x_i, x_{i + D/2})
        q, k = (torch.view_as_real(torch.complex(*t.chunk(2, -1)) * spin).transpose(-1, -2).flatten(-2) for t in (q, k))
        scores = (q @ k.transpose(2, 3) * 8**-0.5).masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
        return block.attn.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    mid = x + rms(attention(rms(x, block.attn_norm)), block.attn_out_norm)
    expected = mid + rms(block.ffn(rms(mid, block.ffn_norm)), block.ffn_out_norm)
    torch.testing.assert_close(block(x, mask, turn, None, None, None, None), expected, rtol=0, atol=1e-5)


def test_only_the_layers_that_are_named_see_a_window() -> None:
    """Through one layer, a query's gradient reaches as far back as its layer sees."""
    for layers, far in (((0,), False), ((1,), True), (None, False)):
        model, generator = build(replace(WINDOWED, layers=1, local=Local(3, layers)))
        x = torch.randn(1, 9, 32, generator=generator, dtype=torch.float64, requires_grad=True)
        (grad,) = torch.autograd.grad(model.stack(x, torch.arange(9)[None], None)[0, 8].sum(), x)
        assert grad[0, 6:].abs().amax(1).min() > 0
        assert (grad[0, :6].abs().max() > 0) == far


def test_fresh_norms_change_nothing_however_they_are_kept() -> None:
    cfg = replace(WINDOWED, norm="rms_from_one", embed_norm=True, head_transform=True)
    model = initialise(Transformer(cfg), torch.Generator().manual_seed(0))
    x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(1))
    for name, norm in model.named_modules():
        if name.endswith("norm"):
            here = x if norm.weight.numel() == 32 else x[..., :8]
            said, kept = norm(here), (here - here.mean(-1, keepdim=True) if hasattr(norm, "bias") else here)
            torch.testing.assert_close(said, kept / kept.square().mean(-1, keepdim=True).sqrt(), rtol=1e-3, atol=1e-4)
