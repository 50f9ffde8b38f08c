"""Families of published checkpoints, as data: how each spells its configuration and names its tensors.

A family is a row of `FAMILIES`: `read` turns a `config.json` into a `Config`, `write` turns it back, `names` pairs our
parameters with their tensors. Nothing else in the project knows a family: a model keeps no name of one, and the family
that a model is saved as is the one whose `read(write(cfg))` gives the same config back.

A setting that would change what a model computes and that the Transformer does not have is refused, never ignored.
Dropout does not, outside training: the Transformer has one rate, and of GPT-2's three and BERT's two the one after a
layer's output is read. Llama's, which is of the attention alone, becomes the rate of every layer.

Sources: GPT-2 (Radford et al. 2019), Llama (Touvron et al. 2023; Dubey et al. 2024), BERT (Devlin et al. 2019),
T5 (Raffel et al. 2020; v1.1: Shazeer 2020).
"""

from dataclasses import fields, replace
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
    number,
    only,
    positive,
    rate,
    settings,
    size,
    unsupported,
    yes,
)
from modelwright.model.heads import SPAN
from modelwright.model.transformer import Config, Labels, Relative, Rope, RopeScaling

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


# -- BERT: an encoder, LayerNorm after, token types, a head that transforms first, or one for labels ---------


BERT_LABELLED: dict[str, Any] = {
    "BertForSequenceClassification": "text",
    "BertForTokenClassification": "token",
    "BertForQuestionAnswering": "span",
}
BERT_MODELS = ("BertForMaskedLM", "BertForPreTraining", "BertModel", *BERT_LABELLED)


def _read_labels(config: Json) -> Labels | None:
    """The labels of a model that has them: `id2label`, or LABEL_0, LABEL_1, ... where they are only counted.

    Of a span's two ends nothing is said: what `id2label` holds beside them means nothing.
    """
    each = next((BERT_LABELLED[a] for a in config.get("architectures") or () if a in BERT_LABELLED), None)
    if each is None or each == "span":
        return SPAN if each else None
    only(config, problem_type=(None, "single_label_classification"))
    named = settings(config, "id2label")
    count = len(named) if named else size(config, "num_labels", default=2)
    if count < 2:
        raise ValueError("config.json: a model of one label does regression; supported: labels of which one is right")
    names = [named.get(str(i), f"LABEL_{i}" if not named else None) for i in range(count)]
    if not all(isinstance(name, str) for name in names) or len(set(names)) < count:
        raise unsupported(config, "id2label", f"a name of its own for each number from 0 to {count - 1}")
    return Labels(tuple(map(str, names)), each)


def _write_labels(labels: Labels | None) -> dict[str, Any]:
    if labels is None or labels.each == "span":
        return {"architectures": [key_of(BERT_LABELLED, "span")]} if labels else {}
    return {
        "architectures": [key_of(BERT_LABELLED, labels.each)],
        "id2label": {str(i): name for i, name in enumerate(labels.names)},
        "label2id": {name: i for i, name in enumerate(labels.names)},
        "problem_type": "single_label_classification",
    }


