"""Each family against another library on tiny random weights, both ways; and a real checkpoint against what it tells.

Letters: B batch, T length, S source length, V vocabulary.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tiny
from modelwright.data.tokenizer import Tokenizer
from modelwright.model import checkpoint
from modelwright.model.experts import Routing
from modelwright.model.families import FAMILIES, family_of_config, family_of_model
from modelwright.model.recurrent_families import lstm
from modelwright.model.sparse_families import sparse_layers
from modelwright.model.transformer import Config, Local, Memory, Relative, Rope, RopeScaling, Transformer, initialise
from modelwright.plan.cost import parameters
from modelwright.plan.size import ByHand, shape
from oracles import greedy, greedy_cached

BARE = ("bert-model", "roberta-model", "distilbert-model")  # encoders that end with their hidden states
HEADLESS = (
    "gpt2-bare-names",
    "bloom-bare-names",
    "bart-model",
    *BARE,
)  # in the other library, where a decoder's head is its embedding here
NAMES = pytest.mark.parametrize("name", tiny.MODELS)
SPEAKERS = [name for name, make in tiny.MODELS.items() if make().can_generate() and name not in HEADLESS]
REAL = os.environ.get("MODELWRIGHT_DATA")
REAL_ONLY = pytest.mark.skipif(not REAL, reason="MODELWRIGHT_DATA does not name the folder of real data")


Bring = Callable[[str], tuple[Any, Transformer]]


@pytest.fixture(scope="module")
def bring(tmp_path_factory: pytest.TempPathFactory) -> Bring:
    """A tiny model of the other library, and ours read from what it saved."""

    @cache
    def both(name: str) -> tuple[Any, Transformer]:
        theirs, directory = tiny.make(name), tmp_path_factory.mktemp(name)
        theirs.save_pretrained(directory)
        return theirs, checkpoint.load(directory)

    return both


@torch.no_grad()
def ours_says(model: Transformer, x: Tensor, source: Tensor | None = None, headless: bool = False) -> Tensor:
    memory = None if source is None else model.encode(source)
    return model.hidden(x, memory=memory) if headless else model(x, memory=memory)


def a_source(model: Transformer, *shape: int) -> Tensor | None:
    return tiny.tokens(*shape, seed=1) if model.cfg.encoder else None


# -- the same numbers, both ways --------------------------------------------------------------------------


@NAMES
def test_reads_what_transformers_saved(name: str, bring: Bring) -> None:
    theirs, ours = bring(name)
    source = a_source(ours, 3, 50)
    want = tiny.logits(theirs, tiny.tokens(3, 40), source)
    got = ours_says(ours, tiny.tokens(3, 40), source, name in HEADLESS)
    assert want.std() > 0.1  # large enough for 1e-5 to mean something
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


# a head that these have, and ours has not
LACKING = {"bert-model": {"pooler"}, "roberta-model": {"pooler"}, "bert-pretraining": {"pooler", "seq_relationship"}}


@NAMES
def test_transformers_opens_what_we_save(name: str, bring: Bring, tmp_path: Path) -> None:
    _, ours = bring(name)
    checkpoint.save(ours, tmp_path / "ours", extra={"eos_token_id": None, "decoder_start_token_id": 0})
    architecture = json.loads((tmp_path / "ours" / "config.json").read_text())["architectures"][0]
    back, report = getattr(transformers, architecture).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert {key.split(".")[-3] for key in report["missing_keys"]} <= LACKING.get(name, set())
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    source = a_source(ours, 3, 50)
    want = tiny.logits(back.eval(), tiny.tokens(3, 40), source)
    got = ours_says(ours, tiny.tokens(3, 40), source, name in BARE)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_token_types(bring: Bring) -> None:
    theirs, ours = bring("bert-untied-relu")
    x, types = tiny.tokens(2, 20), torch.randint(3, (2, 20), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        want = theirs(x, token_type_ids=types).logits
        torch.testing.assert_close(ours(x, types=types), want, atol=1e-5, rtol=0)
        assert (ours(x) - want).abs().max() > 0.1


def test_scaled_rope_at_long_positions(bring: Bring) -> None:
    theirs, ours = bring("llama3-scaled-rope")
    x, pos = tiny.tokens(1, 40), torch.arange(40)[None] * 100
    with torch.no_grad():
        want = theirs(x, position_ids=pos).logits
        torch.testing.assert_close(ours(x, pos=pos), want, atol=1e-5, rtol=0)
        unscaled = Transformer(replace(ours.cfg, rope=Rope(5e5)))
        unscaled.load_state_dict(ours.state_dict())
        assert (unscaled(x, pos=pos) - want).abs().max() > 1e-2


PUBLISHED = {  # how many numbers their files hold, where the embedding counts once
    "facebook/bart-base": (768, 6, 12, 139_420_416),
    "facebook/bart-large": (1024, 12, 16, 406_291_456),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_bart_has_as_many_parameters_as_published(name: str) -> None:
    width, layers, heads, count = PUBLISHED[name]
    each = {"layers": layers, "attention_heads": heads, "ffn_dim": 4 * width}
    towers = {f"{tower}_{key}": value for tower in ("encoder", "decoder") for key, value in each.items()}
    cfg = FAMILIES["bart"].read(
        {"model_type": "bart", "vocab_size": 50265, "d_model": width, "max_position_embeddings": 1024, **towers}
    )
    assert parameters(cfg) == count
    assert sum(p.numel() for p in checkpoint.blank(cfg).parameters()) == count


def test_bart_s_towers_have_positions_of_their_own(bring: Bring) -> None:
    _, ours = bring("bart")
    source, x = tiny.tokens(1, 20, seed=1), tiny.tokens(1, 10)
    with torch.no_grad():
        before = ours(x, memory=ours.encode(source))
        moved = copy.deepcopy(ours)
        moved.embed.positions.weight[:2].mul_(-9.0)  # the two rows before the first position, which nothing reads
        assert torch.equal(moved(x, memory=moved.encode(source)), before)
        assert torch.equal(moved.encode(source).x, ours.encode(source).x)
        moved.embed.positions.weight[2].mul_(-9.0)
        assert torch.equal(moved.encode(source).x, ours.encode(source).x)
        assert (moved(x, memory=moved.encode(source)) - before).abs().max() > 0.1


# -- the same tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPEAKERS)
def test_greedy_tokens(name: str, bring: Bring) -> None:
    theirs, ours = bring(name)
    prompt, source = tiny.tokens(2, 5), a_source(ours, 2, 30)
    prompt[:, 0] = 0  # where the other library lets T5 begin
    # without a cache: theirs counts the encoder's layers where the decoder has more
    how: Any = {"max_new_tokens": 32, "do_sample": False, "pad_token_id": 0, "use_cache": False}
    if source is None:
        want = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), **how)
    else:
        mask = torch.ones_like(source)
        want = theirs.generate(source, attention_mask=mask, decoder_input_ids=prompt, **how)
    with torch.no_grad():
        memory = None if source is None else ours.encode(source)
    assert want.shape == (2, 37)
    assert torch.equal(greedy(ours, prompt, 32, memory), want)
    if name != "switch-full":  # read again with every token, more of a row come than an expert takes
        assert torch.equal(greedy_cached(ours, prompt, 32, memory), want)


# -- rows padded, and rows packed, are as rows alone ------------------------------------------------------

LENGTHS = (4, 9, 13)
PADDED = ["gpt2", "llama-grouped-tied", "llama3-scaled-rope", "mistral", "qwen2-upper-window", "qwen3-biases-window",
          "gemma3_text", "bloom", "bert", "roberta", "distilbert", "t5", "t5-v1.1", "bart", "marian", "mixtral",
          "switch"]  # fmt: skip


def lay_out(lengths: tuple[int, ...], side: str, seed: int) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Texts of these lengths; and the same in rows: padded on a side, or packed one after the other into one."""
    texts = [tiny.tokens(1, n, seed=seed + n) for n in lengths]
    pos = [torch.arange(n)[None] for n in lengths]
    if side == "packed":
        segment = [torch.full((1, n), i + 1) for i, n in enumerate(lengths)]
        return texts, {"tokens": torch.cat(texts, 1), "pos": torch.cat(pos, 1), "segment": torch.cat(segment, 1)}
    T = max(lengths)
    pads = [(T - n, 0) if side == "left" else (0, T - n) for n in lengths]
    columns = {"tokens": texts, "pos": pos, "segment": [torch.ones_like(text) for text in texts]}
    fill = {"tokens": 7, "pos": 0, "segment": 0}
    pad = torch.nn.functional.pad
    return texts, {
        key: torch.cat([pad(row, by, value=fill[key]) for row, by in zip(rows, pads, strict=True)])
        for key, rows in columns.items()
    }


