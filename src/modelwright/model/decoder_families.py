"""Decoder-only families, as data: see `families.py`.

Sources: GPT-2 (Radford et al. 2019), Llama (Touvron et al. 2023; Dubey et al. 2024).
"""

from typing import Any

from modelwright.model.config import Config, Rope, RopeScaling
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


# -- Llama: rotary positions, RMSNorm before, gated feed-forward, fewer key than query heads ---------------


LLAMA_MODELS = ("LlamaForCausalLM", "LlamaModel")


def _read_rope(config: Json, context: int) -> Rope:
    """Rotary settings from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before)."""
    said = {**settings(config, "rope_scaling"), **settings(config, "rope_parameters")}
    said = {"rope_type": said.get("type"), "rope_theta": config.get("rope_theta"), "model_type": "llama"} | said
    only(said, rope_type=("default", "llama3"), partial_rotary_factor=(1.0,))
    only(config, partial_rotary_factor=(1.0,))
    base = positive(said, "rope_theta", 10_000.0)
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


def _write_rope(rope: Rope) -> dict[str, Any]:
    """Both spellings at once: each version of transformers reads its own."""
    scaling = rope.scaling and {
        "rope_type": "llama3",
        "factor": rope.scaling.factor,
        "low_freq_factor": rope.scaling.low,
        "high_freq_factor": rope.scaling.high,
        "original_max_position_embeddings": rope.scaling.original,
    }
    return {
        "rope_theta": rope.base,
        "rope_scaling": scaling,
        "rope_parameters": {"rope_theta": rope.base, **(scaling or {"rope_type": "default"})},
    }


def _read_llama(config: Json) -> Config:
    known(config, LLAMA_MODELS)
    width, heads = size(config, "hidden_size"), size(config, "num_attention_heads")
    context = size(config, "max_position_embeddings")
    return Config(
        vocab=size(config, "vocab_size"),
        width=width,
        layers=size(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=size(config, "num_key_value_heads", default=heads),
        head=size(config, "head_dim", default=width // heads),
        ffn=size(config, "intermediate_size"),
        context=context,
        norm="rms",
        eps=number(config, "rms_norm_eps", 1e-6),
        act=activation(config, "hidden_act", "silu"),
        gated=True,
        attn_bias=yes(config, "attention_bias", False),
        ffn_bias=yes(config, "mlp_bias", False),
        rope=_read_rope(config, context),
        tied=yes(config, "tie_word_embeddings", False),
        dropout=rate(config, "attention_dropout", 0.0),
    )


def _write_llama(cfg: Config) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
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
        "attention_bias": cfg.attn_bias,
        "mlp_bias": cfg.ffn_bias,
        **_write_rope(cfg.rope or Rope()),
        "tie_word_embeddings": cfg.tied,
        "attention_dropout": cfg.dropout,
    }


LLAMA = Family(
    "llama",
    LLAMA_MODELS,
    _read_llama,
    _write_llama,
    names=(
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
    ),
    older=((r"^(?=(layers\.\d+|embed_tokens|norm|rotary_emb)\.)", "model."),),
    buffers=(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",),
)
