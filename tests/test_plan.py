"""The dial, the cost and the memory of a run: published counts, the built model, and PyTorch's own counters."""

import contextlib
import math
import re
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from modelwright.data import pack
from modelwright.infer.packed import cache_dtype
from modelwright.model.cache import Cache
from modelwright.model.checkpoint import blank
from modelwright.model.families import family_of_model
from modelwright.model.transformer import Config, Local, Relative, Rope, Transformer
from modelwright.plan import cost, memory, size
from modelwright.plan.arch import STYLES, build
from modelwright.plan.size import ByHand, Plan, decide, parse_count, parse_time, row_lengths, shape

OBJECTIVES: list[size.Objective] = ["causal", "masked", "span", "denoise"]

BIASED = {"norm": "layer", "attn_bias": True, "ffn_bias": True, "learned": True, "gated": False, "act": "gelu"}
GPT2 = Config(vocab=50257, width=768, layers=12, heads=12, kv_heads=12, head=64, ffn=3072, context=1024, **BIASED)
BERT = replace(
    GPT2, vocab=30522, context=512, causal=False, pre_norm=False, final_norm=False, types=2, embed_norm=True,
    head_transform=True, head_bias=True,
)  # fmt: skip
LLAMA2_7B = Config(
    vocab=32000,
    width=4096,
    layers=32,
    heads=32,
    kv_heads=32,
    head=128,
    ffn=11008,
    context=4096,
    rope=Rope(),
    tied=False,
)
T5_TOWER = Config(
    vocab=32128, width=512, layers=8, heads=6, kv_heads=6, head=64, ffn=1024, context=512, act="gelu_tanh",
    relative=Relative(), tied=False, causal=False,
)  # fmt: skip
FLAN_T5_SMALL = replace(T5_TOWER, causal=True, encoder=T5_TOWER)
GPT3 = replace(GPT2, width=12288, layers=96, heads=96, kv_heads=96, head=128, ffn=4 * 12288, context=2048)


@dataclass
class Read:
    tokens: Tensor
    pos: Tensor
    segment: Tensor


