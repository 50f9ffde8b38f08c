"""A candidate's model once it is opened: what it is, and which rungs can be tried on it."""

from __future__ import annotations

from typing import NamedTuple

from modelwright.adapt.open import HABITS, digest, open_model
from modelwright.data.kind import ENCODED, Task
from modelwright.data.prompt import Prompter
from modelwright.hub.open import LanguageModel
from modelwright.model.transformer import Config
from modelwright.project.ladder import rung_of
from modelwright.project.steps import Asked, crowded
from modelwright.recipes.evaluate import check_contract, prompter_of


class Opened(NamedTuple):
    """Where a model is, what it is, and how it is asked."""

    path: str
    digest: str
    config: Config
    prompter: Prompter | None = None  # None where it cannot be asked
    mute: str = ""  # why


def opened(candidate: str, path: str, task: Task) -> Opened:
    """The candidate that lies at `path`. Raises OSError or ValueError where none does."""
    lm = open_model(path)
    assert lm.path is not None
    return Opened(str(lm.path), digest(lm.path, HABITS), lm.model.cfg, *speaking(candidate, lm, task))


def speaking(candidate: str, lm: LanguageModel, task: Task) -> tuple[Prompter | None, str]:
    """What makes a model's prompts of the task; or None, and why it cannot be asked."""
    try:
        check_contract(candidate, lm, task)
    except ValueError:
        return None, "it was trained with other prompts than this task's"
    try:
        return prompter_of(task, lm), ""
    except ValueError as error:
        return None, str(error)


def unfit(found: Opened, rung: str, asked: Asked) -> str:
    """Why a rung cannot be tried on a model, or nothing."""
    encoder, kind = found.config.shape == "encoder", asked.task.kind
    if kind == "tag" and not encoder:
        return "tagging needs an encoder"
    if kind not in ENCODED and encoder:
        return f"an encoder writes no text, and cannot {kind}"
    return "" if rung_of(rung).method else unasked(found, rung, asked)


def unasked(found: Opened, rung: str, asked: Asked) -> str:
    """Why a model cannot be asked as it is, or not in this way."""
    if found.config.shape == "encoder" and (found.config.labels is None or rung_of(rung).shots != "none"):
        return "an encoder reads no examples: it answers by a head of its own, which training gives it"
    return found.mute if found.prompter is None else crowded(found.prompter, asked)
