"""Our own family of LSTMs, as data: see `families.py`. No other library has one, so tensors bear our names."""

from typing import Any

from modelwright.model.config import Config
from modelwright.model.family import Family, Json, Name, known, rate, size, yes

LSTM_MODELS = ("ModelwrightLSTM",)


def _read_lstm(config: Json) -> Config:
    known(config, LSTM_MODELS)
    return lstm(
        size(config, "vocab_size"), size(config, "hidden_size"), size(config, "num_hidden_layers"),
        size(config, "max_position_embeddings"), tied=yes(config, "tie_word_embeddings", True),
        dropout=rate(config, "dropout", 0.0),
    )  # fmt: skip


def _write_lstm(cfg: Config) -> dict[str, Any]:
    return {
        "model_type": "modelwright-lstm",
        "architectures": ["ModelwrightLSTM"],
        "vocab_size": cfg.vocab,
        "hidden_size": cfg.width,
        "num_hidden_layers": cfg.layers,
        "max_position_embeddings": cfg.context,
        "tie_word_embeddings": cfg.tied,
        "dropout": cfg.dropout,
    }


def lstm(vocab: int, width: int, layers: int, context: int, *, tied: bool = True, dropout: float = 0.0) -> Config:
    """An LSTM of these sizes: of a Transformer's parts it has the two ends alone. `context`: of its training rows.

    No norm stands before its layers, so embeddings as small as a tied head wants them would hardly open a gate: they
    are read sqrt(C) times as large (Vaswani et al. 2017, section 3.4).
    """
    return Config(
        vocab, width, layers, heads=1, kv_heads=1, head=width, ffn=0, context=context, final_norm=False, gated=False,
        recurrent=True, embed_scale=width**0.5, tied=tied, dropout=dropout,
    )  # fmt: skip


LSTM = Family(
    "modelwright-lstm",
    LSTM_MODELS,
    _read_lstm,
    _write_lstm,
    names=(
        Name("embed.tokens", ("embed.tokens",)),
        Name("stack.blocks.{}.input", ("layers.{}.input",)),
        Name("stack.blocks.{}.state", ("layers.{}.state",)),
        Name("head.proj", ("head",)),
    ),
)
