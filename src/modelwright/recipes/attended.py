"""What the heads of a model look at in a text, as grids to draw: `modelwright inspect --attention`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text
from torch import Tensor

from modelwright.infer.complete import complete
from modelwright.infer.text import LanguageModel, encode, encode_prompts, eos_ids, shown
from modelwright.model.look import look
from modelwright.recipes import heatmap
from modelwright.recipes.heatmap import Grid

LAYERS, HEADS, TOKENS = 12, 32, 256  # of a picture, at most
ANSWER = 24  # tokens of a greedy answer
HEADING = "how much of its attention each token (a row) gives to each other (a column)"


@dataclass(frozen=True)
class Source:
    """What an encoder reads: tokens (1, S), at 0..S-1, one document."""

    tokens: Tensor

    @property
    def pos(self) -> Tensor:
        return torch.arange(self.tokens.size(1))[None]

    @property
    def segment(self) -> Tensor:
        return torch.ones_like(self.tokens)


def tell(
    lm: LanguageModel, name: str, text: str, target: str | None, layers: str | None, output: Path | None
) -> dict[str, Any]:
    """The picture in its file; or, where none is named, its numbers."""
    cfg = lm.model.cfg
    if cfg.recurrent:
        raise ValueError("an LSTM has no attention to look at: ask --nearest or --explain of it")
    if target is not None and cfg.encoder is None:
        raise ValueError("--target is what an encoder-decoder answers, and this model has but one tower: leave it out")
    towers = [cfg, cfg.encoder] if cfg.encoder else [cfg]
    of = {"layers": max(tower.layers for tower in towers), "heads": max(tower.heads for tower in towers)}
    found = grids(lm, text, target, None if layers is None else numbers(layers, of["layers"]))
    if output is not None:
        heatmap.save(heatmap.draw(found, f"{name}: {HEADING}"), output)
    said = [vars(one) | {"weights": None if output else one.weights.tolist()} for one in found]
    return {"file": output and str(output), "of": of, "asked": layers, "grids": said}


def show(screen: Console, told: dict[str, Any]) -> None:
    there = told["of"]["layers"]
    for grid in told["grids"]:
        line = f"{told['file']}: {grid['name']}, {len(grid['queries'])} tokens"
        if told["asked"] is None and there > LAYERS:
            line += f"; {len(grid['layers'])} layers, spread evenly over {there} (--layers names others)"
        screen.print(Text(line))
    if told["of"]["heads"] > HEADS:
        screen.print(Text(f"the first {HEADS} of {told['of']['heads']} heads are drawn"))


def numbers(layers: str, there: int) -> list[int]:
    """Raises ValueError for what is no list of whole numbers, and for a layer that is not there."""
    if not re.fullmatch(r" *\d+ *(, *\d+ *)*", layers):
        raise ValueError(f"--layers takes numbers from 0 with commas between them, as in 0,3; not {layers!r}")
    found = list(dict.fromkeys(map(int, layers.split(","))))
    if max(found) >= there:
        raise ValueError(f"there is no layer {max(found)}: this model's are 0 to {there - 1}")
    return found


def grids(lm: LanguageModel, text: str, target: str | None, layers: Sequence[int] | None) -> list[Grid]:
    """One grid of a model with one tower; of an encoder-decoder three.

    target: an encoder-decoder's answer; without one the greedy answer. layers: those to show, of each tower; without
    them all, or `LAYERS` that are spread evenly. Raises ValueError for a text that is empty or too long.
    """
    if not text.strip():
        raise ValueError("the text is empty: say something to look at")
    ids, source = tokens(lm, text, target)
    for row in (ids, source or ids):
        checked(lm, row)
    found = look(lm.model, torch.tensor([ids]), None if source is None else Source(torch.tensor([source])))
    own, read = ([shown(lm.tokenizer, token) for token in row] for row in (ids, source or []))
    if source is None:
        return [grid("self-attention", own, own, found.own, layers)]
    asked = [
        ("encoder: self-attention over the source", read, read, found.encoder),
        ("decoder: self-attention over the answer", own, own, found.own),
        ("decoder: cross-attention, the answer at the source", own, read, found.cross),
    ]  # of two towers one may have none of the layers that were named
    return [grid(*one, layers) for one in asked if chosen(len(one[-1]), layers)]


def grid(
    name: str, queries: Sequence[str], keys: Sequence[str], weights: Sequence[Tensor], layers: Sequence[int] | None
) -> Grid:
    kept = chosen(len(weights), layers)
    return Grid(name, queries, keys, kept, torch.stack([weights[at][0, :HEADS] for at in kept]))


def chosen(there: int, asked: Sequence[int] | None) -> list[int]:
    """The layers to show; of an encoder-decoder's two towers one may have fewer than was asked for."""
    if asked is not None:
        return [layer for layer in asked if layer < there]
    if there <= LAYERS:
        return [*range(there)]
    return [round(i * (there - 1) / (LAYERS - 1)) for i in range(LAYERS)]


def tokens(lm: LanguageModel, text: str, target: str | None) -> tuple[list[int], list[int] | None]:
    """What the model reads: of one tower the text; of an encoder-decoder the answer, and the source."""
    cfg, words = lm.model.cfg, lm.tokenizer
    if cfg.encoder is None:
        known = words.sentinels if words.mask is None else (*words.sentinels, words.mask)
        return [*lm.model.embed.soft, *encode(words, text, known)], None
    encoded = encode_prompts(lm, [text])
    assert encoded.sources is not None
    if target is None:
        said = complete(lm, [text], max_new=ANSWER, temperature=0.0, n=1)[0].tokens
        said = [token for token in said if token not in eos_ids(lm)]
    else:
        said = [token for token in encode(words, target, words.sentinels) if token not in eos_ids(lm)]
    return [*encoded.prompts[0], *said], encoded.sources[0]


def checked(lm: LanguageModel, ids: Sequence[int]) -> None:
    cfg = lm.model.cfg
    most = TOKENS if cfg.unbounded else min(TOKENS, cfg.context)
    if len(ids) > most:
        why = "a picture's most" if most == TOKENS else "the model's context"
        raise ValueError(f"the text has {len(ids)} tokens, and {most} are {why}: shorten it")