def cut_out(rows: Tensor, segment: Tensor, packed: bool) -> list[Tensor]:
    """Each text's own part of what a model said of the rows (B, T, V)."""
    if packed:
        return [rows[0][segment[0] == i + 1] for i in range(int(segment.max()))]
    return [row[kept == 1] for row, kept in zip(rows, segment, strict=True)]


@pytest.mark.parametrize("side", ["left", "right", "packed"])
@pytest.mark.parametrize("name", PADDED)
@torch.no_grad()
def test_rows_together_are_as_rows_alone(name: str, side: str, bring: Bring) -> None:
    _, ours = bring(name)
    texts, rows = lay_out(LENGTHS, side, seed=100)
    memory: Memory | None = None
    memories: list[Memory | None] = [None] * len(texts)
    if ours.cfg.encoder:
        sources, laid = lay_out((11, 6, 17), side, seed=200)
        memory = ours.encode(**laid)
        memories = [ours.encode(source) for source in sources]
    said = ours(**rows, memory=memory)
    got = cut_out(said, rows["segment"], side == "packed")
    for text, alone, found in zip(texts, memories, got, strict=True):
        torch.testing.assert_close(found, ours(text, memory=alone)[0], atol=1e-5, rtol=0)


# -- configurations ---------------------------------------------------------------------------------------