def rows(cfg: Config, b: int, t: int, s: int) -> tuple[Tensor, Read | None]:
    """b rows of t random tokens, and s to read for a decoder."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, cfg.vocab, (b, t), generator=draw)
    if not s:
        return tokens, None
    pos = torch.arange(s)[None].expand(b, s)
    return tokens, Read(torch.randint(0, cfg.vocab, (b, s), generator=draw), pos, torch.ones_like(pos))


# -- parameters


@pytest.mark.parametrize(
    ("cfg", "published"),
    [(GPT2, 124_439_808), (BERT, 109_514_298), (LLAMA2_7B, 6_738_415_616), (FLAN_T5_SMALL, 76_961_152)],
    ids=["gpt2", "bert-base with its head", "llama-2-7b", "flan-t5-small"],
)
def test_parameters_of_published_models(cfg: Config, published: int) -> None:
    assert cost.parameters(cfg) == published


@given(
    objective=st.sampled_from(OBJECTIVES),
    width=st.sampled_from([32, 64, 96]),
    layers=st.integers(1, 3),
    tied=st.booleans(),
    flip=st.sampled_from(["gated", "attn_bias", "ffn_bias", "final_norm", "head_transform", "head_bias", "learned"]),
)
@settings(max_examples=15, deadline=None)
def test_parameters_equal_the_built_model(
    objective: size.Objective, width: int, layers: int, tied: bool, flip: str
) -> None:
    cfg = size.build(objective, 50, width, layers, ByHand(kv_heads=1), 16)
    cfg = replace(cfg, tied=tied, **{flip: not getattr(cfg, flip)})
    with torch.device("meta"):
        model = Transformer(cfg)
    assert cost.parameters(cfg) == sum(p.numel() for p in model.parameters())
    blocks = [p for name, p in model.named_parameters() if ".blocks." in name and p.dim() == 2]
    assert cost.matrices(cfg) == sum(p.numel() for p in blocks)


@st.composite
def any_config(draw: st.DrawFn) -> Config:
    """Any decoder, encoder or pair of them that a Config can say, of a few sizes."""
    yes, kv = st.booleans(), draw(st.sampled_from([1, 2, 4]))
    kind = draw(st.sampled_from(["decoder", "encoder", "both"]))
    cfg = Config(
        vocab=draw(st.integers(2, 50)), width=2 * draw(st.integers(1, 9)), layers=draw(st.integers(1, 3)), heads=4,
        kv_heads=kv, head=2 * draw(st.integers(1, 5)), ffn=draw(st.integers(1, 20)), context=draw(st.integers(1, 20)),
        causal=kind != "encoder", norm=draw(st.sampled_from(["rms", "rms_from_one", "layer"])), norm_bias=draw(yes),
        final_norm=draw(yes), part_norm=draw(yes), gated=draw(yes), attn_bias=draw(yes), qkv_bias=draw(yes),
        qk_norm=kind != "both" and draw(yes), ffn_bias=draw(yes), alibi=draw(yes), sinusoidal=draw(yes),
        learned=draw(yes), offset=draw(st.sampled_from([0, 2])), types=draw(st.integers(0, 3)), embed_norm=draw(yes),
        relative=draw(st.sampled_from([None, Relative(8, 16)])), tied=draw(yes), head_transform=draw(yes),
        head_bias=draw(yes), local=None if kind == "encoder" else draw(st.sampled_from([None, Local(3)])),
    )  # fmt: skip
    if kind == "both":
        return replace(cfg, encoder=replace(cfg, causal=False, local=None, layers=draw(st.integers(1, 3))))
    return replace(cfg, parallel=not cfg.part_norm and draw(yes))


@given(any_config())
@settings(max_examples=150, deadline=None)
def test_parameters_of_any_config_equal_the_built_model(cfg: Config) -> None:
    model = blank(cfg)
    assert cost.parameters(cfg) == sum(p.numel() for p in model.parameters())
    blocks = [p for name, p in model.named_parameters() if ".blocks." in name and p.dim() == 2]
    assert cost.matrices(cfg) == sum(p.numel() for p in blocks)
    parts = cost.parameters_by_part(cfg)
    assert parts["stack"] == sum(p.numel() for p in model.stack.parameters())
    assert parts["encoder"] == (sum(p.numel() for p in model.encoder.parameters()) if model.encoder else 0)


# -- FLOPs


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_flops_equal_pytorchs_own_count(objective: size.Objective) -> None:
    cfg = shape(objective, 2000, 1_000_000, ByHand(context=64, heads=4, kv_heads=2 if objective == "causal" else 4))
    length, source = row_lengths(objective, 64)
    tokens, read = rows(cfg, 2, length, source)
    model = Transformer(cfg)
    # PyTorch's counter does not know the CPU's fused attention; the plain one it counts.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = model(tokens, tokens, source=read).sum()
    assert counter.get_total_flops() == 2 * cost.forward_flops(cfg, length, source)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss.backward()
    assert 2 * cost.forward_flops(cfg, length, source) < counter.get_total_flops()
    assert counter.get_total_flops() <= 4 * cost.forward_flops(cfg, length, source)


def test_flops_count_the_head_only_where_it_predicts() -> None:
    whole, some = (cost.forward_flops(BERT, 128, predicted=share) for share in (1.0, 0.25))
    assert whole - some == 0.75 * 128 * 2 * (30522 * 768 + 768 * 768)


def test_flops_of_gpt3_are_the_papers() -> None:
    """Brown et al. 2020, table D.1: 3.14e23 for 300B tokens, by 6 N D; attention adds 3%."""
    flops = 300e9 * cost.flops_per_token(GPT3, 2048)
    assert 1.02 < flops / 3.14e23 < 1.04


def test_flops_per_token_by_hand() -> None:
    cfg = Config(vocab=10, width=4, layers=2, heads=2, kv_heads=1, head=2, ffn=8, context=8, rope=Rope())
    # q 16, k 8, v 8, o 16, gate, up and down 32 each: 144 weights a layer; attention 4 T H D = 128
    assert cost.forward_flops(cfg, 8) == 8 * (2 * (2 * 144 + 128) + 2 * 40)
    assert cost.flops_per_token(cfg, 8) == 3 * cost.forward_flops(cfg, 8) / 8
    assert cost.tokens_per_second(cfg, 1e6, 8) == 1e6 / cost.flops_per_token(cfg, 8)


# -- memory


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("objective", "context"),
    [("causal", 64), ("causal", 300), ("causal", 1100), ("masked", 200), ("span", 300), ("denoise", 200)],
)
def test_activations_are_what_autograd_keeps(
    objective: size.Objective, context: int, precision: memory.Precision
) -> None:
    cfg = shape(objective, 2000, 1_000_000, ByHand(context=context))
    told, kept = told_and_kept(cfg, 3 if context < 1000 else 1, *row_lengths(objective, context), precision)
    assert told == pytest.approx(kept, rel=0.04)


PARTS = {"norm": "rms_from_one", "part_norm": True, "qk_norm": True, "local": Local(64, (0, 1), Rope(500.0))}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("length", [200, 1100])
@pytest.mark.parametrize(
    "parts", [PARTS, {"parallel": True}, {"rope": None, "alibi": True}], ids=lambda said: [*said][-1]
)
def test_activations_of_other_parts_are_what_autograd_keeps(
    parts: dict[str, Any], length: int, precision: memory.Precision
) -> None:
    cfg = replace(shape("causal", 500, 400_000, ByHand(context=length, layers=4)), **parts)
    told, kept = told_and_kept(cfg, 2, length, 0, precision)
    one = 4 * 2 * length * length  # in float32 the mask that all layers of a kind share; what counts one is `masks`
    masks = one * (parts == PARTS or cfg.heads * cfg.alibi) if length > 1024 and precision == "fp32" else 0
    assert told + masks == pytest.approx(kept, rel=0.06)


def told_and_kept(cfg: Config, b: int, length: int, source: int, precision: memory.Precision) -> tuple[int, int]:
    """Bytes of the activations as they are planned, with the narrow copies of weights, and as autograd keeps them."""
    tokens, read = rows(cfg, b, length, source)
    model = Transformer(cfg)
    kept = {p.untyped_storage().data_ptr(): 0 for p in model.parameters()}
    held = []

    def pack(t: Tensor) -> Tensor:
        kept.setdefault(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes())
        held.append(t)  # or its address would serve again
        return t

    mixed = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), mixed:
        model(tokens, tokens, segment=torch.ones_like(tokens), source=read)
    told = memory.training(cfg, b, length, source, precision=precision)
    return told.activations + told.weights - 4 * cost.parameters(cfg), sum(kept.values())


def test_memory_by_part() -> None:
    n, matrices = cost.parameters(GPT2), 12 * (4 * 768 * 768 + 2 * 768 * 3072)
    adam = memory.training(GPT2, 1, 512, optimizer="adamw")
    muon = memory.training(GPT2, 1, 512, optimizer="muon")
    assert (adam.weights, adam.gradients, adam.optimizer) == (4 * n, 4 * n, 8 * n)
    assert muon.optimizer == 8 * n - 4 * matrices
    assert adam.total == 16 * n + adam.activations + adam.logits + adam.masks
    assert adam.masks == 4 * 512 * 512
    assert memory.training(GPT2, 3, 512).activations == 3 * adam.activations
    assert memory.rule_of_thumb(10**9) == 24 * 10**9


def test_kept_logits_are_bounded() -> None:
    few, many = memory.logits(GPT2, 1000, 2), memory.logits(GPT2, 10_000, 2)
    assert few - many == 2 * 1000 * 50257  # the many are made again on the way back, a chunk at a time
    assert many < 2**27


def test_inference_memory_is_that_of_the_cache() -> None:
    cfg = shape("causal", 500, 300_000)
    cache = Cache(cfg, batch=3, length=20, dtype=torch.bfloat16)
    told = memory.inference(cfg, 3, 20, number=2)
    assert told.cache == sum(t.nbytes for t in [*cache.k, *cache.v])
    assert told.total == told.cache + 2 * cost.parameters(cfg)
    span = shape("span", 500, 300_000)
    assert memory.inference(span, 1, 20, 100).cache == 2 * span.layers * span.width * 120 * 4
    lstm = blank(shape("causal", 500, 300_000, ByHand(arch="lstm"))).bfloat16()
    kept = Cache(lstm.cfg, batch=3, length=20, dtype=cache_dtype(lstm))
    assert memory.inference(lstm.cfg, 3, 20, number=2).cache == sum(t.nbytes for t in [*kept.k, *kept.v])


# -- the dial: words


@pytest.mark.parametrize(
    ("text", "count"),
    [("10M", 10**7), ("1.5B", 1_500_000_000), ("260k", 260_000), ("124_000_000", 124_000_000), (" 3 m ", 3 * 10**6),
     ("5e6", 5_000_000), ("2g", 2 * 10**9)],
)  # fmt: skip
def test_sizes_are_read(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize(
    ("text", "seconds"), [("3min", 180), ("90s", 90), ("2h", 7200), ("1.5h", 5400), ("1h30min", 5400), ("2 m", 120)]
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "ten", "10MB", "-3M", "0", "1.2.3M", "M", "1e999"])
def test_unreadable_sizes(text: str) -> None:
    with pytest.raises(ValueError, match=r"write 260k, 10M or 1\.5B"):
        parse_count(text)


@pytest.mark.parametrize("text", ["", "3", "soon", "3min and more", "3 fortnights", "0s", "-3min", "1.2.3s"])
def test_unreadable_times(text: str) -> None:
    with pytest.raises(ValueError, match="write 90s, 3min, 2h or 1h30min"):
        parse_time(text)


# -- the dial: shapes


@given(st.sampled_from(OBJECTIVES), st.floats(6, 9), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_sizes_are_met_within_5_percent(objective: size.Objective, log_size: float, u: float) -> None:
    wanted = round(10**log_size)
    largest = min(65_536, wanted // (800 if objective == "span" else 400))  # a vocabulary that leaves room
    vocab = round(256 * (largest / 256) ** u)
    cfg = shape(objective, vocab, wanted)
    assert cost.parameters(cfg) == pytest.approx(wanted, rel=0.05)
    assert cfg.width == cfg.heads * cfg.head
    assert cfg.head in (32, 64)
    assert cfg.ffn % 32 == 0
    assert 10 < cfg.width / cfg.layers < 160


def test_the_families_the_objectives_are_known_from() -> None:
    causal, masked, span, denoise = (shape(objective, 4096, 10_000_000) for objective in OBJECTIVES)
    assert (causal.shape, masked.shape, span.shape) == ("decoder", "encoder", "encoder-decoder")
    assert (causal.norm, causal.act, causal.gated, causal.rope, causal.tied) == ("rms", "silu", True, Rope(), True)
    assert (masked.norm, masked.pre_norm, masked.types, masked.learned, masked.gated) == (
        "layer",
        False,
        2,
        True,
        False,
    )
    assert (span.act, span.attn_scale, span.tied, span.relative) == ("gelu_tanh", 1.0, False, Relative())
    assert span.encoder == replace(span, causal=False, encoder=None)
    assert (denoise.pre_norm, denoise.embed_norm, denoise.offset, denoise.tied) == (False, True, 2, True)
    assert denoise.encoder == replace(denoise, causal=False, encoder=None)
    assert [family_of_model(cfg).model_type for cfg in (causal, masked, span, denoise)] == [
        "llama",
        "bert",
        "t5",
        "bart",
    ]


def test_ten_million_is_the_shape_one_would_choose() -> None:
    cfg = shape("causal", 4096, 10_000_000)
    assert (cfg.width, cfg.layers, cfg.heads, cfg.ffn) == (320, 7, 10, 864)
    assert shape("causal", 50257, 124_000_000).layers in (11, 12, 13)


def test_a_size_that_cannot_hold_the_vocabulary() -> None:
    with pytest.raises(
        ValueError, match=r"vocabulary of 50,257 has 1,000,000 parameters: the nearest has 1,6\d\d,\d{3}"
    ):
        shape("causal", 50257, 1_000_000)


@pytest.mark.parametrize(
    "hand", [ByHand(width=256), ByHand(layers=3), ByHand(heads=4), ByHand(ffn=512), ByHand(heads=6, kv_heads=3)]
)
def test_what_is_said_by_hand_stands(hand: ByHand) -> None:
    cfg = shape("causal", 2000, 3_000_000, hand)
    assert all(getattr(cfg, name) == said for name, said in vars(hand).items() if said is not None)
    assert cost.parameters(cfg) == pytest.approx(3_000_000, rel=0.05)


def test_hands_that_contradict_the_size_or_each_other() -> None:
    with pytest.raises(ValueError, match="and what was said by hand has 10,000,000 parameters"):
        shape("causal", 2000, 10_000_000, ByHand(width=64, layers=2))
    with pytest.raises(ValueError, match="7 heads do not divide a width of 256"):
        shape("causal", 2000, 10_000_000, ByHand(width=256, heads=7))


@pytest.mark.parametrize(
    ("hand", "told"),
    [
        ({"width": 0}, "--width must be at least 1, not 0"),
        ({"layers": -1}, "--layers must be at least 1, not -1"),
        ({"heads": 0}, "--heads must be at least 1, not 0"),
        ({"kv_heads": 0}, "--kv-heads must be at least 1, not 0"),
        ({"ffn": -64}, "--ffn must be at least 1, not -64"),
        ({"context": 1}, "--context must be at least 3, not 1"),
        ({"rate": 0.0}, "--rate must be above 0, not 0.0"),
        ({"rate": math.inf}, "--rate must be above 0, not inf"),
        ({"matrix_rate": math.nan}, "--matrix-rate must be above 0, not nan"),
        ({"batch": 0}, "--batch must be at least 1, not 0"),
        ({"tokens": 0}, "--tokens must be at least 1, not 0"),
        ({"steps": -1}, "--steps must be at least 0, not -1"),
        ({"warmup": -1}, "--warmup must be at least 0, not -1"),
    ],
    ids=lambda said: next(iter(said)) if isinstance(said, dict) else "",
)
def test_a_number_that_means_nothing_is_named_by_its_flag(hand: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        ByHand(**hand)  # type: ignore[arg-type]


def test_every_number_that_can_be_said_is_checked() -> None:
    for field in fields(ByHand):
        with pytest.raises(ValueError, match="must be"):
            ByHand(**{field.name: -1})


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_least_that_can_be_said_makes_a_plan(objective: size.Objective) -> None:
    hand = ByHand(width=2, layers=1, heads=1, kv_heads=1, ffn=1, context=3, batch=1, steps=1, warmup=0)
    plan = decide(objective, 10, 1e9, hand=hand)
    assert (plan.config.ffn, plan.config.context, plan.rows, plan.steps, plan.warmup) == (1, 3, 1, 1, 0)


# -- the dial: plans


def test_t5s_row() -> None:
    """Raffel et al. 2020's own code: 512 input tokens come from 568, whose targets take 114."""
    assert row_lengths("span", 512) == (114, 512)
    assert row_lengths("causal", 256) == (256, 0)
    assert row_lengths("denoise", 256) == (256, 256)


