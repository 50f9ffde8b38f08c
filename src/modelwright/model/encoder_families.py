"""Encoder-only families, as data: see `families.py`.

Sources: BERT (Devlin et al. 2019), RoBERTa (Liu et al. 2019), XLM-RoBERTa (Conneau et al. 2020), DistilBERT (Sanh et
al. 2019).
"""

from dataclasses import replace
from functools import partial
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

# -- what all of them have: a body as BERT's, and a head over the vocabulary, one for labels, or none ---------

BODY: dict[str, Any] = {
    "causal": False, "pre_norm": False, "norm": "layer", "final_norm": False, "gated": False, "attn_bias": True,
    "ffn_bias": True, "learned": True, "embed_norm": True,
}  # fmt: skip
LABELLED: dict[str, Any] = {
    "ForSequenceClassification": "text", "ForTokenClassification": "token", "ForQuestionAnswering": "span",
}  # fmt: skip


def _architectures(stem: str) -> tuple[str, ...]:
    return (f"{stem}ForMaskedLM", f"{stem}Model", *(stem + head for head in LABELLED))


def _read_ends(config: Json, stem: str) -> dict[str, Any]:
    """The fields of a Config that say which head it is."""
    bare = list(config.get("architectures") or ()) == [f"{stem}Model"]  # without a head of its own
    labels = _read_labels(config, stem)
    return {
        "tied": labels is None and (bare or yes(config, "tie_word_embeddings", True)),
        "head_transform": labels is None and not bare,
        "head_bias": not bare,
        "labels": labels,
    }


def _write_ends(cfg: Config, stem: str) -> dict[str, Any]:
    named = {
        "architectures": [stem + ("ForMaskedLM" if cfg.head_transform else "Model")],
        "tie_word_embeddings": cfg.tied,
    }
    return named | _write_labels(cfg.labels, stem)


def _read_labels(config: Json, stem: str) -> Labels | None:
    """The labels of a model that has them: `id2label`, or LABEL_0, LABEL_1, ... where they are only counted.

    Of a span's two ends nothing is said: what `id2label` holds beside them means nothing.
    """
    heads = (str(name).removeprefix(stem) for name in config.get("architectures") or ())
    each = next((LABELLED[head] for head in heads if head in LABELLED), None)
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


def _write_labels(labels: Labels | None, stem: str) -> dict[str, Any]:
    if labels is None or labels.each == "span":
        return {"architectures": [f"{stem}{key_of(LABELLED, 'span')}"]} if labels else {}
    return {
        "architectures": [f"{stem}{key_of(LABELLED, labels.each)}"],
        "id2label": {str(i): name for i, name in enumerate(labels.names)},
        "label2id": {name: i for i, name in enumerate(labels.names)},
        "problem_type": "single_label_classification",
    }


# -- BERT: an encoder, LayerNorm after, token types, a head that transforms first, or one for labels ---------

BERT_MODELS = (*_architectures("Bert"), "BertForPreTraining")


