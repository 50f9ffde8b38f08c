"""Chat: messages -> the text and the ids that a model was taught to read, by its tokenizer's chat template.

The template is the model's own (Jinja2, beside its tokenizer), and the text is the one `transformers`'
`apply_chat_template` gives. In the ids a special token that a message spells out stays plain text, so that no message
can end its turn or begin another's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import jinja2
import tokenizers

from modelwright.data.template import render
from modelwright.data.tokenizer import LARGE, ROLES, Tokenizer

Message = Mapping[str, Any]  # {"role": "user", "content": "..."}
PRIVATE = range(0xE000, 0xF8FF)  # characters that Unicode leaves to private use: one that nobody uses is a mark


def chat_template(tokenizer: Tokenizer) -> str | None:
    """The tokenizer's chat template; of several that have names, the one named default."""
    said = tokenizer.kept.get("chat_template")
    if isinstance(said, list):
        said = next((one.get("template") for one in said if one.get("name") == "default"), None)
    return said if isinstance(said, str) else None


def render_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    add_generation_prompt: bool = False,
    tools: Sequence[Message] | None = None,
) -> str:
    """The text of a conversation; with `add_generation_prompt`, up to where the assistant begins to speak.

    tools: those that the assistant may call, as JSON objects: whether they are shown is the template's to say.

    Raises ValueError where there is no template, or where the template refuses the messages.
    """
    template = chat_template(tokenizer)
    if template is None:
        raise ValueError("this model's tokenizer has no chat template: set chat to false")
    named = {f"{role}_token": token for role, token in tokenizer.roles.items() if f"{role}_token" in _NAMED}
    shown = None if tools is None else [dict(tool) for tool in tools]
    values = {"messages": [dict(message) for message in messages], "tools": shown, "documents": None}
    try:
        return render(template, named | values | {"add_generation_prompt": add_generation_prompt}, strict=False)
    except (jinja2.TemplateError, TypeError, ArithmeticError, AttributeError, ValueError, LookupError) as error:
        raise ValueError(f"the chat template refuses these messages: {error}") from error


_NAMED = frozenset(f"{role}_token" for role in ROLES)


class Chat(NamedTuple):
    """A conversation as it is read."""

    text: str
    ids: list[int]


def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    add_generation_prompt: bool = False,
    tools: Sequence[Message] | None = None,
) -> Chat:
    """The text of a conversation and its ids: special tokens are those that the template wrote."""
    mark = _mark([*messages, *(tools or ())])
    shown = None if tools is None else _marked(tools, mark, tokenizer)
    marked = render_chat(tokenizer, _marked(messages, mark, tokenizer), add_generation_prompt, shown)
    return Chat(marked.replace(mark, ""), encode_marked(tokenizer, marked, mark))


class Turn(NamedTuple):
    """What the template adds when the assistant has answered."""

    ids: list[int]  # the answer, without the token that ends the turn
    end: int | None  # the special token that ends it; None where the template sets none
    follows: bool  # whether the whole conversation begins with the text that asked for the answer


def encode_turn(tokenizer: Tokenizer, messages: Sequence[Message], answer: str) -> Turn:
    """The ids of an assistant's answer to these messages, as the template sets them behind the generation prompt."""
    whole = [*messages, {"role": "assistant", "content": answer}]
    mark = _mark(whole)
    asked = render_chat(tokenizer, _marked(messages, mark, tokenizer), True)
    full = render_chat(tokenizer, _marked(whole, mark, tokenizer))
    if follows := full.startswith(asked):
        said = full[len(asked) :]
    else:  # the template shows a finished turn in another way than one that begins: from the answer on
        start = full.rfind(_marked([{"content": answer.strip()}], mark, tokenizer)[0]["content"])
        said = full[max(start, 0) :]
    after_special = re.search(f"(?:{specials(tokenizer).pattern})$", asked)  # there a vocabulary begins a text anew
    ids = encode_marked(tokenizer, said, mark, behind="" if after_special else ":")
    last = max((at for at, token in enumerate(ids) if token in tokenizer.special), default=None)
    return Turn(ids, None, follows) if last is None else Turn(ids[:last], ids[last], follows)


# --- special tokens, only where the template put them ---------------------------------------------


def _mark(messages: Iterable[Message]) -> str:
    """A character that is in none of the messages."""
    used = set(json.dumps([dict(message) for message in messages], ensure_ascii=False, default=str))
    return next(chr(code) for code in PRIVATE if chr(code) not in used)