@pytest.mark.parametrize("context", [*range(3, 16), *range(16, 601, 8), 1024])
def test_rows_are_planned_as_they_are_packed(context: int) -> None:
    assert row_lengths("span", context) == (pack.fitting(context)[1], context)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_size_alone_reads_twenty_tokens_a_parameter(objective: size.Objective) -> None:
    plan = decide(objective, 4096, 1e11, parameters=10_000_000)
    assert plan.tokens_per_parameter == pytest.approx(20, rel=0.02)
    share = 0.15 if objective == "masked" else 1.0
    flops = plan.tokens * cost.flops_per_token(plan.config, plan.length, plan.source, share)
    assert plan.flops == pytest.approx(flops)
    assert plan.seconds == pytest.approx(flops / 1e11)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_time_alone_is_filled_at_twenty_tokens_a_parameter(objective: size.Objective) -> None:
    plan = decide(objective, 2048, 1e11, seconds=1800)
    assert plan.seconds == pytest.approx(1800, rel=0.01)
    assert plan.seconds <= 1800
    assert plan.tokens_per_parameter == pytest.approx(20, rel=0.15)


def test_more_time_makes_a_larger_model_and_size_with_time_reads_what_fits() -> None:
    sizes = [decide("causal", 2048, 1e11, seconds=60 * minutes).parameters for minutes in (1, 10, 100)]
    assert sizes == sorted(set(sizes))
    both = decide("causal", 2048, 1e11, parameters=5_000_000, seconds=600)
    assert both.parameters == pytest.approx(5_000_000, rel=0.05)
    assert both.seconds == pytest.approx(600, rel=0.01)
    quick = decide("causal", 2048, 1e9, seconds=1)  # hardly time for anything: still a plan
    assert quick.steps >= 1


