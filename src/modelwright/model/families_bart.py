"""BART (Lewis et al. 2019): an encoder-decoder that rewrites what it reads, as its checkpoints spell it."""

from dataclasses import replace
from typing import Any

from modelwright.model.family import (
    ACTS,
    Family,
    Json,
    Name,
    activation,
    head_width,
    key_of,
    known,
    only,
    rate,
    size,
    yes,
)
from modelwright.model.transformer import Config

# -- BART: LayerNorm after, learned positions from row 2 on, and in each tower a norm on its own embedding ---


BART_MODELS = ("BartForConditionalGeneration", "BartModel")
OFFSET = 2  # rows of the positions' table before the first position, which fairseq kept for padding
EPS = 1e-5  # of every norm: no config says it


def _read_bart(config: Json) -> Config:
    known(config, BART_MODELS)
    only(
        config, normalize_before=(False,), normalize_embedding=(True,), add_final_layer_norm=(False,),
        add_bias_logits=(False,), static_position_embeddings=(False,), is_decoder=(False,), is_encoder_decoder=(True,),
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
        learned=True,
        offset=OFFSET,
        embed_scale=width**0.5 if scaled else 1.0,
        embed_norm=True,
        tied=yes(config, "tie_word_embeddings", True),
        dropout=rate(config, "dropout", 0.1),
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


def _tower(ours: str, theirs: str) -> tuple[Name, ...]:
    """The names of the blocks of one of the two towers."""
    block, layer = f"{ours}.blocks.{{}}", f"{theirs}.layers.{{}}"
    return (
        *_attention(f"{block}.attn", f"{layer}.self_attn"),
        Name(f"{block}.ffn.up", (f"{layer}.fc1",)),
        Name(f"{block}.ffn.down", (f"{layer}.fc2",)),
        Name(f"{block}.ffn_norm", (f"{layer}.final_layer_norm",)),
    )


def _attention(ours: str, theirs: str) -> tuple[Name, ...]:
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
        Name("encoder.embed.positions", ("model.encoder.embed_positions",)),
        Name("encoder.embed.norm", ("model.encoder.layernorm_embedding",)),
        *_tower("encoder", "model.encoder"),
        *_tower("stack", "model.decoder"),
        *_attention("stack.blocks.{}.cross", "model.decoder.layers.{}.encoder_attn"),
        Name("head.proj", ("lm_head",)),
    ),
    older=((r"^(?=(shared|encoder|decoder)\.)", "model."),),
    copies=(
        ("model.encoder.embed_tokens.weight", "model.shared.weight"),
        ("model.decoder.embed_tokens.weight", "model.shared.weight"),
    ),
    zeros=("final_logits_bias",),
)