def _read_bert(config: Json) -> Config:
    known(config, BERT_MODELS)
    only(config, position_embedding_type=("absolute",), is_decoder=(False,), add_cross_attention=(False,))
    width, heads = size(config, "hidden_size"), size(config, "num_attention_heads")
    bare = list(config.get("architectures") or ()) == ["BertModel"]  # without a head of its own
    labels = _read_labels(config)
    return Config(
        vocab=size(config, "vocab_size"),
        width=width,
        layers=size(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        head=head_width(config, width, heads),
        ffn=size(config, "intermediate_size"),
        context=size(config, "max_position_embeddings"),
        causal=False,
        pre_norm=False,
        norm="layer",
        eps=number(config, "layer_norm_eps", 1e-12),
        final_norm=False,
        act=activation(config, "hidden_act", "gelu"),
        gated=False,
        attn_bias=True,
        ffn_bias=True,
        learned=True,
        types=size(config, "type_vocab_size", default=2),
        embed_norm=True,
        tied=labels is None and (bare or yes(config, "tie_word_embeddings", True)),
        head_transform=labels is None and not bare,
        head_bias=not bare,
        dropout=rate(config, "hidden_dropout_prob", 0.1),
        labels=labels,
    )


def _write_bert(cfg: Config) -> dict[str, Any]:
    return {
        "model_type": "bert",
        "architectures": ["BertForMaskedLM" if cfg.head_transform else "BertModel"],
        "vocab_size": cfg.vocab,
        "hidden_size": cfg.width,
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "intermediate_size": cfg.ffn,
        "max_position_embeddings": cfg.context,
        "position_embedding_type": "absolute",
        "layer_norm_eps": cfg.eps,
        "hidden_act": key_of(ACTS, cfg.act),
        "type_vocab_size": cfg.types,
        "tie_word_embeddings": cfg.tied,
        "hidden_dropout_prob": cfg.dropout,
        "attention_probs_dropout_prob": cfg.dropout,
        **_write_labels(cfg.labels),
    }


BERT = Family(
    "bert",
    BERT_MODELS,
    _read_bert,
    _write_bert,
    names=(
        Name("embed.tokens", ("bert.embeddings.word_embeddings",)),
        Name("embed.positions", ("bert.embeddings.position_embeddings",)),
        Name("embed.types", ("bert.embeddings.token_type_embeddings",)),
        Name("embed.norm", ("bert.embeddings.LayerNorm",)),
        Name("stack.blocks.{}.attn.q", ("bert.encoder.layer.{}.attention.self.query",)),
        Name("stack.blocks.{}.attn.k", ("bert.encoder.layer.{}.attention.self.key",)),
        Name("stack.blocks.{}.attn.v", ("bert.encoder.layer.{}.attention.self.value",)),
        Name("stack.blocks.{}.attn.o", ("bert.encoder.layer.{}.attention.output.dense",)),
        Name("stack.blocks.{}.attn_norm", ("bert.encoder.layer.{}.attention.output.LayerNorm",)),
        Name("stack.blocks.{}.ffn.up", ("bert.encoder.layer.{}.intermediate.dense",)),
        Name("stack.blocks.{}.ffn.down", ("bert.encoder.layer.{}.output.dense",)),
        Name("stack.blocks.{}.ffn_norm", ("bert.encoder.layer.{}.output.LayerNorm",)),
        Name("head.transform", ("cls.predictions.transform.dense",)),
        Name("head.norm", ("cls.predictions.transform.LayerNorm",)),
        Name("head.proj.weight", ("cls.predictions.decoder.weight",), labelled=False),
        Name("head.proj.bias", ("cls.predictions.decoder.bias", "cls.predictions.bias"), labelled=False),
        Name("head.pooler", ("bert.pooler.dense",)),
        Name("head.proj", ("qa_outputs",), each="span"),
        Name("head.proj", ("classifier",), labelled=True),
    ),
    older=((r"\.gamma$", ".weight"), (r"\.beta$", ".bias"), (r"^(?=(embeddings|encoder|pooler)\.)", "bert.")),
    buffers=(r"bert\.embeddings\.(position_ids|token_type_ids)",),
    aside=(r"bert\.pooler\..*", r"cls\.seq_relationship\..*"),
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


FAMILIES: dict[str, Family] = {family.model_type: family for family in (GPT2, LLAMA, BERT, T5)}


def family_of_config(config: Json) -> Family:
    """The family that a config.json names by its `model_type`; ValueError, with those we know, where it is no other."""
    kind = str(config.get("model_type"))
    if kind not in FAMILIES:
        raise ValueError(f"config.json: model_type {kind!r} is of no known family; known: {', '.join(FAMILIES)}")
    return FAMILIES[kind]


def family_of_model(cfg: Config) -> Family:
    """The family whose files can hold a model of this config; ValueError, with the nearest, where there is none."""
    lost = {name: _lost(family, cfg) for name, family in FAMILIES.items()}
    nearest = min(lost, key=lambda name: len(lost[name]))
    if lost[nearest]:
        raise ValueError(
            f"no known checkpoint format holds this model: the nearest, {nearest}, has no words for its "
            + ", ".join(f"{field} = {getattr(cfg, field)!r}" for field in lost[nearest])
        )
    return FAMILIES[nearest]


def _lost(family: Family, cfg: Config) -> list[str]:
    """The fields of `cfg` that do not come back from being written and read."""
    names = [field.name for field in fields(Config)]
    cfg = _meant(cfg)
    try:
        back = _meant(family.read(family.write(cfg)))
    except ValueError:
        return names
    return [name for name in names if getattr(back, name) != getattr(cfg, name)]


def _meant(cfg: Config) -> Config:
    """`cfg` with what its encoder does not use set as the decoder's: the two ends are shared."""
    if cfg.encoder is None:
        return cfg
    ends = ("vocab", "context", "learned", "types", "embed_norm", "tied", "scale_logits", "head_transform", "head_bias")
    return replace(cfg, encoder=replace(cfg.encoder, **{end: getattr(cfg, end) for end in ends}))
