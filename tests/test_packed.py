"""Packed weights: the same numbers as the plain model's, which stays as it was."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from modelwright.infer import packed
from modelwright.infer.engine import Engine, Request
from modelwright.infer.packed import (
    PackedAttention,
    PackedLinear,
    cache_dtype,
    can_int8,
    can_pack,
    newest,
    prepare,
)
from modelwright.infer.sample import Sampling
from modelwright.model.attend import Mask, plain
from modelwright.model.transformer import Config, Local, Relative, Rope, Transformer, initialise

GPT2 = Config(
    vocab=200, width=32, layers=2, heads=4, kv_heads=4, head=8, ffn=64, context=64, norm="layer", act="gelu_tanh",
    gated=False, attn_bias=True, ffn_bias=True, learned=True,
)  # fmt: skip
LLAMA = replace(
    GPT2, kv_heads=2, norm="rms", act="silu", gated=True, attn_bias=False, ffn_bias=False, learned=False, rope=Rope()
)
T5 = replace(
    LLAMA, kv_heads=4, rope=None, relative=Relative(8, 20), attn_scale=1.0, tied=False,
    encoder=replace(LLAMA, kv_heads=4, rope=None, relative=Relative(8, 20), attn_scale=1.0, causal=False),
)  # fmt: skip
GEMMA = replace(
    LLAMA, layers=3, norm="rms_from_one", qk_norm=True, part_norm=True, embed_scale=32**0.5, attn_scale=0.3,
    act="gelu_tanh", local=Local(6, (0, 1), Rope(50.0)),
)  # fmt: skip
BLOOM = replace(GPT2, learned=False, alibi=True, embed_norm=True)
PALM = replace(LLAMA, kv_heads=1, parallel=True, norm="layer", norm_bias=False)
QWEN = replace(LLAMA, qkv_bias=True)
SHAPES = {"gpt2": GPT2, "llama": LLAMA, "t5": T5, "gemma": GEMMA, "bloom": BLOOM, "palm": PALM, "qwen": QWEN}
DTYPES = [torch.float32, torch.bfloat16]


def build(cfg: Config, dtype: torch.dtype = torch.float32) -> Transformer:
    model = initialise(Transformer(cfg), torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.normal_(generator=torch.Generator().manual_seed(len(name)))
    return model.to(dtype)


def needs(dtype: torch.dtype) -> None:
    if not can_pack(build(GPT2, dtype)):
        pytest.skip(f"this machine does not pack {dtype}")


def draw(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", DTYPES)
def test_joined_products_equal_each_alone(dtype):
    needs(dtype)
    parts = [nn.Linear(48, outputs).to(dtype) for outputs in (48, 16, 80)]
    for x in (draw(1, 1, 48), draw(8, 1, 48), draw(2, 300, 48)):
        together = PackedLinear(*parts)(x.to(dtype)).split([48, 16, 80], dim=-1)
        for found, part in zip(together, parts, strict=True):
            expected = part.float()(x.to(dtype).float())
            part.to(dtype)
            torch.testing.assert_close(found.float(), expected, atol=1e-5, rtol=2**-8 if dtype.itemsize == 2 else 1e-5)


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("masked", [False, True])
def test_the_newest_token_attends_as_in_the_formula(heads, masked):
    H, K = heads
    q, k, v = draw(3, 1, H, 8), draw(3, K, 11, 8, seed=1), draw(3, K, 11, 8, seed=2)
    segment = (torch.arange(11) >= torch.tensor([[0], [4], [7]])).long()
    bias = draw(1, H, 1, 11, seed=3)
    mask = Mask(True, 1, 11, None, segment, bias) if masked else Mask(True, 1, 11)
    expected = plain(q.transpose(1, 2), k, v, mask, 0.3).transpose(1, 2)
    torch.testing.assert_close(newest(q, k, v, mask, 0.3), expected, atol=1e-6, rtol=1e-5)


def tokens(model: Transformer, **more: Any) -> list[list[int]]:
    """Greedy, ragged."""
    prompts = [[5, 6, 7, 8, 9], [20, 21], [30] * 9]
    pairs = [([0], prompt) if model.encoder is not None else (prompt, None) for prompt in prompts]
    found = Engine(model).run(Request(prompt, Sampling(16, 0.0), source) for prompt, source in pairs)
    return [[new.token for new in row] for row in found]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cfg", SHAPES.values(), ids=SHAPES)
def test_a_prepared_model_says_the_same(cfg, dtype):
    needs(dtype)
    model = build(cfg, dtype)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    ready = prepare(model)
    ids = torch.randint(0, 200, (3, 20), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        memory = model.encode(ids[:, :7]) if cfg.encoder else None
        ours, expected = ready(ids, memory=memory).float(), model(ids, memory=memory).float()
    limit = 4 * 2**-8 * expected.abs().max() if dtype == torch.bfloat16 else 1e-5
    assert (ours - expected).abs().max() < limit
    assert not torch.equal(ours, ours.roll(1, 0))
    if dtype == torch.float32:
        assert tokens(ready) == tokens(model)
    assert type(model.stack.blocks[0].attn).__name__ == "Attention"
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())


def test_bfloat16_says_the_same_where_the_choice_is_clear():
    """A model of 200 tokens seldom has two candidates within a rounding of each other, but it may."""
    needs(torch.bfloat16)
    model = build(replace(GPT2, layers=1, tied=False), torch.bfloat16)
    with torch.no_grad():
        model.head.proj.weight.mul_(8.0)
    assert tokens(prepare(model)) == tokens(model)


def test_only_what_is_plain_is_packed_and_the_rest_is_shared():
    needs(torch.float32)

    class Adapted(nn.Linear):
        pass

    model = build(LLAMA)
    model.stack.blocks[1].attn.q = Adapted(32, 32, bias=False)
    ready = prepare(model)
    assert isinstance(ready.stack.blocks[0].attn, PackedAttention)
    assert ready.stack.blocks[1].attn.q.weight is model.stack.blocks[1].attn.q.weight
    assert ready.embed.tokens.weight is model.embed.tokens.weight
    assert tokens(ready) == tokens(model)


def test_what_cannot_be_packed_is_returned(monkeypatch):
    model = build(GPT2).double()
    assert prepare(model) is model
    assert cache_dtype(model) == torch.float64
    assert packed.available_memory() > 1e6
    needs(torch.float32)
    model = build(GPT2)
    size = sum(p.nbytes for p in model.parameters())
    monkeypatch.setattr(packed, "available_memory", lambda: 2 * size)
    assert prepare(model) is model
    monkeypatch.setattr(packed, "available_memory", lambda: 2 * size + 2)
    assert prepare(model) is not model


def test_keys_are_kept_wide_unless_queries_share_them():
    needs(torch.bfloat16)
    assert cache_dtype(prepare(build(GPT2, torch.bfloat16))) == torch.float32
    assert cache_dtype(prepare(build(LLAMA, torch.bfloat16))) == torch.bfloat16
    assert cache_dtype(build(GPT2, torch.bfloat16)) == torch.bfloat16


@pytest.mark.skipif(not can_int8(), reason="no products of eight bits on this machine")
@pytest.mark.parametrize("cfg", [GPT2, LLAMA, T5], ids=["gpt2", "llama", "t5"])
def test_weights_of_eight_bits_say_nearly_the_same_and_know_no_neighbours(cfg):
    model, draw = build(cfg), torch.Generator().manual_seed(0)
    ready = prepare(model, int8=True)
    linear = ready.stack.blocks[0].attn.qkv
    plain = model.stack.blocks[0].attn
    x = torch.randn(7, cfg.width, generator=draw) * torch.logspace(-2, 2, 7)[:, None]
    exact = torch.cat([plain.q(x), plain.k(x), plain.v(x)], -1)
    error = (linear(x) - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert error.max() < 0.02  # each row by its own scale: the smallest is as near as the largest
    assert error.max() > 1e-5
    for row in range(7):
        assert torch.equal(linear(x[row : row + 1]), linear(x)[row : row + 1])
    tokens = torch.randint(3, cfg.vocab, (2, 9), generator=draw)
    memory = model.encode(tokens) if cfg.encoder else None
    p, q = (m(tokens, memory=memory).log_softmax(-1) for m in (model, ready))
    assert (p.exp() * (p - q)).sum(-1).mean() < 0.05 * -(p.exp() * p).sum(-1).mean()
    given = ready(tokens, tokens, memory=memory)  # log p of given tokens, through the same products
    torch.testing.assert_close(given, q.gather(-1, tokens[..., None])[..., 0], atol=1e-5, rtol=1e-5)


def test_eight_bits_on_another_machine_are_one_sentence(monkeypatch):
    monkeypatch.setattr("modelwright.infer.packed.can_int8", lambda: False)
    with pytest.raises(ValueError, match="x86 CPU with VNNI"):
        prepare(build(GPT2), int8=True)