def test_rates_and_batch_by_hand() -> None:
    """Bi et al. 2024, section 3.1, on their 7B model: 2T tokens give a batch of 2304 x 4096 and a rate of 4.2e-4."""
    compute = 2e12 * cost.flops_per_token(replace(LLAMA2_7B, vocab=102_400, layers=30), 4096)
    assert size.best_batch(compute, 2e12) == pytest.approx(2304 * 4096, rel=0.3)
    assert size.best_rate(compute) == pytest.approx(4.2e-4, rel=0.1)
    assert size.best_rate(1e18) == pytest.approx(0.3118 * 1e18**-0.125)
    assert size.best_rate(1e12) == 0.006
    assert size.best_batch(1e18, 1e5) == 500  # at least 200 steps
    assert [size.warmup_steps(n) for n in (1, 100, 10**6)] == [1, 5, 500]
    assert decide("causal", 2048, 1e11, parameters=3 * 10**6).matrix_rate == 0.02


def test_a_plan_said_by_hand() -> None:
    hand = ByHand(width=64, layers=2, context=32, batch=640, steps=7, warmup=0, rate=0.5, matrix_rate=0.25)
    plan = decide("causal", 100, 1e9, hand=hand)
    assert (plan.config.width, plan.config.layers, plan.length) == (64, 2, 32)
    assert (plan.batch, plan.rows, plan.steps, plan.warmup) == (640, 20, 7, 0)
    assert (plan.rate, plan.matrix_rate) == (0.5, 0.25)
    told = decide("causal", 100, 1e9, hand=replace(hand, steps=None, tokens=6400))
    assert told.steps == 10
    with pytest.raises(ValueError, match="a size"):
        decide("causal", 100, 1e9)


