"""Decoder-only families, as data: see `families.py`.

Sources: GPT-2 (Radford et al. 2019), BLOOM (Le Scao et al. 2022), Llama (Touvron et al. 2023; Dubey et al. 2024),
Mistral (Jiang et al. 2023), Qwen 2 and 3 (Yang et al. 2024; 2025), Gemma 3 (Gemma Team 2025).
"""

from dataclasses import replace
from typing import Any

from modelwright.model.config import Config, Local, Rope, RopeScaling
from modelwright.model.family import (
    ACTS,
    Family,
    Json,
    Name,
    activation,
    head_width,
    key_of,
    known,
    number,
    only,
    positive,
    rate,
    settings,
    size,
    unsupported,
    yes,
)

# -- GPT-2: learned positions, LayerNorm before, one matrix for q, k and v, all matrices stored (in, out) ---


GPT2_MODELS = ("GPT2LMHeadModel", "GPT2Model", "GPT2DoubleHeadsModel")


def _read_gpt2(config: Json) -> Config:
    known(config, GPT2_MODELS)
    only(
        config, scale_attn_by_inverse_layer_idx=(False,), reorder_and_upcast_attn=(False,), add_cross_attention=(False,)
    )
    width, heads = size(config, "n_embd"), size(config, "n_head")
    return Config(
        vocab=size(config, "vocab_size"),
        width=width,
        layers=size(config, "n_layer"),
        heads=heads,
        kv_heads=heads,
        head=head_width(config, width, heads),
        ffn=size(config, "n_inner", default=4 * width),
        context=size(config, "n_positions", "n_ctx"),
        norm="layer",
        eps=number(config, "layer_norm_epsilon", 1e-5),
        act=activation(config, "activation_function", "gelu_new"),
        gated=False,
        attn_bias=True,
        ffn_bias=True,
        learned=True,
        tied=yes(config, "tie_word_embeddings", True),
        attn_scale=None if yes(config, "scale_attn_weights", True) else 1.0,
        dropout=rate(config, "resid_pdrop", 0.1),
    )


def _write_gpt2(cfg: Config) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": cfg.vocab,
        "n_embd": cfg.width,
        "n_layer": cfg.layers,
        "n_head": cfg.heads,
        "n_inner": cfg.ffn,
        "n_positions": cfg.context,
        "layer_norm_epsilon": cfg.eps,
        "activation_function": key_of(ACTS, cfg.act),
        "tie_word_embeddings": cfg.tied,
        "scale_attn_weights": cfg.attn_scale is None,
        "resid_pdrop": cfg.dropout,
        "embd_pdrop": cfg.dropout,
        "attn_pdrop": cfg.dropout,
    }


GPT2 = Family(
    "gpt2",
    GPT2_MODELS,
    _read_gpt2,
    _write_gpt2,
    names=(
        Name("embed.tokens", ("transformer.wte",)),
        Name("embed.positions", ("transformer.wpe",)),
        Name("stack.blocks.{}.attn_norm", ("transformer.h.{}.ln_1",)),
        Name("stack.blocks.{}.attn.q", ("transformer.h.{}.attn.c_attn",), part=0, parts=3, turned=True),
        Name("stack.blocks.{}.attn.k", ("transformer.h.{}.attn.c_attn",), part=1, parts=3, turned=True),
        Name("stack.blocks.{}.attn.v", ("transformer.h.{}.attn.c_attn",), part=2, parts=3, turned=True),
        Name("stack.blocks.{}.attn.o", ("transformer.h.{}.attn.c_proj",), turned=True),
        Name("stack.blocks.{}.ffn_norm", ("transformer.h.{}.ln_2",)),
        Name("stack.blocks.{}.ffn.up", ("transformer.h.{}.mlp.c_fc",), turned=True),
        Name("stack.blocks.{}.ffn.down", ("transformer.h.{}.mlp.c_proj",), turned=True),
        Name("stack.norm", ("transformer.ln_f",)),
        Name("head.proj", ("lm_head",)),
    ),
    older=((r"^(?=(h\.\d+|wte|wpe|ln_f)\.)", "transformer."),),
    buffers=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",),
    aside=(r"multiple_choice_head\..*",),
)


# -- BLOOM: slopes for positions, LayerNorm before and after the embedding, q, k and v side by side in each head ---


BLOOM_MODELS = ("BloomForCausalLM", "BloomModel")