SIZES = st.integers(1, 9)
RATES = st.sampled_from([0.0, 0.1, 0.25])
EPS = st.sampled_from([1e-12, 1e-6, 1e-5])


@st.composite
def configs(draw: st.DrawFn) -> tuple[str, Config]:
    """A family's name, and a config that it can hold."""
    heads, head = draw(SIZES), 2 * draw(SIZES)
    sizes: dict[str, Any] = {name: draw(SIZES) for name in ("vocab", "layers", "ffn", "context")}
    sizes |= {"width": heads * head, "heads": heads, "kv_heads": heads, "head": head}
    sizes |= {"eps": draw(EPS), "dropout": draw(RATES), "tied": draw(st.booleans())}
    old: dict[str, Any] = {"norm": "layer", "gated": False, "attn_bias": True, "ffn_bias": True, "learned": True}
    family = draw(st.sampled_from(sorted(set(FAMILIES) - {"xlm-roberta"})))  # which is saved as roberta
    if family == "modelwright-lstm":
        shape = (sizes["vocab"], sizes["width"], sizes["layers"], sizes["context"])
        return family, lstm(*shape, tied=sizes["tied"], dropout=sizes["dropout"])
    if family == "gpt2":
        scale = draw(st.sampled_from([None, 1.0]))
        return family, Config(
            **sizes, **old, attn_scale=scale, act=draw(st.sampled_from(["gelu", "gelu_tanh", "relu"]))
        )
    if family in ("bert", "roberta", "distilbert"):
        head_on = draw(st.booleans())
        ends = {"pre_norm": False, "final_norm": False, "causal": False, "embed_norm": True}
        ends |= {"head_transform": head_on, "head_bias": head_on}
        own: dict[str, Any] = {"eps": 1e-12, "pooler_act": "relu"} if family == "distilbert" else {"types": draw(SIZES)}
        own |= {"offset": draw(SIZES)} if family == "roberta" else {}
        return family, Config(**sizes | {"tied": sizes["tied"] or not head_on} | own, **old, **ends, act="gelu")
    if family == "llama":
        sizes["kv_heads"] = draw(st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0]))
        scaling = draw(st.none() | st.builds(RopeScaling, original=SIZES, factor=st.sampled_from([2.0, 8.0])))
        biases = {"attn_bias": draw(st.booleans()), "ffn_bias": draw(st.booleans())}
        return family, Config(**sizes, **biases, rope=Rope(draw(st.sampled_from([1e4, 5e5])), scaling))
    if family in ("bart", "marian"):
        ends = {"pre_norm": False, "final_norm": False, "eps": 1e-5}
        ends |= {"embed_norm": True, "offset": 2} if family == "bart" else {"sinusoidal": True, "head_bias": True}
        old |= {"learned": family == "bart"}
        ends |= {"embed_scale": draw(st.sampled_from([1.0, sizes["width"] ** 0.5])), "act": "gelu"}
        tower = Config(**sizes | ends, **old)
        return family, replace(tower, encoder=replace(tower, causal=False, layers=draw(SIZES), ffn=draw(SIZES)))
    if family in ("mixtral", "modelwright-experts"):
        count = draw(st.integers(1, 6))
        routing = Routing(count, draw(st.integers(1, count)), normalised=True, balance=draw(RATES), jitter=draw(RATES))
        if family == "modelwright-experts":
            some = draw(st.sets(st.integers(0, sizes["layers"] - 1)))
            routing = replace(routing, normalised=False, layers=tuple(sorted(some)), capacity_factor=1.25)
        return family, Config(**sizes, experts=routing, rope=Rope(draw(st.sampled_from([1e4, 1e6]))))
    if family == "switch_transformers":
        sizes["tied"], count = True, draw(SIZES)
        asked = [draw(st.integers(1, layers)) for layers in (sizes["layers"], sizes["layers"])]
        capacity, factor = draw(st.sampled_from([None, 7])), draw(st.sampled_from([None, 1.5]))
        routings = [
            Routing(count, layers=sparse_layers(sizes["layers"], n), capacity=capacity, capacity_factor=factor)
            for n in asked
        ]
        tower = Config(**sizes, gated=False, act="relu", relative=Relative(), attn_scale=1.0,
                       scale_logits=sizes["width"] ** -0.5, experts=routings[0])  # fmt: skip
        return family, replace(tower, encoder=replace(tower, causal=False, experts=routings[1]))
    if family == "bloom":
        places = {"learned": False, "alibi": True, "embed_norm": True, "act": "gelu_tanh"}
        return family, Config(**sizes | old | places | {"ffn": 4 * sizes["width"]})
    if family in ("mistral", "qwen2", "qwen3", "gemma3_text"):
        return family, draw(after_llama(family, sizes))
    gated = draw(st.booleans())
    bend = draw(st.sampled_from(["relu", "silu", "gelu_tanh"] + ["gelu"] * (not gated)))
    scale = draw(st.sampled_from([1.0, sizes["width"] ** -0.5]))
    tower = Config(
        **sizes, gated=gated, act=bend, relative=Relative(2 * draw(SIZES), 64), attn_scale=1.0, scale_logits=scale
    )
    return family, replace(tower, encoder=replace(tower, causal=False, layers=draw(SIZES)))


