"""Encoder-decoder families, as data: see `families.py`.

Sources: T5 (Raffel et al. 2020; v1.1: Shazeer 2020), BART (Lewis et al. 2019), Marian (Junczys-Dowmunt et al. 2018),
which is the first Transformer (Vaswani et al. 2017) with a bias on its logits.
"""

from dataclasses import replace
from typing import Any

from modelwright.model.config import Config, Relative
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
    rate,
    size,
    yes,
)

# -- T5: an encoder-decoder, distances as biases, scores that are not scaled ------------------------------


T5_MODELS = ("T5ForConditionalGeneration", "T5WithLMHeadModel")

T5_FFN: dict[str, Any] = {  # feed_forward_proj -> (gated, activation); "gated-gelu" has always meant the tanh form
    "relu": (False, "relu"),
    "gated-gelu": (True, "gelu_tanh"),
    "gated-gelu_new": (True, "gelu_tanh"),
    "gated-silu": (True, "silu"),
    "gated-relu": (True, "relu"),
    "gelu": (False, "gelu"),
    "gelu_new": (False, "gelu_tanh"),
    "silu": (False, "silu"),
}


def _read_t5(config: Json) -> Config:
    known(config, T5_MODELS)
    only(config, feed_forward_proj=tuple(T5_FFN), is_encoder_decoder=(True,))
    gated, bend = T5_FFN[config.get("feed_forward_proj") or "relu"]
    only(config, is_gated_act=(gated,), dense_act_fn=tuple(their for their in ACTS if ACTS[their] == bend))
    width, heads = size(config, "d_model"), size(config, "num_heads")
    layers = size(config, "num_layers")
    tied = yes(config, "tie_word_embeddings", True)
    tower = Config(
        vocab=size(config, "vocab_size"),
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head=size(config, "d_kv"),
        ffn=size(config, "d_ff"),
        context=size(config, "n_positions", default=512),
        norm="rms",
        eps=number(config, "layer_norm_epsilon", 1e-6),
        act=bend,
        gated=gated,
        relative=Relative(
            buckets=size(config, "relative_attention_num_buckets", default=32),
            distance=size(config, "relative_attention_max_distance", default=128),
        ),
        tied=tied,
        # before transformers 5, tied meant scaled
        scale_logits=width**-0.5 if yes(config, "scale_decoder_outputs", tied) else 1.0,
        attn_scale=1.0,
        dropout=rate(config, "dropout_rate", 0.1),
    )
    decoder_layers = size(config, "num_decoder_layers", default=layers)
    return replace(tower, layers=decoder_layers, encoder=replace(tower, causal=False))


def _write_t5(cfg: Config) -> dict[str, Any]:
    relative = cfg.relative or Relative()
    return {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "is_encoder_decoder": True,
        "vocab_size": cfg.vocab,
        "d_model": cfg.width,
        "d_kv": cfg.head,
        "d_ff": cfg.ffn,
        "num_layers": (cfg.encoder or cfg).layers,
        "num_decoder_layers": cfg.layers,
        "num_heads": cfg.heads,
        "n_positions": cfg.context,
        "relative_attention_num_buckets": relative.buckets,
        "relative_attention_max_distance": relative.distance,
        "layer_norm_epsilon": cfg.eps,
        "feed_forward_proj": key_of(T5_FFN, (cfg.gated, cfg.act)),
        "is_gated_act": cfg.gated,
        "dense_act_fn": key_of(ACTS, cfg.act),
        "tie_word_embeddings": cfg.tied,
        "scale_decoder_outputs": cfg.scale_logits != 1.0,
        "dropout_rate": cfg.dropout,
    }