def _read_bert(config: Json, stem: str = "Bert", architectures: tuple[str, ...] = BERT_MODELS) -> Config:
    known(config, architectures)
    only(config, position_embedding_type=("absolute",), is_decoder=(False,), add_cross_attention=(False,))
    width, heads = size(config, "hidden_size"), size(config, "num_attention_heads")
    return Config(
        **BODY,
        vocab=size(config, "vocab_size"),
        width=width,
        layers=size(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        head=head_width(config, width, heads),
        ffn=size(config, "intermediate_size"),
        context=size(config, "max_position_embeddings"),
        eps=number(config, "layer_norm_eps", 1e-12),
        act=activation(config, "hidden_act", "gelu"),
        types=size(config, "type_vocab_size", default=2),
        dropout=rate(config, "hidden_dropout_prob", 0.1),
        **_read_ends(config, stem),
    )


def _write_bert(cfg: Config, stem: str = "Bert") -> dict[str, Any]:
    return {
        "model_type": "bert",
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
        "hidden_dropout_prob": cfg.dropout,
        "attention_probs_dropout_prob": cfg.dropout,
        **_write_ends(cfg, stem),
    }


def _bert_body(prefix: str) -> tuple[Name, ...]:
    """Where a body as BERT's stands: `prefix` is what its files call it."""
    embeddings, layer = f"{prefix}.embeddings", f"{prefix}.encoder.layer.{{}}"
    return (
        Name("embed.tokens", (f"{embeddings}.word_embeddings",)),
        Name("embed.positions", (f"{embeddings}.position_embeddings",)),
        Name("embed.types", (f"{embeddings}.token_type_embeddings",)),
        Name("embed.norm", (f"{embeddings}.LayerNorm",)),
        Name("stack.blocks.{}.attn.q", (f"{layer}.attention.self.query",)),
        Name("stack.blocks.{}.attn.k", (f"{layer}.attention.self.key",)),
        Name("stack.blocks.{}.attn.v", (f"{layer}.attention.self.value",)),
        Name("stack.blocks.{}.attn.o", (f"{layer}.attention.output.dense",)),
        Name("stack.blocks.{}.attn_norm", (f"{layer}.attention.output.LayerNorm",)),
        Name("stack.blocks.{}.ffn.up", (f"{layer}.intermediate.dense",)),
        Name("stack.blocks.{}.ffn.down", (f"{layer}.output.dense",)),
        Name("stack.blocks.{}.ffn_norm", (f"{layer}.output.LayerNorm",)),
    )


BERT = Family(
    "bert",
    BERT_MODELS,
    _read_bert,
    _write_bert,
    names=(
        *_bert_body("bert"),
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


# -- RoBERTa: BERT's body; its table of positions begins with rows that padding was given ----------------------


def _read_roberta(config: Json, stem: str) -> Config:
    """The first position's row is the one after the padding token's number, so the table is longer than the context."""
    cfg = _read_bert(config, stem, _architectures(stem))
    if cfg.head_transform:
        only(config, hidden_act=("gelu",))  # the head's own, whatever the body's is
    pad = 1 if config.get("pad_token_id") is None else config["pad_token_id"]
    if type(pad) is not int or not 0 <= pad < cfg.context - 1:
        below = "max_position_embeddings - 1, since positions begin behind it"
        raise unsupported(config, "pad_token_id", f"a whole number from 0, and below {below}")
    return replace(cfg, context=cfg.context - pad - 1, offset=pad + 1)


def _write_roberta(cfg: Config, kind: str, stem: str) -> dict[str, Any]:
    table = replace(cfg, context=cfg.context + cfg.offset)
    return _write_bert(table, stem) | {"model_type": kind, "pad_token_id": cfg.offset - 1}


def _roberta(kind: str, stem: str) -> Family:
    return Family(
        kind,
        _architectures(stem),
        partial(_read_roberta, stem=stem),
        partial(_write_roberta, kind=kind, stem=stem),
        names=(
            *_bert_body("roberta"),
            Name("head.transform", ("lm_head.dense",)),
            Name("head.norm", ("lm_head.layer_norm",)),
            Name("head.proj.weight", ("lm_head.decoder.weight",), labelled=False),
            Name("head.proj.bias", ("lm_head.decoder.bias", "lm_head.bias"), labelled=False),
            Name("head.pooler", ("classifier.dense",)),
            Name("head.proj", ("classifier.out_proj",), each="text"),
            Name("head.proj", ("classifier",), each="token"),
            Name("head.proj", ("qa_outputs",), each="span"),
        ),
        older=((r"^(?=(embeddings|encoder|pooler)\.)", "roberta."),),
        buffers=(r"roberta\.embeddings\.(position_ids|token_type_ids)",),
        aside=(r"roberta\.pooler\..*",),
    )


ROBERTA = _roberta("roberta", "Roberta")
XLM_ROBERTA = _roberta("xlm-roberta", "XLMRoberta")  # the same to the letter: what is read as it is saved as RoBERTa


# -- DistilBERT: BERT's body without token types, and a pooler that ends with a ReLU ---------------------------

DISTILBERT_MODELS = _architectures("DistilBert")


def _read_distilbert(config: Json) -> Config:
    """`sinusoidal_pos_embds` says what the table of positions began as: it is stored either way."""
    known(config, DISTILBERT_MODELS)
    width, heads = size(config, "dim"), size(config, "n_heads")
    return Config(
        **BODY,
        vocab=size(config, "vocab_size"),
        width=width,
        layers=size(config, "n_layers"),
        heads=heads,
        kv_heads=heads,
        head=head_width(config, width, heads),
        ffn=size(config, "hidden_dim"),
        context=size(config, "max_position_embeddings"),
        eps=1e-12,
        act=activation(config, "activation", "gelu"),
        dropout=rate(config, "dropout", 0.1),
        pooler_act="relu",
        **_read_ends(config, "DistilBert"),
    )


def _write_distilbert(cfg: Config) -> dict[str, Any]:
    return {
        "model_type": "distilbert",
        "vocab_size": cfg.vocab,
        "dim": cfg.width,
        "n_layers": cfg.layers,
        "n_heads": cfg.heads,
        "hidden_dim": cfg.ffn,
        "max_position_embeddings": cfg.context,
        "sinusoidal_pos_embds": False,
        "activation": key_of(ACTS, cfg.act),
        "dropout": cfg.dropout,
        "attention_dropout": cfg.dropout,
        "seq_classif_dropout": cfg.dropout,
        **_write_ends(cfg, "DistilBert"),
    }


DISTILBERT = Family(
    "distilbert",
    DISTILBERT_MODELS,
    _read_distilbert,
    _write_distilbert,
    names=(
        Name("embed.tokens", ("distilbert.embeddings.word_embeddings",)),
        Name("embed.positions", ("distilbert.embeddings.position_embeddings",)),
        Name("embed.norm", ("distilbert.embeddings.LayerNorm",)),
        Name("stack.blocks.{}.attn.q", ("distilbert.transformer.layer.{}.attention.q_lin",)),
        Name("stack.blocks.{}.attn.k", ("distilbert.transformer.layer.{}.attention.k_lin",)),
        Name("stack.blocks.{}.attn.v", ("distilbert.transformer.layer.{}.attention.v_lin",)),
        Name("stack.blocks.{}.attn.o", ("distilbert.transformer.layer.{}.attention.out_lin",)),
        Name("stack.blocks.{}.attn_norm", ("distilbert.transformer.layer.{}.sa_layer_norm",)),
        Name("stack.blocks.{}.ffn.up", ("distilbert.transformer.layer.{}.ffn.lin1",)),
        Name("stack.blocks.{}.ffn.down", ("distilbert.transformer.layer.{}.ffn.lin2",)),
        Name("stack.blocks.{}.ffn_norm", ("distilbert.transformer.layer.{}.output_layer_norm",)),
        Name("head.transform", ("vocab_transform",)),
        Name("head.norm", ("vocab_layer_norm",)),
        Name("head.proj", ("vocab_projector",), labelled=False),
        Name("head.pooler", ("pre_classifier",)),
        Name("head.proj", ("qa_outputs",), each="span"),
        Name("head.proj", ("classifier",), labelled=True),
    ),
    older=((r"^(?=(embeddings|transformer)\.)", "distilbert."),),
    buffers=(r"distilbert\.embeddings\.position_ids",),
)