def _marked(messages: Sequence[Message], mark: str, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The messages with a mark before every special token that their texts spell, and the names in them: a template
    may write both, as it does of a call's arguments or of a tool's properties."""
    names = specials(tokenizer)

    def change(value: Any) -> Any:
        if isinstance(value, str):
            return names.sub(lambda found: mark + found[0], value)
        if isinstance(value, Mapping):
            return {change(key): change(inner) for key, inner in value.items()}
        return [change(inner) for inner in value] if isinstance(value, list | tuple) else value

    return [change(message) for message in messages]


Made = TypeVar("Made")


def once(make: Callable[[Tokenizer], Made]) -> Callable[[Tokenizer], Made]:
    """Makes it once for as long as there is the tokenizer: each adapter may bring its own."""
    known: WeakKeyDictionary[Tokenizer, Made] = WeakKeyDictionary()

    @wraps(make)
    def found(tokenizer: Tokenizer) -> Made:
        if tokenizer not in known:
            known[tokenizer] = make(tokenizer)
        return known[tokenizer]

    return found


@once
def specials(tokenizer: Tokenizer) -> re.Pattern[str]:
    """Finds the special tokens in a text, the longest first."""
    names = [tokenizer.inner.id_to_token(token) or "" for token in tokenizer.special]
    return re.compile(
        "|".join(re.escape(name) for name in sorted(filter(None, names), key=len, reverse=True)) or "(?!)"
    )


def encode_marked(tokenizer: Tokenizer, text: str, mark: str, behind: str = "") -> list[int]:
    """Ids of a text in which special tokens mean themselves, but for those behind a mark.

    `behind` is a text that stands before it, so that no vocabulary sets the space that begins a text.
    """
    ids: list[int] = []
    pattern = re.compile(f"{mark}({specials(tokenizer).pattern})|{mark}")
    for at, piece in enumerate(pattern.split(text)):
        if piece:
            plain = at % 2 == 1
            ids += _behind(tokenizer.inner if plain else _finder(tokenizer), piece, behind or "\n" * (at > 0))
    return ids


def _behind(inner: tokenizers.Tokenizer, text: str, before: str) -> list[int]:
    """Ids of a text that stands behind another: those of both, without the first's."""
    start, both = (encoded(inner, said) for said in (before, before + text))
    return both[len(start) :] if both[: len(start)] == start else encoded(inner, text)


def encoded(inner: tokenizers.Tokenizer, text: str) -> list[int]:
    if len(text) > LARGE:
        return inner.encode_batch_fast([text], add_special_tokens=False)[0].ids
    return inner.encode(text, add_special_tokens=False).ids


@once
def _finder(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """A copy of the tokenizer to which a special token in a text is that token."""
    copy = tokenizers.Tokenizer.from_str(tokenizer.inner.to_str())
    copy.encode_special_tokens = False
    return copy


def continued(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a plain text that continues another, so without a space that a vocabulary sets where a text begins."""
    return _behind(tokenizer.inner, text, ":")


# --- a task's prompt as a conversation ------------------------------------------------------------


def conversation(
    tokenizer: Tokenizer, instruction: str, shots: Sequence[tuple[str, str]], prompt: str, separator: str
) -> list[dict[str, str]]:
    """Messages: the instruction as system's, each shot as a turn of user and assistant, then the prompt.

    Where the template refuses a system's message, or passes over it, the first user's turn begins with the instruction.
    """
    turns = [
        {"role": role, "content": text}
        for shot in shots
        for role, text in zip(("user", "assistant"), shot, strict=True)
    ]
    turns.append({"role": "user", "content": prompt})
    if not instruction:
        return turns
    if takes_system(tokenizer):
        return [{"role": "system", "content": instruction}, *turns]
    return [{"role": "user", "content": instruction + separator + turns[0]["content"]}, *turns[1:]]


@once
def takes_system(tokenizer: Tokenizer) -> bool:
    """Whether the template shows what a system's message says."""
    probe = [{"role": "system", "content": "qxzv"}, {"role": "user", "content": "a"}]
    try:
        return "qxzv" in render_chat(tokenizer, probe)
    except ValueError:
        return False


def spoken(messages: Sequence[Message]) -> str:
    """A conversation as plain text, for a model without a chat template: one message of a user as it stands, more as in
    Anthropic's hh-rlhf, up to where the assistant is to speak."""
    if [message["role"] for message in messages] == ["user"]:
        return str(messages[0]["content"])
    names = {"user": "Human: ", "assistant": "Assistant: ", "system": ""}
    return "\n\n".join([*(names[message["role"]] + message["content"] for message in messages), "Assistant:"])