ROPES = st.builds(Rope, st.sampled_from([1e4, 1e6]), stretch=st.sampled_from([1.0, 8.0]))


@st.composite
def after_llama(draw: st.DrawFn, family: str, sizes: dict[str, Any]) -> Config:
    """A config that differs from Llama's in what the family is for."""
    heads, layers, rope = sizes["heads"], sizes["layers"], draw(ROPES)
    sizes = sizes | {"head": 2 * draw(SIZES), "rope": rope}
    sizes["kv_heads"] = draw(st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0]))
    some = draw(st.sets(st.integers(0, layers - 1), min_size=1))
    local = Local(draw(SIZES), None if len(some) == layers else tuple(sorted(some)))
    if family == "mistral":
        return Config(**sizes, local=replace(local, layers=None))
    local = draw(st.sampled_from([None, local]))
    if family == "qwen2":
        return Config(**sizes, local=local, qkv_bias=True)
    biases = {"attn_bias": draw(st.booleans()), "qk_norm": True}
    if family == "qwen3":
        return Config(**sizes, **biases, local=local)
    near = draw(st.none() | ROPES.filter(lambda other: other != rope))
    scale = draw(st.sampled_from([None, *(n**-0.5 for n in (1, 7, 168, 256) if n != sizes["head"])]))
    more = {"norm": "rms_from_one", "part_norm": True, "attn_scale": scale, "embed_scale": sizes["width"] ** 0.5}
    return Config(**sizes, **biases, **more, local=local and replace(local, rope=near), act="gelu_tanh")


@settings(max_examples=300, deadline=None)
@given(configs())
def test_a_config_survives_being_written_as_json_and_read(drawn: tuple[str, Config]) -> None:
    name, cfg = drawn
    written = json.loads(json.dumps(FAMILIES[name].write(cfg)))
    assert family_of_config(written).read(written) == cfg
    assert family_of_model(cfg).model_type == name


def test_every_spelling_of_rope_is_read() -> None:
    cfg = FAMILIES["llama"].read(tiny.LLAMA | {"rope_theta": 5e5, "rope_scaling": tiny.LLAMA3})
    assert cfg.rope == Rope(5e5, RopeScaling(8.0, 1.0, 4.0, 64))
    written = FAMILIES["llama"].write(cfg)
    old = {key: value for key, value in written.items() if key != "rope_parameters"}
    new = {key: value for key, value in written.items() if key not in ("rope_theta", "rope_scaling")}
    assert FAMILIES["llama"].read(old) == FAMILIES["llama"].read(new) == cfg
    first = old | {"rope_scaling": {"type" if k == "rope_type" else k: v for k, v in old["rope_scaling"].items()}}
    assert FAMILIES["llama"].read(first) == cfg
    assert FAMILIES["llama"].read(tiny.LLAMA).rope == Rope(10_000.0)


