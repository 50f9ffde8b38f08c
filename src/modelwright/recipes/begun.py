"""The model that a pretraining goes on from (`--init`), and what of it a stopped run needs to go on itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelwright.adapt.open import method, open_model
from modelwright.data.pack import Objective
from modelwright.hub.open import GENERATION, LanguageModel
from modelwright.model.checkpoint import read_json, write_json
from modelwright.recipes.options import Pretrain

SHAPES: dict[Objective, str] = {"causal": "decoder", "masked": "encoder", "span": "encoder-decoder",
                                "denoise": "encoder-decoder"}  # fmt: skip
OBJECTIVES = {"decoder": "causal", "encoder": "masked", "encoder-decoder": "span or denoise"}


def begin(args: Pretrain) -> LanguageModel | None:
    """The model to go on from, if one is named. Raises ValueError where it is none to pretrain by the objective."""
    if args.init is None:
        return None
    lm = open_model(args.init)
    cfg = lm.model.cfg
    if method(lm):
        raise ValueError(
            f"{args.init} is an adapter: merge it first (modelwright merge), and go on from what that makes"
        )
    if cfg.shape != SHAPES[args.objective] or cfg.labels:
        found = f"{cfg.shape} that answers with labels" if cfg.labels else cfg.shape
        fits = "name another model" if cfg.labels else f"say --objective {OBJECTIVES[cfg.shape]}"
        raise ValueError(f"--objective {args.objective} trains no {found}, and --init {args.init} is one: {fits}")
    if args.context is not None and args.context > cfg.context:
        raise ValueError(f"--context {args.context} is more than the {cfg.context} tokens that {args.init} reads")
    return lm


def keep(lm: LanguageModel, directory: Path) -> None:
    """Its tokenizer and generation settings beside the run, which then no longer needs the model."""
    directory.mkdir(parents=True, exist_ok=True)
    lm.tokenizer.save(directory)
    write_json(directory / GENERATION, dict(lm.generation))


def kept_generation(directory: Path) -> dict[str, Any] | None:
    return read_json(directory / GENERATION) if (directory / GENERATION).exists() else None
