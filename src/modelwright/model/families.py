"""Families of published checkpoints, as data: how each spells its configuration and names its tensors.

A family is a row of `FAMILIES`: `read` turns a `config.json` into a `Config`, `write` turns it back, `names` pairs our
parameters with their tensors. Nothing else in the project knows a family: a model keeps no name of one, and the family
that a model is saved as is the one whose `read(write(cfg))` gives the same config back.

A setting that would change what a model computes and that the Transformer does not have is refused, never ignored.
Dropout does not, outside training: the Transformer has one rate, and of GPT-2's three and BERT's two the one after a
layer's output is read. Llama's, which is of the attention alone, becomes the rate of every layer.
"""

from dataclasses import fields, replace

from modelwright.model.config import Config
from modelwright.model.decoder_families import BLOOM, GEMMA3, GPT2, LLAMA, MISTRAL, QWEN2, QWEN3
from modelwright.model.encoder_families import BERT, DISTILBERT, ROBERTA, XLM_ROBERTA
from modelwright.model.family import Family, Json
from modelwright.model.recurrent_families import LSTM
from modelwright.model.seq2seq_families import BART, MARIAN, T5
from modelwright.model.sparse_families import MIXTRAL, OWN, SWITCH

DECODERS = (GPT2, BLOOM, LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA3)
ENCODERS = (BERT, ROBERTA, XLM_ROBERTA, DISTILBERT)
OTHERS = (T5, BART, MARIAN, SWITCH, MIXTRAL, OWN, LSTM)
FAMILIES: dict[str, Family] = {family.model_type: family for family in (*DECODERS, *ENCODERS, *OTHERS)}
NEAR = {"gemma3": "it reads images too, which the Transformer does not: take a text-only one, of gemma3_text"}


def family_of_config(config: Json) -> Family:
    """The family that a config.json names by its `model_type`; ValueError, with those we know, where it is no other."""
    kind = str(config.get("model_type"))
    if kind in NEAR:
        raise ValueError(f"config.json: model_type {kind!r} is not supported: {NEAR[kind]}")
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
    """The fields of `cfg` that do not come back from being written and read; the encoder if nothing else is lost."""
    names = [field.name for field in fields(Config)]
    cfg = _meant(cfg)
    try:
        back = _meant(family.read(family.write(cfg)))
    except ValueError:
        return names
    lost = [name for name in names if getattr(back, name) != getattr(cfg, name)]
    return [name for name in lost if name != "encoder"] or lost  # which has the same, at length


def _meant(cfg: Config) -> Config:
    """`cfg` with what its encoder does not use set as the decoder's: the two ends are shared."""
    if cfg.encoder is None:
        return cfg
    ends = ["vocab", "tied", "scale_logits", "head_transform", "head_bias"]
    ends += [] if cfg.encoder.learned else ["context"]
    return replace(cfg, encoder=replace(cfg.encoder, **{end: getattr(cfg, end) for end in ends}))
