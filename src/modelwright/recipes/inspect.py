"""`modelwright inspect MODEL`: what a model is made of, and what it looks at, knows of words, and may say next.

    without a question: shape, parameters, memory and FLOPs, from config.json alone; no weights are read
    --attention TEXT -o FILE: what each head looks at, as a picture
    --nearest WORD: neighbours in the embedding, of "king - man + woman" too
    --explain PROMPT: the next token's candidates, before and after each sampling rule; of an encoder the masks'

Left out: what a layer does between attention and output (probes, saliency, a lens on the logits).
"""

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from modelwright.adapt.open import Shape, open_model, shape
from modelwright.infer.sample import settings
from modelwright.infer.text import LanguageModel
from modelwright.model.families import family_of_model
from modelwright.model.presets import PRESETS
from modelwright.recipes import anatomy, attended, candidates, heatmap, neighbours
from modelwright.recipes.flags import parse

DRAWS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")


@dataclass(frozen=True)
class Inspect:
    """Look into a model: its shape and what it costs; or, asked so, its attention, its words, its next token."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A model's or an adapter's directory, a model's name on the hub, or a preset's name, which has a shape alone."""
    attention: str | None = None
    """Draw what each head looks at while the model reads this text."""
    target: str | None = None
    """What an encoder-decoder answers to that text; unless said, its greedy answer."""
    layers: str | None = None
    """The layers to draw, such as 0,3; all of up to 12, or 12 that are spread evenly."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=("-o",))] = None
    """The picture's file: .png, .svg or .pdf."""
    nearest: str | None = None
    """A word, or a sum such as "king - man + woman": the tokens nearest to it in the embedding, by cosine."""
    explain: str | None = None
    """The candidates for the next token after this prompt, and what each sampling rule makes of them."""
    max_new: int = 1
    """Tokens to write and explain."""
    temperature: float | None = None
    """As in generate; unless said, as the model's generation_config.json says, or greedy."""
    top_k: int | None = None
    """As in generate."""
    top_p: float | None = None
    """As in generate."""
    min_p: float | None = None
    """As in generate."""
    repetition_penalty: float | None = None
    """As in generate."""
    seed: int | None = None
    """The same seed draws the same tokens again."""
    top: int = 10
    """Neighbours or candidates to show."""
    json: bool = False
    """All of it as one JSON object; attention as numbers too where no file is named."""


def main(args: list[str]) -> int:
    o = parse(Inspect, args, "modelwright inspect")
    refuse(o)
    told = answers(o)
    if o.json:
        print(json.dumps(told, ensure_ascii=False))
        return 0
    screen = Console(highlight=False, soft_wrap=True)
    for question, said in told.items():
        SHOW[question](screen, said)
    return 0


def answers(o: Inspect) -> dict[str, Any]:
    """What was asked, each by its name."""
    if o.attention is None and o.nearest is None and o.explain is None:
        return {"anatomy": anatomy.tell(o.model, shape_of(o.model))}
    lm, told = opened(o.model), dict[str, Any]()
    if o.attention is not None:
        told["attention"] = attended.tell(lm, o.model, o.attention, o.target, o.layers, o.output)
    if o.nearest is not None:
        told["nearest"] = neighbours.tell(lm, o.nearest, o.top)
    if o.explain is not None:
        told["explain"] = explain(lm, o, o.explain)
    return told


SHOW: dict[str, Callable[[Console, dict[str, Any]], None]] = {
    "anatomy": anatomy.show,
    "attention": attended.show,
    "nearest": neighbours.show,
    "explain": candidates.show,
}


def refuse(o: Inspect) -> None:
    """Before anything is opened. Raises ValueError for flags that do not go together."""
    lone = [name for name in ("target", "layers", "output") if getattr(o, name) is not None]
    if lone and o.attention is None:
        raise ValueError(f"--{lone[0]} is of a picture: say --attention TEXT too, or leave it out")
    lone = [name for name in DRAWS if getattr(o, name) is not None] + ["max_new"] * (o.max_new != 1)
    if lone and o.explain is None:
        raise ValueError(
            f"--{lone[0].replace('_', '-')} is of the next token: say --explain PROMPT too, or leave it out"
        )
    if o.top < 1:
        raise ValueError(f"--top must be at least 1, not {o.top}")
    if o.output is not None:
        heatmap.check(o.output)
    elif o.attention is not None and not o.json:
        raise ValueError("--attention draws a picture: name its file, as in -o heads.png, or ask for numbers by --json")


def shape_of(name: str) -> Shape:
    """The shape of what lies in a directory, of a preset, or of a model on the hub. No weights are read."""
    if name not in PRESETS or Path(name).is_dir():
        return shape(name)
    preset = PRESETS[name]
    try:
        family = family_of_model(preset.config).model_type
    except ValueError:
        family = "none that is known"
    return Shape(preset.config, family, source=f"{preset.source}; published: {preset.published:,.0f} parameters")


def opened(name: str) -> LanguageModel:
    try:
        return open_model(name)
    except FileNotFoundError:
        if name not in PRESETS:
            raise
        raise ValueError(
            f"{name} is a preset, a shape without weights or words, and no model on the hub is called so: name one"
        ) from None


def explain(lm: LanguageModel, o: Inspect, prompt: str) -> dict[str, Any]:
    """Drawn as `modelwright generate` would; the seed is drawn here, so that it can be told."""
    said = {name: getattr(o, name) for name in DRAWS if getattr(o, name) is not None}
    if lm.model.cfg.shape == "encoder":
        if lone := [*said, *["max_new"] * (o.max_new != 1)]:
            raise ValueError(f"--{lone[0].replace('_', '-')} is of models that write on: an encoder only fills masks")
        return candidates.tell_masks(lm, prompt, o.top)
    asked = settings(lm.generation, max_new=o.max_new, n=1, **said)
    asked = replace(asked, seed=secrets.randbits(31)) if asked.seed is None else asked
    return candidates.tell(lm, prompt, asked, o.top)