@given(st.integers(1, 4000), st.integers(25, 200))
@settings(max_examples=30, deadline=None)
def test_micro_batches_fit_the_memory(wished: int, megabytes: int) -> None:
    hand = ByHand(width=64, layers=2, context=128, batch=128 * wished, tokens=10**7)
    plan: Plan = decide("causal", 512, 1e10, hand=hand, bytes_free=megabytes * 2**20)
    assert plan.rows % plan.accumulate == 0
    assert plan.memory.total <= megabytes * 2**20
    assert plan.memory == memory.training(plan.config, plan.rows // plan.accumulate, 128)
    assert wished <= plan.rows < wished + plan.accumulate


def test_memory_that_cannot_hold_one_row() -> None:
    with pytest.raises(ValueError, match=r"a single row needs [\d,]+ MiB and 1 MiB are free"):
        decide("causal", 512, 1e10, parameters=10**6, bytes_free=2**20)


def test_without_a_limit_a_micro_batch_holds_16k_tokens() -> None:
    plan = decide("causal", 4096, 1e12, parameters=10_000_000)
    held = plan.batch / plan.accumulate
    assert 2**13 < held <= 2**14
    assert math.isclose(plan.batch, size.best_batch(plan.flops, plan.tokens), rel_tol=0.05)


def test_a_run_that_goes_on_from_a_model_is_gentler_and_as_large_as_its_steps() -> None:
    """Half of the rates, rows as a new model of the size has, and the batch that the rule gives these steps."""
    gpt2 = Config(
        vocab=50257, width=768, layers=12, heads=12, kv_heads=12, head=64, ffn=3072, context=1024, norm="layer",
        act="gelu_tanh", gated=False, attn_bias=True, ffn_bias=True, learned=True,
    )  # fmt: skip
    plan = decide("causal", 50257, 1e12, hand=ByHand(steps=100), config=gpt2)
    assert plan.config == gpt2
    assert (plan.length, plan.steps) == (size.best_context(cost.parameters(gpt2)), 100)
    assert plan.length < gpt2.context
    assert plan.rate == pytest.approx(size.best_rate(plan.flops) / 2)
    assert plan.matrix_rate == size.MUON_RATE / 2
    assert plan.batch == pytest.approx(0.2920 * plan.flops**0.3271, rel=0.02)
    said = decide("causal", 50257, 1e12, hand=ByHand(steps=100, rate=0.5, context=2048, batch=4096), config=gpt2)
    assert (said.length, said.batch, said.rate) == (1024, 4096, 0.5)


# -- architectures ----------------------------------------------------------------------------------------

HELD_BY = {"switch": {"causal": "modelwright-experts", "span": "switch_transformers"}, "transformer": "marian",
           "gemma3": "gemma3_text", "lstm": "modelwright-lstm"}  # fmt: skip
MADE = [(objective, arch) for objective, styles in STYLES.items() for arch in styles]


@pytest.mark.parametrize(("objective", "arch"), MADE)
def test_each_architecture_is_made_to_size_and_kept_as_the_family_it_is_named_after(objective: Any, arch: Any) -> None:
    cfg = shape(objective, 1000, 2_000_000, ByHand(arch=arch))
    held = HELD_BY.get(arch, arch)
    assert family_of_model(cfg).model_type == (held[objective] if isinstance(held, dict) else held)
    counted = cost.parameters(cfg)
    assert counted == sum(p.numel() for p in blank(cfg).parameters())
    assert abs(counted / 2_000_000 - 1) < 0.05


def test_a_width_by_hand_is_held_by_the_family_it_is_named_after() -> None:
    bloom = build("causal", 1000, 36, 2, ByHand(arch="bloom"), 64)
    assert (bloom.ffn, family_of_model(bloom).model_type) == (4 * 36, "bloom")
    odd = build("masked", 1000, 33, 2, ByHand(arch="bert", heads=3), 64)  # a head of 11: no pairs are turned here
    assert family_of_model(odd).model_type == "bert"
    shared = build("denoise", 1000, 64, 2, ByHand(arch="bart", heads=4, kv_heads=1), 64)
    with pytest.raises(ValueError, match=r"has no words for its kv_heads = 1$"):  # and not the whole encoder beside it
        family_of_model(shared)
    with pytest.raises(ValueError, match="a head width of 11 is odd"):
        build("causal", 1000, 33, 2, ByHand(arch="qwen3", heads=3), 64)


def test_a_window_is_shorter_than_the_context_it_is_made_for() -> None:
    mistral, gemma = (shape("causal", 1000, 2_000_000, ByHand(arch=arch, context=64)) for arch in ("mistral", "gemma3"))
    assert mistral.local == Local(32)
    assert gemma.local == Local(16, (0, 1, 2, 3, 4, *range(6, gemma.layers - 1)), Rope(10_000.0))


def test_a_layer_with_a_window_looks_no_further_and_is_counted_so() -> None:
    far = shape("causal", 1000, 2_000_000, ByHand(layers=6, context=512))
    near = replace(far, local=Local(128, (0, 1, 2, 3, 4)))
    spared = 4 * 512 * (512 - 128) * 5 * far.heads * far.head
    assert cost.forward_flops(far, 512) - cost.forward_flops(near, 512) == spared
    assert cost.forward_flops(far, 100) == cost.forward_flops(near, 100)


def test_no_steps_are_a_plan_too() -> None:
    found = decide("span", 1000, 1e11, parameters=500_000, hand=ByHand(steps=0, arch="transformer"))
    assert (found.steps, found.tokens, found.seconds) == (0, 0, 0.0)
    assert found.rate == 0.006
