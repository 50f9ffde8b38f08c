"""Encoder-only families, as data: see `families.py`.

Source: BERT (Devlin et al. 2019).
"""

from typing import Any

from modelwright.model.config import SPAN, Config, Labels
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
    settings,
    size,
    unsupported,
    yes,
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
