"""`modelwright chat MODEL`: a conversation with a decoder, line by line.

    1. open the model, an adapter with its base; 2. a line is a turn, or a command; 3. the conversation is rendered by
    the model's own chat template, its oldest turns left out where the context is full; 4. the answer is shown as it is
    written.

Left out: keeping what was read from one turn to the next, several lines in a turn, tools.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from modelwright.adapt.lora import merged_copy
from modelwright.adapt.open import open_model
from modelwright.adapt.prompt import soft_ids
from modelwright.data.chat import chat_template, conversation, encode_chat, encode_turn
from modelwright.data.pack import around
from modelwright.data.tokenizer import Tokenizer
from modelwright.hub.open import LanguageModel
from modelwright.infer.complete import Completion, written
from modelwright.infer.engine import room
from modelwright.infer.packed import prepare
from modelwright.infer.sample import Sampling, generators, settings
from modelwright.infer.text import Encoded
from modelwright.model.transformer import Transformer
from modelwright.recipes.flags import parse
from modelwright.recipes.watch import Screen

COMMANDS = "/reset forgets the conversation, /system TEXT says what the model is to be, /exit ends"
USER, ASSISTANT = "User:", "Assistant:"  # how turns begin without a chat template


@dataclass(frozen=True)
class Chat:
    """Talk with a model. /reset forgets the conversation, /system TEXT says what the model is to be, /exit ends."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A model's directory, an adapter's, or a name on the hub."""
    system: str = ""
    """What the model is told before the conversation."""
    plain: bool = False
    """Turns as "User: ... Assistant:", for a model without a chat template."""
    max_new: int = 256
    """Tokens of an answer at most."""
    temperature: float | None = None
    """Below 1 bolder on likely tokens, above 1 more even; 0 is greedy."""
    top_p: float | None = None
    """Draw among the fewest likeliest tokens that hold this probability together."""
    seed: int | None = None
    """The same seed and the same words draw the same answers again."""


def main(args: list[str]) -> int:
    o = parse(Chat, args, "modelwright chat")
    screen, lm = Screen(), open_model(o.model)
    check(o, lm)
    asked = settings(lm.generation, max_new=o.max_new, temperature=o.temperature, top_p=o.top_p, seed=o.seed)
    asked = replace(asked, seed=secrets.randbits(31)) if asked.seed is None else asked
    talk = Talk(lm.tokenizer, o.plain, o.system)
    model = prepare(merged_copy(lm.model))
    if sys.stdin.isatty():
        screen.say(COMMANDS)
    for line in typed():
        if line.startswith("/"):
            if line == "/exit":
                break
            screen.say(command(talk, line))
        elif line:
            answer(talk, line, lm, model, asked, screen)
    return 0


def check(o: Chat, lm: LanguageModel) -> None:
    """Raises ValueError for a model that cannot hold a conversation."""
    if lm.model.cfg.shape != "decoder":
        raise ValueError(f"a conversation needs a decoder, and {o.model} is an {lm.model.cfg.shape}")
    if not o.plain and chat_template(lm.tokenizer) is None:
        raise ValueError(
            f"{o.model} has no chat template, which a model that was tuned to chat has; "
            "--plain sets the turns as User: and Assistant:, or `modelwright generate` continues a text"
        )


def typed() -> Iterator[str]:
    """What is typed, a line at a time, until it ends."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        if not (line := sys.stdin.readline()):
            return
        yield line.strip()


# -- the conversation -------------------------------------------------------------------------------------------


@dataclass
class Talk:
    """A conversation: `turns` are pairs of what was said and what was answered, then what waits for an answer."""

    tokenizer: Tokenizer
    plain: bool
    system: str = ""
    turns: list[tuple[str, str]] = field(default_factory=list)

    def ids(self, said: str) -> list[int]:
        """What the model reads."""
        if not self.plain:
            separator = "\n\n"  # where the template has no place for a system's message
            messages = conversation(self.tokenizer, self.system, self.turns, said, separator)
            return encode_chat(self.tokenizer, messages, True).ids
        past = [f"{USER} {asked}\n{ASSISTANT} {answered}\n" for asked, answered in self.turns]
        before = f"{self.system}\n\n" if self.system else ""
        start, _ = around(self.tokenizer)
        return [*start, *self.tokenizer.encode(before + "".join(past) + f"{USER} {said}\n{ASSISTANT}")]

    def ends(self) -> tuple[int, ...]:
        """The token that ends an answer, where the template sets one."""
        end = None if self.plain else encode_turn(self.tokenizer, [{"role": "user", "content": "a"}], "b").end
        return () if end is None else (end,)

    def stop(self) -> tuple[str, ...]:
        return (f"\n{USER}",) if self.plain else ()


def command(talk: Talk, line: str) -> str:
    """Do what a line that begins with / says; what to tell the user."""
    word, _, rest = line.partition(" ")
    if word == "/reset":
        talk.turns.clear()
        return "the conversation begins anew"
    if word == "/system":
        talk.system = rest.strip()
        return "the model is told so from now on" if talk.system else "the model is told nothing beforehand from now on"
    return f"there is no command {word}: {COMMANDS}"


def fitting(talk: Talk, said: str, lm: LanguageModel, max_new: int, screen: Screen) -> list[int] | None:
    """The ids of the conversation, after the oldest turns are dropped that leave an answer no room; None where none
    help.

    An answer gets all that was asked for, but at most half of the context.
    """
    cfg, soft = lm.model.cfg, soft_ids(lm.model)
    most = cfg.context - min(max_new, cfg.context // 2)
    dropped = 0
    while len(ids := [*soft, *talk.ids(said)]) > most and not cfg.unbounded:
        if not talk.turns:
            screen.warn(f"that is {len(ids)} tokens, and {most} fit the model's context beside an answer: say less")
            return None
        del talk.turns[0]
        dropped += 1
    if dropped:
        what = "the oldest turn was" if dropped == 1 else f"the {dropped} oldest turns were"
        screen.say(f"{what} left out: the model's context is full")
    return ids


def answer(talk: Talk, said: str, lm: LanguageModel, model: Transformer, asked: Sampling, screen: Screen) -> None:
    """Show the answer as it is written, and keep the turn; Ctrl-C ends the answer, not the conversation."""
    ids = fitting(talk, said, lm, asked.max_new, screen)
    if ids is None:
        return
    room(lm.model.cfg, len(ids), asked.max_new)
    asked = replace(asked, stop=talk.stop())
    shown, done = "", None
    try:
        for piece in written(
            lm, model, Encoded([ids], None), asked, generators([ids], 1, asked.seed or 0), talk.ends()
        ):
            text = piece.text if shown else piece.text.lstrip()
            shown, done = shown + text, piece.completion
            print(text, end="", flush=True)
    except KeyboardInterrupt:
        screen.say("")
    print(flush=True)
    talk.turns.append((said, shown.strip()))
    warn_of_end(done, screen)


def warn_of_end(done: Completion | None, screen: Screen) -> None:
    if done is not None and done.finish != "stop":
        why = "--max-new" if done.finish == "length" else "where the model's context was full"
        screen.say(f"(the answer was cut {'by ' if done.finish == 'length' else ''}{why})")