def _t5_tower(ours: str, theirs: str, ffn: int) -> tuple[Name, ...]:
    """The names in one of T5's two towers, whose feed-forward is the `ffn`-th part of a block."""
    block, layer = f"{ours}.blocks.{{}}", f"{theirs}.block.{{}}.layer"
    dense = f"{layer}.{ffn}.DenseReluDense"
    return (
        Name(f"{ours}.relative", (f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias",)),
        Name(f"{block}.attn_norm", (f"{layer}.0.layer_norm",)),
        *(Name(f"{block}.attn.{part}", (f"{layer}.0.SelfAttention.{part}",)) for part in "qkvo"),
        Name(f"{block}.ffn_norm", (f"{layer}.{ffn}.layer_norm",)),
        Name(f"{block}.ffn.gate", (f"{dense}.wi_0",), gated=True),
        Name(f"{block}.ffn.up", (f"{dense}.wi_1",), gated=True),
        Name(f"{block}.ffn.up", (f"{dense}.wi",), gated=False),
        Name(f"{block}.ffn.down", (f"{dense}.wo",)),
        Name(f"{ours}.norm", (f"{theirs}.final_layer_norm",)),
    )


T5 = Family(
    "t5",
    T5_MODELS,
    _read_t5,
    _write_t5,
    names=(
        Name("embed.tokens", ("shared",)),
        *_t5_tower("encoder", "encoder", ffn=1),
        *_t5_tower("stack", "decoder", ffn=2),
        Name("stack.blocks.{}.cross_norm", ("decoder.block.{}.layer.1.layer_norm",)),
        *(Name(f"stack.blocks.{{}}.cross.{p}", (f"decoder.block.{{}}.layer.1.EncDecAttention.{p}",)) for p in "qkvo"),
        Name("head.proj", ("lm_head",)),
    ),
    copies=(
        ("encoder.embed_tokens.weight", "shared.weight"),
        ("decoder.embed_tokens.weight", "shared.weight"),
    ),
    # files of the first release carry a bias of the cross-attention that was never used
    aside=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
)


# -- BART: LayerNorm after, learned positions from row 2 on, and in each tower a norm on its own embedding ---


BART_MODELS = ("BartForConditionalGeneration", "BartModel")
OFFSET = 2  # rows of the positions' table before the first position, which fairseq kept for padding
EPS = 1e-5  # of every norm: no config says it


def _read_bart(config: Json) -> Config:
    known(config, BART_MODELS)
    only(config, add_bias_logits=(False,), static_position_embeddings=(False,))
    return _read_towers(config, {"learned": True, "offset": OFFSET, "embed_norm": True})


def _read_towers(config: Json, ends: dict[str, Any]) -> Config:
    """What BART and Marian have in common, and the two ends in which they differ."""
    only(
        config, normalize_before=(False,), normalize_embedding=(bool(ends.get("embed_norm")),),
        add_final_layer_norm=(False,), is_decoder=(False,), is_encoder_decoder=(True,),
    )  # fmt: skip
    width = size(config, "d_model")
    scaled = yes(config, "scale_embedding", False)
    heads = size(config, "decoder_attention_heads")
    decoder = Config(
        vocab=size(config, "vocab_size"),
        width=width,
        layers=size(config, "decoder_layers"),
        heads=heads,
        kv_heads=heads,
        head=head_width(config, width, heads),
        ffn=size(config, "decoder_ffn_dim"),
        context=size(config, "max_position_embeddings"),
        pre_norm=False,
        norm="layer",
        eps=EPS,
        final_norm=False,
        act=activation(config, "activation_function", "gelu"),
        gated=False,
        attn_bias=True,
        ffn_bias=True,
        embed_scale=width**0.5 if scaled else 1.0,
        tied=yes(config, "tie_word_embeddings", True),
        dropout=rate(config, "dropout", 0.1),
        **ends,
    )
    heads = size(config, "encoder_attention_heads")
    encoder = replace(
        decoder,
        causal=False,
        layers=size(config, "encoder_layers"),
        heads=heads,
        kv_heads=heads,
        head=head_width(config, width, heads),
        ffn=size(config, "encoder_ffn_dim"),
    )
    return replace(decoder, encoder=encoder)


def _write_bart(cfg: Config) -> dict[str, Any]:
    encoder = cfg.encoder or cfg
    return {
        "model_type": "bart",
        "architectures": ["BartForConditionalGeneration"],
        "is_encoder_decoder": True,
        "vocab_size": cfg.vocab,
        "d_model": cfg.width,
        "encoder_layers": encoder.layers,
        "decoder_layers": cfg.layers,
        "encoder_attention_heads": encoder.heads,
        "decoder_attention_heads": cfg.heads,
        "encoder_ffn_dim": encoder.ffn,
        "decoder_ffn_dim": cfg.ffn,
        "max_position_embeddings": cfg.context,
        "activation_function": key_of(ACTS, cfg.act),
        "scale_embedding": cfg.embed_scale != 1.0,
        "tie_word_embeddings": cfg.tied,
        "dropout": cfg.dropout,
        "attention_dropout": cfg.dropout,
        "activation_dropout": cfg.dropout,
    }


def _bart_tower(ours: str, theirs: str) -> tuple[Name, ...]:
    """The names of the blocks of one of the two towers."""
    block, layer = f"{ours}.blocks.{{}}", f"{theirs}.layers.{{}}"
    return (
        *_bart_attention(f"{block}.attn", f"{layer}.self_attn"),
        Name(f"{block}.ffn.up", (f"{layer}.fc1",)),
        Name(f"{block}.ffn.down", (f"{layer}.fc2",)),
        Name(f"{block}.ffn_norm", (f"{layer}.final_layer_norm",)),
    )


def _bart_attention(ours: str, theirs: str) -> tuple[Name, ...]:
    return (
        *(Name(f"{ours}.{part}", (f"{theirs}.{part}_proj",)) for part in "qkv"),
        Name(f"{ours}.o", (f"{theirs}.out_proj",)),
        Name(f"{ours}_norm", (f"{theirs}_layer_norm",)),
    )


BART = Family(
    "bart",
    BART_MODELS,
    _read_bart,
    _write_bart,
    names=(
        Name("embed.tokens", ("model.shared",)),
        Name("embed.positions", ("model.decoder.embed_positions",)),
        Name("embed.norm", ("model.decoder.layernorm_embedding",)),
        Name("source.positions", ("model.encoder.embed_positions",)),
        Name("source.norm", ("model.encoder.layernorm_embedding",)),
        *_bart_tower("encoder", "model.encoder"),
        *_bart_tower("stack", "model.decoder"),
        *_bart_attention("stack.blocks.{}.cross", "model.decoder.layers.{}.encoder_attn"),
        Name("head.proj", ("lm_head",)),
    ),
    older=((r"^(?=(shared|encoder|decoder)\.)", "model."),),
    copies=(
        ("model.encoder.embed_tokens.weight", "model.shared.weight"),
        ("model.decoder.embed_tokens.weight", "model.shared.weight"),
    ),
    zeros=("final_logits_bias",),
)


# -- Marian: BART's blocks, positions as sines, no norm on the embedding, a bias on the logits -----------------


MARIAN_MODELS = ("MarianMTModel",)


def _read_marian(config: Json) -> Config:
    known(config, MARIAN_MODELS)
    only(
        config, share_encoder_decoder_embeddings=(True,), static_position_embeddings=(True,),
        decoder_vocab_size=(size(config, "vocab_size"),),
    )  # fmt: skip
    return _read_towers(config, {"sinusoidal": True, "head_bias": True})


def _write_marian(cfg: Config) -> dict[str, Any]:
    return _write_bart(cfg) | {
        "model_type": "marian",
        "architectures": ["MarianMTModel"],
        "static_position_embeddings": True,
    }


MARIAN = Family(
    "marian",
    MARIAN_MODELS,
    _read_marian,
    _write_marian,
    names=(
        Name("embed.tokens", ("model.shared",)),
        *_bart_tower("encoder", "model.encoder"),
        *_bart_tower("stack", "model.decoder"),
        *_bart_attention("stack.blocks.{}.cross", "model.decoder.layers.{}.encoder_attn"),
        Name("head.proj.bias", ("final_logits_bias",), row=True),
        Name("head.proj", ("lm_head",)),
    ),
    buffers=(r"model\.(encoder|decoder)\.embed_positions\.weight",),
    copies=BART.copies,
    unsaid={"pad_token_id": 0},  # what transformers takes lies beyond a small vocabulary
)
