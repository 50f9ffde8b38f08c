"""What may come next, and what each sampling rule makes of it: `modelwright inspect --explain`.

The engine that writes tells it of each token, by the functions that it draws by; nothing is computed a second time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelwright.infer.engine import Engine, New, Request, room
from modelwright.infer.fill import fill_mask
from modelwright.infer.sample import NEVER, Likely, Sampling
from modelwright.infer.text import LanguageModel, banned, encode_prompts, eos_ids, shown

CUTS = ("top_k", "top_p", "min_p")  # rules that only leave candidates out; the others move probability


class Choice(NamedTuple):
    """A token that might have been written."""

    token: int
    text: str
    logit: float
    probability: float  # under the model itself
    after: dict[str, float]  # its probability after each rule that was asked for, in order
    kept: dict[str, bool]  # by each rule that cuts
    final: float  # what the draw was made from; of a greedy one, all for the token that is taken
    drawn: bool


class Step(NamedTuple):
    """One token that was written, and all that might have been, the likeliest first."""

    drawn: Choice
    choices: list[Choice]

    def left(self) -> int:
        """How many candidates the draw was made from."""
        return sum(one.final > 0 for one in self.choices)


def steps(lm: LanguageModel, prompt: str, asked: Sampling) -> Iterator[Step]:
    """Each token of a continuation as it is drawn. Raises what `generate` raises."""
    encoded = encode_prompts(lm, [prompt])
    ids, source = encoded.prompts[0], encoded.sources[0] if encoded.sources else None
    engine = Engine(lm.model, longest=len(ids) + room(lm.model.cfg, len(ids), asked.max_new), texts=1)
    never = dict.fromkeys(banned(lm), NEVER)
    request = Request(ids, asked, source, eos_ids(lm), bias=never, likely=lm.model.cfg.vocab)
    for new in engine.submit(request):
        choices = [choice(lm, one, new, asked) for one in new.likely]
        yield Step(next(one for one in choices if one.drawn), choices)


def choice(lm: LanguageModel, one: Likely, new: New, asked: Sampling) -> Choice:
    drawn, probability = one.token == new.token, math.exp(one.logprob)
    kept = {rule: one.after[rule] > 0 for rule in CUTS if rule in one.after}
    final = float(drawn) if asked.greedy else [probability, *one.after.values()][-1]
    return Choice(one.token, shown(lm.tokenizer, one.token), one.logit, probability, one.after, kept, final, drawn)


SETTINGS = {"temperature": None, "top_k": None, "top_p": None, "min_p": None, "repetition_penalty": 1.0}


def tell(lm: LanguageModel, prompt: str, asked: Sampling, top: int) -> dict[str, Any]:
    """A continuation, and of each of its tokens the `top` likeliest candidates and how many were left to draw from."""
    settings = {name: getattr(asked, name) for name, off in SETTINGS.items() if getattr(asked, name) != off}
    return {
        "prompt": prompt,
        "settings": settings | ({} if asked.greedy else {"seed": asked.seed}),
        "steps": [
            {
                "drawn": step.drawn._asdict(),
                "left": step.left(),
                "of": len(step.choices),
                "candidates": [one._asdict() for one in step.choices[:top]],
            }
            for step in steps(lm, prompt, asked)
        ],
    }


def tell_masks(lm: LanguageModel, text: str, top: int) -> dict[str, Any]:
    """Of an encoder: the likeliest tokens of each mask."""
    return {"prompt": text, "masks": [[vars(one) for one in mask] for mask in fill_mask(lm, text, top)]}


# -- as a table ---------------------------------------------------------------------------------------------


def show(screen: Console, told: dict[str, Any]) -> None:
    for number, mask in enumerate(told.get("masks", ()), 1):
        screen.print(Text(f"mask {number} of {len(told['masks'])}"))
        for one in mask:
            screen.print(Text(f"  {share(one['probability']):>7}  {one['text']}"))
    if "steps" in told:
        said = ", ".join(f"{name} {value}" for name, value in told["settings"].items())
        screen.print(Text(f"drawn by: {said}" if "seed" in told["settings"] else f"greedy, the likeliest: {said}"))
    for number, step in enumerate(told.get("steps", ()), 1):
        screen.print(Text(f"\ntoken {number}, of {step['left']:,} that may be drawn among {step['of']:,}"))
        rows = step["candidates"]
        beyond = [] if any(row["drawn"] for row in rows) else [step["drawn"]]
        screen.print(table([*rows, *beyond]))


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Candidates as rows, and a column for each rule that was asked for: the probability after it, or what it kept."""
    moved = [rule for rule in rows[0]["after"] if rule not in CUTS]
    found = Table(box=None, pad_edge=False, header_style="")
    found.add_column("candidate", no_wrap=True)
    for heading in ["logit", "model's", *moved, *rows[0]["kept"], "final", ""]:
        found.add_column(heading, justify="right")
    for row in rows:
        cells = [f"{row['logit']:.2f}", share(row["probability"]), *(share(row["after"][rule]) for rule in moved)]
        cells += ["kept" if kept else "-" for kept in row["kept"].values()]
        found.add_row(Text(row["text"]), *cells, share(row["final"]), "<-" if row["drawn"] else "")
    return found


def share(p: float) -> str:
    """A probability, to be read: 0 is 0 and not 0.00%."""
    return "0" if p == 0 else f"{p:.2%}" if p >= 5e-5 else f"{p:.0e}"