def _read_bloom(config: Json) -> Config:
    known(config, BLOOM_MODELS)
    only(config, apply_residual_connection_post_layernorm=(False,))
    width, heads = size(config, "n_embed", "hidden_size"), size(config, "n_head", "num_attention_heads")
    only(config, n_inner=(4 * width,))
    return Config(
        vocab=size(config, "vocab_size"),
        width=width,
        layers=size(config, "n_layer", "num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        head=head_width(config, width, heads),
        ffn=4 * width,
        context=size(config, "seq_length", default=2048),
        norm="layer",
        eps=number(config, "layer_norm_epsilon", 1e-5),
        act="gelu_tanh",
        gated=False,
        attn_bias=True,
        ffn_bias=True,
        alibi=True,
        embed_norm=True,
        tied=yes(config, "tie_word_embeddings", True),
        dropout=rate(config, "hidden_dropout", 0.0),
    )


def _write_bloom(cfg: Config) -> dict[str, Any]:
    return {
        "model_type": "bloom",
        "architectures": ["BloomForCausalLM"],
        "vocab_size": cfg.vocab,
        "hidden_size": cfg.width,
        "n_layer": cfg.layers,
        "n_head": cfg.heads,
        "seq_length": cfg.context,
        "layer_norm_epsilon": cfg.eps,
        "apply_residual_connection_post_layernorm": False,
        "tie_word_embeddings": cfg.tied,
        "hidden_dropout": cfg.dropout,
        "attention_dropout": cfg.dropout,
    }


BLOOM = Family(
    "bloom",
    BLOOM_MODELS,
    _read_bloom,
    _write_bloom,
    names=(
        Name("embed.tokens", ("transformer.word_embeddings",)),
        Name("embed.norm", ("transformer.word_embeddings_layernorm",)),
        Name("stack.blocks.{}.attn_norm", ("transformer.h.{}.input_layernorm",)),
        *(
            Name(
                f"stack.blocks.{{}}.attn.{part}",
                ("transformer.h.{}.self_attention.query_key_value",),
                at,
                3,
                by_head=True,
            )
            for at, part in enumerate("qkv")
        ),
        Name("stack.blocks.{}.attn.o", ("transformer.h.{}.self_attention.dense",)),
        Name("stack.blocks.{}.ffn_norm", ("transformer.h.{}.post_attention_layernorm",)),
        Name("stack.blocks.{}.ffn.up", ("transformer.h.{}.mlp.dense_h_to_4h",)),
        Name("stack.blocks.{}.ffn.down", ("transformer.h.{}.mlp.dense_4h_to_h",)),
        Name("stack.norm", ("transformer.ln_f",)),
        Name("head.proj", ("lm_head",)),
    ),
    older=((r"^(?=(h\.\d+|word_embeddings|word_embeddings_layernorm|ln_f)\.)", "transformer."),),
)


# -- Llama: rotary positions, RMSNorm before, gated feed-forward, fewer key than query heads ---------------


LLAMA_MODELS = ("LlamaForCausalLM", "LlamaModel")
FULL, SLIDING = "full_attention", "sliding_attention"  # what a layer is called that sees everything, or a window


def _rope_settings(config: Json) -> Json:
    """Rotary settings from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before)."""
    said = {**settings(config, "rope_scaling"), **settings(config, "rope_parameters")}
    return {"rope_theta": config.get("rope_theta"), "partial_rotary_factor": config.get("partial_rotary_factor")} | said


def _read_rope(config: Json, said: Json, context: int, base: float = 10_000.0) -> Rope:
    said = {"rope_type": said.get("type"), "model_type": config.get("model_type")} | dict(said)
    only(said, rope_type=("default", "linear", "llama3"), partial_rotary_factor=(1.0,))
    only(said, full_attention=(None,), sliding_attention=(None,))
    base = positive(said, "rope_theta", base)
    if said["rope_type"] == "linear":
        return Rope(base, stretch=positive(said, "factor", 1.0))
    if said["rope_type"] != "llama3":
        return Rope(base)
    scaling = RopeScaling(
        factor=positive(said, "factor", 8.0),
        low=positive(said, "low_freq_factor", 1.0),
        high=positive(said, "high_freq_factor", 4.0),
        original=size(said, "original_max_position_embeddings", default=context),
    )
    if scaling.low >= scaling.high:
        raise unsupported(said, "high_freq_factor", f"a number above low_freq_factor = {scaling.low}")
    return Rope(base, scaling)


def _said_of_rope(rope: Rope) -> dict[str, Any] | None:
    """How positions are scaled; None where they are not."""
    if rope.scaling is None:
        return None if rope.stretch == 1.0 else {"rope_type": "linear", "factor": rope.stretch}
    return {
        "rope_type": "llama3",
        "factor": rope.scaling.factor,
        "low_freq_factor": rope.scaling.low,
        "high_freq_factor": rope.scaling.high,
        "original_max_position_embeddings": rope.scaling.original,
    }


def _rope_parameters(rope: Rope) -> dict[str, Any]:
    return {"rope_theta": rope.base, **(_said_of_rope(rope) or {"rope_type": "default"})}


def _write_rope(rope: Rope) -> dict[str, Any]:
    """Both spellings at once: each version of transformers reads its own."""
    return {"rope_theta": rope.base, "rope_scaling": _said_of_rope(rope), "rope_parameters": _rope_parameters(rope)}


def _read_sizes(config: Json, models: tuple[str, ...], head: int | None = None) -> Config:
    """What Llama and those after it spell alike, without positions; `head`: where none is said, and no shares."""
    known(config, models)
    width, heads = size(config, "hidden_size"), size(config, "num_attention_heads")
    return Config(
        vocab=size(config, "vocab_size"),
        width=width,
        layers=size(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=size(config, "num_key_value_heads", default=heads),
        head=size(config, "head_dim", default=head or width // heads),
        ffn=size(config, "intermediate_size"),
        context=size(config, "max_position_embeddings"),
        eps=number(config, "rms_norm_eps", 1e-6),
        act=activation(config, "hidden_act", "silu"),
        tied=yes(config, "tie_word_embeddings", False),
        dropout=rate(config, "attention_dropout", 0.0),
    )


def _write_sizes(cfg: Config, model_type: str, models: tuple[str, ...]) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "architectures": [models[0]],
        "vocab_size": cfg.vocab,
        "hidden_size": cfg.width,
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "num_key_value_heads": cfg.kv_heads,
        "head_dim": cfg.head,
        "intermediate_size": cfg.ffn,
        "max_position_embeddings": cfg.context,
        "rms_norm_eps": cfg.eps,
        "hidden_act": key_of(ACTS, cfg.act),
        "tie_word_embeddings": cfg.tied,
        "attention_dropout": cfg.dropout,
    }


def _read_llama(config: Json) -> Config:
    cfg = _read_sizes(config, LLAMA_MODELS)
    return replace(
        cfg,
        attn_bias=yes(config, "attention_bias", False),
        ffn_bias=yes(config, "mlp_bias", False),
        rope=_read_rope(config, _rope_settings(config), cfg.context),
    )


def _write_llama(cfg: Config) -> dict[str, Any]:
    return {
        **_write_sizes(cfg, "llama", LLAMA_MODELS),
        "attention_bias": cfg.attn_bias,
        "mlp_bias": cfg.ffn_bias,
        **_write_rope(cfg.rope or Rope()),
    }


LLAMA_NAMES = (
    Name("embed.tokens", ("model.embed_tokens",)),
    Name("stack.blocks.{}.attn_norm", ("model.layers.{}.input_layernorm",)),
    Name("stack.blocks.{}.attn.q", ("model.layers.{}.self_attn.q_proj",)),
    Name("stack.blocks.{}.attn.k", ("model.layers.{}.self_attn.k_proj",)),
    Name("stack.blocks.{}.attn.v", ("model.layers.{}.self_attn.v_proj",)),
    Name("stack.blocks.{}.attn.o", ("model.layers.{}.self_attn.o_proj",)),
    Name("stack.blocks.{}.ffn_norm", ("model.layers.{}.post_attention_layernorm",)),
    Name("stack.blocks.{}.ffn.gate", ("model.layers.{}.mlp.gate_proj",)),
    Name("stack.blocks.{}.ffn.up", ("model.layers.{}.mlp.up_proj",)),
    Name("stack.blocks.{}.ffn.down", ("model.layers.{}.mlp.down_proj",)),
    Name("stack.norm", ("model.norm",)),
    Name("head.proj", ("lm_head",)),
)
LLAMA_OLDER = ((r"^(?=(layers\.\d+|embed_tokens|norm|rotary_emb)\.)", "model."),)
LLAMA = Family(
    "llama",
    LLAMA_MODELS,
    _read_llama,
    _write_llama,
    LLAMA_NAMES,
    LLAMA_OLDER,
    buffers=(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",),
)


# -- Mistral: Llama with a window ---------------------------------------------------------------------------


MISTRAL_MODELS = ("MistralForCausalLM", "MistralModel")


def _read_mistral(config: Json) -> Config:
    only(config, layer_types=(None,))
    cfg = _read_sizes(config, MISTRAL_MODELS)
    rope = _read_rope(config, _rope_settings(config), cfg.context)
    return replace(cfg, rope=rope, local=_local(config, cfg.layers, [*range(cfg.layers)]))


def _local(config: Json, layers: int, those: list[int], rope: Rope | None = None) -> Local | None:
    """The window of some layers; none where no layer has one, or it is null. Left out, it is of 4096."""
    if not those or config.get("sliding_window", 4096) is None:
        return None
    window = size(config, "sliding_window", default=4096)
    return Local(window, None if len(those) == layers else tuple(those), rope)


def _write_mistral(cfg: Config) -> dict[str, Any]:
    return {
        **_write_sizes(cfg, "mistral", MISTRAL_MODELS),
        **_write_rope(cfg.rope or Rope()),
        "sliding_window": cfg.local.window if cfg.local else None,
    }


MISTRAL = Family("mistral", MISTRAL_MODELS, _read_mistral, _write_mistral, LLAMA_NAMES, LLAMA_OLDER)


# -- Qwen 2: Llama with biases of q, k and v; Qwen 3: with norms of q and k; a window in the upper layers of some ---


QWEN2_MODELS, QWEN3_MODELS = ("Qwen2ForCausalLM", "Qwen2Model"), ("Qwen3ForCausalLM", "Qwen3Model")


def _layer_types(config: Json, layers: int, windowed: bool) -> list[int]:
    """Which layers see a window, by `layer_types`."""
    kinds = config.get("layer_types")
    if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in (FULL, SLIDING) for kind in kinds):
        raise unsupported(config, "layer_types", f"a list of {layers}, each {FULL!r} or {SLIDING!r}")
    those = [layer for layer, kind in enumerate(kinds) if kind == SLIDING]
    if those and not (windowed and config.get("sliding_window", 4096) is not None):
        raise unsupported(config, "layer_types", f"{FULL!r} alone where no window is used")
    return those


def _read_qwen(config: Json, cfg: Config) -> Config:
    windowed = yes(config, "use_sliding_window", False)
    if config.get("layer_types") is not None:
        those = _layer_types(config, cfg.layers, windowed)
    else:
        first = number(config, "max_window_layers", 28)
        those = [layer for layer in range(cfg.layers) if windowed and layer >= first]
    rope = _read_rope(config, _rope_settings(config), cfg.context)
    return replace(cfg, rope=rope, local=_local(config, cfg.layers, those))


def _write_qwen(cfg: Config, model_type: str, models: tuple[str, ...]) -> dict[str, Any]:
    return {
        **_write_sizes(cfg, model_type, models),
        **_write_rope(cfg.rope or Rope()),
        "use_sliding_window": cfg.local is not None,
        "sliding_window": cfg.local.window if cfg.local else None,
        "max_window_layers": next(filter(cfg.is_local, range(cfg.layers)), cfg.layers),  # read before there were types
        "layer_types": _write_layer_types(cfg),
    }


def _write_layer_types(cfg: Config) -> list[str]:
    return [SLIDING if cfg.is_local(layer) else FULL for layer in range(cfg.layers)]


def _read_qwen2(config: Json) -> Config:
    return replace(_read_qwen(config, _read_sizes(config, QWEN2_MODELS)), qkv_bias=True)


def _read_qwen3(config: Json) -> Config:
    cfg = _read_qwen(config, _read_sizes(config, QWEN3_MODELS, head=128))
    return replace(cfg, qk_norm=True, attn_bias=yes(config, "attention_bias", False))


def _write_qwen2(cfg: Config) -> dict[str, Any]:
    return _write_qwen(cfg, "qwen2", QWEN2_MODELS)


def _write_qwen3(cfg: Config) -> dict[str, Any]:
    return _write_qwen(cfg, "qwen3", QWEN3_MODELS) | {"attention_bias": cfg.attn_bias}


QK_NORMS = (
    Name("stack.blocks.{}.attn.q_norm", ("model.layers.{}.self_attn.q_norm",)),
    Name("stack.blocks.{}.attn.k_norm", ("model.layers.{}.self_attn.k_norm",)),
)
QWEN2 = Family("qwen2", QWEN2_MODELS, _read_qwen2, _write_qwen2, LLAMA_NAMES, LLAMA_OLDER)
QWEN3 = Family("qwen3", QWEN3_MODELS, _read_qwen3, _write_qwen3, LLAMA_NAMES + QK_NORMS, LLAMA_OLDER)


# -- Gemma 3: norms before and after each part and of q and k, kept as their distance from 1; most layers see a window


GEMMA3_MODELS = ("Gemma3ForCausalLM", "Gemma3TextModel")


def _read_gemma3(config: Json) -> Config:
    only(config, attn_logit_softcapping=(None,), final_logit_softcapping=(None,), use_bidirectional_attention=(False,))
    said = {"tie_word_embeddings": True} | {key: value for key, value in config.items() if value is not None}
    cfg = _read_sizes(said | {"hidden_act": config.get("hidden_activation") or "gelu_pytorch_tanh"}, GEMMA3_MODELS, 256)
    scalar = positive(config, "query_pre_attn_scalar", 256)
    rope, near = _read_ropes(config, cfg.context)
    if config.get("layer_types") is None:
        every = size(config, "sliding_window_pattern", "_sliding_window_pattern", default=6)
        kinds = [SLIDING if (layer + 1) % every else FULL for layer in range(cfg.layers)]
        config = {**config, "layer_types": kinds}
    those = _layer_types(config, cfg.layers, windowed=True)
    return replace(
        cfg,
        norm="rms_from_one",
        part_norm=True,
        qk_norm=True,
        attn_bias=yes(config, "attention_bias", False),
        attn_scale=None if scalar == cfg.head else scalar**-0.5,
        embed_scale=cfg.width**0.5,
        rope=rope,
        local=_local(config, cfg.layers, those, near if near != rope else None),
    )


def _read_ropes(config: Json, context: int) -> tuple[Rope, Rope]:
    """The rotary positions of layers that see everything, and of those that see a window: in transformers 5 by the type
    of layer, before with a base of each, and a scaling of the first alone."""
    said = settings(config, "rope_parameters")
    far: Json = {**_rope_settings({**config, "rope_parameters": None}), **settings(said, FULL)}
    near: Json = {"rope_theta": config.get("rope_local_base_freq"), **settings(said, SLIDING)}
    if flat := [key for key in said if key not in (FULL, SLIDING)]:
        raise unsupported(config, "rope_parameters", f"settings of {FULL} and {SLIDING} alone, not {flat[0]}")
    return _read_rope(config, far, context, 1e6), _read_rope(config, near, context)


def _write_gemma3(cfg: Config) -> dict[str, Any]:
    sizes = _write_sizes(cfg, "gemma3_text", GEMMA3_MODELS)
    sizes["hidden_activation"] = sizes.pop("hidden_act")
    rope = cfg.rope or Rope()
    near = (cfg.local and cfg.local.rope) or rope
    return {
        **sizes,
        "attention_bias": cfg.attn_bias,
        "query_pre_attn_scalar": cfg.head if cfg.attn_scale is None else round(cfg.attn_scale**-2),
        "sliding_window": cfg.local.window if cfg.local else cfg.context,  # which transformers wants though none has it
        "layer_types": _write_layer_types(cfg),
        "rope_theta": rope.base,
        "rope_scaling": _said_of_rope(rope),
        "rope_local_base_freq": near.base,
        "rope_parameters": {FULL: _rope_parameters(rope), SLIDING: _rope_parameters(near)},
    }


GEMMA3 = Family(
    "gemma3_text",
    GEMMA3_MODELS,
    _read_gemma3,
    _write_gemma3,
    names=(
        *(name for name in LLAMA_NAMES if not name.ours.endswith("ffn_norm")),
        *QK_NORMS,
        Name("stack.blocks.{}.attn_out_norm", ("model.layers.{}.post_attention_layernorm",)),
        Name("stack.blocks.{}.ffn_norm", ("model.layers.{}.pre_feedforward_layernorm",)),
        Name("stack.blocks.{}.ffn_out_norm", ("model.layers.{}.post_feedforward_layernorm",)),
    ),
    older=LLAMA_OLDER,
)