def test_both_spellings_of_gemma_3_are_read() -> None:
    """transformers 4 has a base of each kind of layer, and every sixth (or so) sees everything; 5 has them by type."""
    old = tiny.GEMMA3_TEXT | {"rope_theta": 2e6, "rope_local_base_freq": 5e3, "num_hidden_layers": 7}
    old |= {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    cfg = FAMILIES["gemma3_text"].read(old)
    assert (cfg.rope, cfg.local) == (Rope(2e6, stretch=8.0), Local(5, (0, 1, 3, 4, 6), Rope(5e3)))
    written = FAMILIES["gemma3_text"].write(cfg)
    new = {key: value for key, value in written.items() if not key.startswith("rope_") or key == "rope_parameters"}
    assert FAMILIES["gemma3_text"].read(new) == cfg
    first = {key: value for key, value in written.items() if key != "rope_parameters"}
    assert FAMILIES["gemma3_text"].read(first) == cfg
    bare = {key: value for key, value in tiny.GEMMA3_TEXT.items() if not key.startswith("sliding")}
    cfg = FAMILIES["gemma3_text"].read(bare | {"num_hidden_layers": 7, "head_dim": None})
    assert (cfg.rope, cfg.local, cfg.head) == (Rope(1e6), Local(4096, (0, 1, 2, 3, 4, 6), Rope(1e4)), 256)
    assert cfg.embed_scale == 24**0.5
    assert cfg.tied


def test_which_layers_of_qwen_see_a_window() -> None:
    read, types = FAMILIES["qwen2"].read, ["full_attention", "sliding_attention"]
    windowed = tiny.QWEN2 | {"use_sliding_window": True, "sliding_window": 5}
    assert read(tiny.QWEN2 | {"sliding_window": 5, "max_window_layers": 0}).local is None  # not used unless said
    assert read(windowed | {"max_window_layers": 1}).local == Local(5, (1,))
    assert read(windowed | {"max_window_layers": 0}).local == Local(5)
    assert read(windowed).local is None  # the first 28 see everything
    assert read(windowed | {"max_window_layers": 0, "layer_types": types}).local == Local(5, (1,))
    assert read(windowed | {"sliding_window": None, "max_window_layers": 0}).local is None


def test_a_window_that_is_left_out_is_of_4096_and_one_that_is_null_is_none() -> None:
    config = {key: value for key, value in tiny.MISTRAL.items() if key != "sliding_window"}
    assert FAMILIES["mistral"].read(config).local == Local(4096)
    assert FAMILIES["mistral"].read(config | {"sliding_window": None}).local is None


def test_bloom_in_the_spelling_of_its_first_files() -> None:
    new = FAMILIES["bloom"].read(tiny.BLOOM | {"seq_length": 512})
    old = {"vocab_size": 61, "n_embed": 24, "num_hidden_layers": 2, "num_attention_heads": 6, "n_inner": None}
    assert FAMILIES["bloom"].read(old | {"seq_length": 512}) == new
    assert FAMILIES["bloom"].read(old).context == 2048


def test_heads_of_bloom_stand_side_by_side(bring: Bring) -> None:
    """Rows of the one matrix: a head's queries, its keys, its values; then the next head's."""
    theirs, ours = bring("bloom")
    whole = theirs.transformer.h[1].self_attention.query_key_value.weight.view(6, 3, 4, 24)
    for at, name in enumerate("qkv"):
        part = getattr(ours.stack.blocks[1].attn, name).weight
        assert torch.equal(part.view(6, 4, 24), whole[:, at])


@pytest.mark.parametrize("name", ["mistral", "qwen2-upper-window", "qwen3-biases-window", "gemma3_text"])
@torch.no_grad()
def test_a_window_changes_what_is_said_beyond_it(name: str, bring: Bring) -> None:
    _, ours = bring(name)
    free = Transformer(replace(ours.cfg, local=ours.cfg.local and replace(ours.cfg.local, window=99)))
    free.load_state_dict(ours.state_dict())
    gap = (free(tiny.tokens(2, 40)) - ours(tiny.tokens(2, 40))).abs().amax((0, 2))
    assert gap[:5].max() < 1e-5
    assert gap[5:].min() > 1e-2


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (tiny.GPT2, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True; supported: False"),
    (tiny.GPT2, {"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn = True; supported: False"),
    (tiny.GPT2, {"add_cross_attention": True}, "add_cross_attention = True; supported: False"),
    (tiny.GPT2, {"activation_function": "mish"}, "activation_function = 'mish'; supported: 'silu' or"),
    (tiny.GPT2, {"n_head": 5}, "5 heads cannot share a width of 24"),
    (tiny.GPT2, {"n_embd": None}, "n_embd = None; supported: a whole number above 0"),
    (tiny.GPT2, {"n_layer": "2"}, "n_layer = '2'; supported: a whole number above 0"),
    (tiny.GPT2, {"layer_norm_epsilon": "small"}, "layer_norm_epsilon = 'small'; supported: a number of at least 0"),
    (tiny.GPT2, {"architectures": ["GPT2ForTokenClassification"]}, "architecture 'GPT2ForTokenClassification'"),
    (tiny.GPT2, {"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon = nan; supported: a number of at least 0"),
    (tiny.GPT2, {"layer_norm_epsilon": 10**400}, "supported: a number of at least 0"),
    (tiny.GPT2, {"architectures": 5}, "architectures = 5; supported: a list of names: GPT2LMHeadModel"),
    (tiny.GPT2, {"architectures": "GPT2LMHeadModel"}, "architectures = 'GPT2LMHeadModel'; supported: a list of names"),
    (tiny.BERT, {"architectures": [["BertModel"]]}, "architectures = [['BertModel']]; supported: a list of names"),
    (tiny.GPT2, {"resid_pdrop": 1.5}, "resid_pdrop = 1.5; supported: a share from 0 to 1"),
    (tiny.LLAMA, {"rope_scaling": "x"}, "rope_scaling = 'x'; supported: an object of settings, or null"),
    (tiny.LLAMA, {"rope_parameters": [1]}, "rope_parameters = [1]; supported: an object of settings, or null"),
    (tiny.LLAMA, {"rope_theta": 0}, "rope_theta = 0; supported: a number above 0"),
    (tiny.LLAMA, {"rope_scaling": tiny.LLAMA3 | {"factor": 0}}, "factor = 0; supported: a number above 0"),
    (tiny.LLAMA, {"rope_scaling": tiny.LLAMA3 | {"high_freq_factor": 1.0}}, "a number above low_freq_factor = 1.0"),
    (tiny.LLAMA, {"hidden_act": "gelu_fast"}, "hidden_act = 'gelu_fast'"),
    (tiny.LLAMA, {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_type = 'yarn'; supported: 'default' or"),
    (tiny.LLAMA, {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "full_attention = {'rope_theta'"),
    (tiny.LLAMA, {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4}}, "rope_type = 'dynamic'"),
    (tiny.LLAMA, {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
    (tiny.LLAMA, {"quantization_config": {"quant_method": "gptq"}}, "quantization_config = {'quant_method': 'gptq'}"),
    (tiny.LLAMA, {"num_key_value_heads": 4}, "6 heads cannot share 4 key/value heads"),
    (tiny.MISTRAL, {"sliding_window": 0}, "sliding_window = 0; supported: a whole number above 0"),
    (tiny.MISTRAL, {"layer_types": ["sliding_attention"] * 2}, "layer_types = ['sliding_attention', 'slidi"),
    (tiny.MISTRAL, {"architectures": ["MistralForSequenceClassification"]}, "supported: MistralForCausalLM, Mistr"),
    (tiny.QWEN2, {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_type = 'yarn'; supported: 'default' or"),
    (tiny.QWEN2, {"layer_types": ["full_attention"]}, "supported: a list of 2, each 'full_attention' or 'slid"),
    (tiny.QWEN2, {"layer_types": ["full_attention", "chunked_attention"]}, "supported: a list of 2, each 'full_at"),
    (tiny.QWEN2, {"layer_types": ["full_attention", "sliding_attention"]}, "alone where no window is used"),
    (tiny.QWEN2, {"use_sliding_window": "yes"}, "use_sliding_window = 'yes'; supported: False or True"),
    (tiny.QWEN3, {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, "rope_type = 'dynamic'; supported: 'def"),
    (tiny.QWEN3, {"attention_bias": 2}, "attention_bias = 2; supported: False or True"),
    (tiny.GEMMA3_TEXT, {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0; supported: None"),
    (tiny.GEMMA3_TEXT, {"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0; supported: None"),
    (tiny.GEMMA3_TEXT, {"use_bidirectional_attention": True}, "use_bidirectional_attention = True; supported: False"),
    (tiny.GEMMA3_TEXT, {"rope_parameters": {"rope_theta": 1e6}}, "settings of full_attention and sliding_attention"),
    (tiny.GEMMA3_TEXT, {"rope_scaling": {"rope_type": "yarn"}}, "rope_type = 'yarn'; supported: 'default' or"),
    (tiny.GEMMA3_TEXT, {"sliding_window": None}, "'full_attention' alone where no window is used"),
    (tiny.GEMMA3_TEXT, {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar = 0; supported: a number above 0"),
    (tiny.GEMMA3_TEXT, {"architectures": ["Gemma3ForConditionalGeneration"]}, "supported: Gemma3ForCausalLM, Gemm"),
    (tiny.BLOOM, {"apply_residual_connection_post_layernorm": True}, "post_layernorm = True; supported: False"),
    (tiny.BLOOM, {"n_inner": 40}, "n_inner = 40; supported: 96"),
    (tiny.BLOOM, {"n_head": 5}, "5 heads cannot share a width of 24"),
    (tiny.BERT, {"position_embedding_type": "relative_key"}, "= 'relative_key'; supported: 'absolute'"),
    (tiny.BERT, {"is_decoder": True}, "is_decoder = True; supported: False"),
    (tiny.BERT, {"hidden_act": "swiglu"}, "hidden_act = 'swiglu'"),
    (tiny.BERT, {"architectures": ["BertForMultipleChoice"]}, "architecture 'BertForMultipleChoice'; supported"),
    (tiny.ROBERTA, {"pad_token_id": -1}, "pad_token_id = -1; supported: a whole number from 0, and below"),
    (tiny.ROBERTA, {"pad_token_id": 97}, "pad_token_id = 97; supported: a whole number from 0, and below"),
    (tiny.ROBERTA, {"hidden_act": "relu"}, "hidden_act = 'relu'; supported: 'gelu'"),
    (tiny.ROBERTA, {"is_decoder": True}, "is_decoder = True; supported: False"),
    (tiny.ROBERTA, {"architectures": ["BertForMaskedLM"]}, "architecture 'BertForMaskedLM'; supported: RobertaForM"),
    (tiny.DISTILBERT, {"architectures": ["DistilBertForMultipleChoice"]}, "architecture 'DistilBertForMultipleChoice'"),
    (tiny.DISTILBERT, {"n_heads": 5}, "5 heads cannot share a width of 24"),
    (tiny.DISTILBERT, {"activation": "mish"}, "activation = 'mish'; supported: 'silu' or"),
    (tiny.DISTILBERT, {"dim": None}, "dim = None; supported: a whole number above 0"),
    (tiny.T5, {"feed_forward_proj": "gated-mish"}, "feed_forward_proj = 'gated-mish'; supported: 'relu' or 'ga"),
    (tiny.T5, {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"}, "dense_act_fn = 'gelu'; supported: 'ge"),
    (tiny.T5, {"feed_forward_proj": "gated-gelu", "is_gated_act": False}, "is_gated_act = False; supported: True"),
    (tiny.T5, {"architectures": ["T5EncoderModel"]}, "architecture 'T5EncoderModel'"),
    (tiny.BART, {"architectures": ["BartForSequenceClassification"]}, "architecture 'BartForSequenceClassification'; "),
    (tiny.BART, {"normalize_before": True}, "normalize_before = True; supported: False"),
    (tiny.BART, {"normalize_embedding": False}, "normalize_embedding = False; supported: True"),
    (tiny.BART, {"add_final_layer_norm": True}, "add_final_layer_norm = True; supported: False"),
    (tiny.BART, {"static_position_embeddings": True}, "static_position_embeddings = True; supported: False"),
    (tiny.BART, {"add_bias_logits": True}, "add_bias_logits = True; supported: False"),
    (tiny.BART, {"is_encoder_decoder": False}, "is_encoder_decoder = False; supported: True"),
    (tiny.BART, {"decoder_attention_heads": 5}, "5 heads cannot share a width of 24"),
    (tiny.MIXTRAL, {"sliding_window": 4096}, "sliding_window = 4096; supported: None"),
    (tiny.MIXTRAL, {"num_experts_per_tok": 5}, "a token cannot pass 5 of 4 experts: choose from 1 to 4"),
    (tiny.MIXTRAL, {"architectures": ["MixtralForSequenceClassification"]}, "'MixtralForSequenceClassification'"),
    (tiny.SWITCH_TRANSFORMERS, {"tie_word_embeddings": False}, "tie_word_embeddings = False; supported: True"),
    (tiny.SWITCH_TRANSFORMERS, {"router_bias": True}, "router_bias = True; supported: False"),
    (tiny.SWITCH_TRANSFORMERS, {"router_dtype": "bfloat16"}, "router_dtype = 'bfloat16'; supported: 'float32'"),
    (tiny.SWITCH_TRANSFORMERS, {"num_sparse_encoder_layers": 3}, "_layers = 3; supported: at most 2, the layers"),
    (tiny.SWITCH_TRANSFORMERS, {"encoder_sparse_step": 3}, "encoder_sparse_step = 3; supported: 2"),
    (tiny.SWITCH_TRANSFORMERS, {"dense_act_fn": "gated-gelu"}, "dense_act_fn = 'gated-gelu'; supported: 'silu' or"),
    (tiny.SWITCH_TRANSFORMERS, {"architectures": ["SwitchTransformersEncoderModel"]}, "EncoderModel'; supported"),
]  # fmt: skip


@pytest.mark.parametrize(("base", "change", "sentence"), REFUSED, ids=[next(iter(c)) for _, c, _ in REFUSED])
def test_what_is_not_supported_is_refused_by_name(base: dict[str, Any], change: dict[str, Any], sentence: str) -> None:
    kind = next(name for name in FAMILIES if getattr(tiny, name.upper(), None) is base)
    family_of_config({"model_type": kind}).read({"model_type": kind} | base)
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the sentence is compared below
        FAMILIES[kind].read({"model_type": kind} | base | change)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"count": "8"}, "count = '8'; supported: a whole number above 0"),
        ({"top": 1.5}, "top = 1.5; supported: a whole number above 0"),
        ({"layers": 1}, "layers = 1; supported: a list of layers, from 0"),
        ({"layers": [True]}, "layers = [True]; supported: a list of layers, from 0"),
        ({"normalised": "no"}, "normalised = 'no'; supported: False or True"),
        ({"capacity": 0}, "capacity = 0; supported: a whole number above 0"),
        ({"jitter": "much"}, "jitter = 'much'; supported: a number of at least 0"),
        ({"rooms": 2}, "supported: an object of count, top"),
    ],
)
def test_what_our_own_words_for_experts_hold_is_checked(change: dict[str, Any], sentence: str) -> None:
    own = FAMILIES["modelwright-experts"]
    routing = Routing(4, 2, layers=(1,), capacity_factor=1.5, jitter=0.1)
    said = own.write(replace(FAMILIES["llama"].read(tiny.LLAMA), experts=routing))
    assert own.read(said).experts == own.read(json.loads(json.dumps(said))).experts == routing
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the sentence is compared below
        own.read({**said, "experts": said["experts"] | change})
    assert sentence in str(caught.value)


@pytest.mark.parametrize("kind", ["mamba", None, ["gpt2"]])
def test_an_unknown_family_names_those_known(kind: Any) -> None:
    known = r"model_type .* is of no known family; known: gpt2, bloom, llama, mistral, .*, t5, bart"
    with pytest.raises(ValueError, match=known):
        family_of_config({"model_type": kind})


def test_a_gemma_without_a_window_runs_in_transformers(tmp_path: Path) -> None:
    """Which asks for a window's width though no layer has one."""
    cfg = shape("causal", 97, 20_000, ByHand(arch="gemma3", layers=1))
    model = initialise(Transformer(cfg), torch.Generator()).eval()
    checkpoint.save(model, tmp_path)
    theirs, x = transformers.AutoModelForCausalLM.from_pretrained(tmp_path), torch.arange(1, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(x), theirs(x).logits, atol=1e-4, rtol=1e-4)
    assert checkpoint.load(tmp_path).cfg == cfg


def test_gemma_with_images_names_the_one_without() -> None:
    with pytest.raises(ValueError, match=r"model_type 'gemma3' is not supported: .* text-only one, of gemma3_text$"):
        family_of_config({"model_type": "gemma3", "text_config": tiny.GEMMA3_TEXT})


def test_a_model_that_no_family_holds_says_what_is_in_the_way() -> None:
    cfg = FAMILIES["llama"].read(tiny.LLAMA)
    with pytest.raises(ValueError, match="the nearest, llama, has no words for its gated = False"):
        family_of_model(replace(cfg, gated=False))


# -- a real checkpoint ------------------------------------------------------------------------------------

STORY = """Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she \
saw a big, red ball. She wanted to play with it, but it was too high.
Lily's mom said, "Lily, let's go to the park." Lily was sad and didn't know what to do. She said, "I want to play with \
your ball, but I can't find it.\""""


@REAL_ONLY
def test_stories260k_tells_its_published_story() -> None:
    directory = Path(REAL or "") / "stories260k"
    model = checkpoint.load(directory)
    tokenizer = Tokenizer.load(directory)
    steps = len(tokenizer.encode(STORY))
    told = greedy_cached(model, torch.tensor([[1]]), steps)
    assert tokenizer.decode(told[0].tolist()) == STORY
    assert torch.equal(greedy(model, torch.tensor([[1]]), 64), told[:, :65])


@REAL_ONLY
@torch.no_grad()
def test_stories260k_predicts_stories_as_the_other_library_says() -> None:
    """1.2968 nats a token was published for the validation part of all stories. This sample is of the earlier stories
    only, with curly quotes that the vocabulary spells byte by byte, and is harder: 1.473 on its first 40 stories,
    1.493 on all 1,000.
    """
    directory = Path(REAL or "") / "stories260k"
    tokenizer = Tokenizer.load(directory)
    text = next((Path(REAL or "") / "tinystories-sample").glob("*.txt")).read_text(encoding="utf-8")
    stories = [story.strip() for story in text.split("<|endoftext|>") if story.strip()][:40]
    stream = [i for story in tokenizer.encode_batch(stories, special=True) for i in story]  # each begins with BOS
    rows = torch.tensor(stream[: len(stream) // 512 * 512]).view(-1, 512)
    ours, theirs = checkpoint.load(directory), transformers.LlamaForCausalLM.from_pretrained(directory)
    loss = -ours(rows[:, :-1], rows[:, 1:]).mean().item()
    assert loss == pytest.approx(theirs(rows, labels=rows).loss.item(), abs=1e-4)
    assert loss == pytest.approx(1.4734, abs=0.002)
