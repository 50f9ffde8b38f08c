"""What is answered over HTTP: pieces of text as they are written -> the objects and stream chunks of OpenAI's API.

One of the two `Form`s says how a choice looks, whole and in pieces; streaming and not streaming differ in nothing else.
"""

from __future__ import annotations

import base64
import json
import secrets
import struct
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

LEAST = -9999.0  # stands for a log-probability of minus infinity, which JSON cannot say
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Beside:
    """A token that might have been written."""

    id: int
    text: str
    logprob: float
    after: Mapping[str, float]  # its probability after each rule


@dataclass(frozen=True)
class Token:
    """A token that was written. The texts of all, joined, are the text: half a character is its last token's."""

    id: int
    text: str
    logprob: float
    beside: Sequence[Beside] = ()


@dataclass(frozen=True)
class Piece:
    """What is new of one choice: text, perhaps none; its tokens, where they are told; and with the last, why."""

    choice: int
    text: str
    tokens: Sequence[Token] = ()
    finish: str | None = None
    written: int = 0  # tokens in all, with the last piece
    calls: Sequence[tuple[str, str]] = ()  # tools that are called, with their arguments as JSON


@dataclass(frozen=True)
class Usage:
    prompt: int
    completion: int

    @property
    def json(self) -> dict[str, int]:
        total = self.prompt + self.completion
        return {"prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": total}


@dataclass(frozen=True)
class Form:
    """How the answers of one route look. `top`, `likely`: candidates beside each token, in either form; `seed`: what
    the same answer can be asked for by."""

    model: str
    top: int | None
    likely: int
    usage: bool = False  # whether a stream ends with what was used
    seed: int | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    prefix, whole, part = "", "", ""

    def head(self, kind: str) -> dict[str, Any]:
        said = {"id": f"{self.prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}
        return said if self.seed is None else said | {"modelwright": {"seed": self.seed}}

    def told(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """What stands beside OpenAI's fields: each token with the candidates, and what the rules made of them."""
        return {"tokens": [_token(token, self.likely) for token in tokens]} if self.likely else {}

    # -- all at once

    def answer(self, choices: Sequence[Sequence[Piece]], usage: Usage) -> dict[str, Any]:
        """The whole answer, of all pieces of each choice."""
        made = [self.choice(at, join(pieces)) for at, pieces in enumerate(choices)]
        return {**self.head(self.whole), "choices": made, "usage": usage.json}

    def choice(self, index: int, piece: Piece) -> dict[str, Any]:
        raise NotImplementedError

    # -- as it comes

    def begin(self, choices: int) -> list[bytes]:
        """What a stream begins with."""
        return []

    def chunk(self, index: int, piece: Piece, offset: int) -> list[bytes]:
        """offset: characters of the choice that were sent before."""
        raise NotImplementedError

    def end(self, usage: Usage) -> list[bytes]:
        last = {**self.head(self.part), "choices": [], "usage": usage.json}
        return [event(last), DONE] if self.usage else [DONE]

    def event(self, choice: Mapping[str, Any]) -> bytes:
        return event({**self.head(self.part), "choices": [choice], **({"usage": None} if self.usage else {})})


class ChatForm(Form):
    prefix, whole, part = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def choice(self, index: int, piece: Piece) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": piece.text, "refusal": None}
        if piece.calls:
            message |= {"content": None, "tool_calls": [_call(*call) for call in piece.calls]}
        said = {"index": index, "message": message, "logprobs": self.logprobs(piece), "finish_reason": piece.finish}
        return said | self.told(piece.tokens)

    def logprobs(self, piece: Piece) -> dict[str, Any] | None:
        if self.top is None:
            return None
        content = [
            {**_plain(token.text, token.logprob),
             "top_logprobs": [_plain(one.text, one.logprob) for one in token.beside[: self.top]]}
            for token in piece.tokens
        ]  # fmt: skip
        return {"content": content, "refusal": None}

    def begin(self, choices: int) -> list[bytes]:
        return [self._event(at, {"role": "assistant", "content": "", "refusal": None}) for at in range(choices)]

    def chunk(self, index: int, piece: Piece, offset: int) -> list[bytes]:
        found = []
        if piece.text or piece.tokens:
            more = {"logprobs": self.logprobs(piece), **self.told(piece.tokens)}
            found.append(self._event(index, {"content": piece.text}, **more))
        for at, call in enumerate(piece.calls):
            found.append(self._event(index, {"tool_calls": [{"index": at, **_call(*call)}]}))
        if piece.finish:
            found.append(self._event(index, {}, finish_reason=piece.finish))
        return found

    def _event(self, index: int, delta: Mapping[str, Any], **more: Any) -> bytes:
        return self.event({"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **more})


class TextForm(Form):
    prefix, whole, part = "cmpl", "text_completion", "text_completion"

    def choice(self, index: int, piece: Piece) -> dict[str, Any]:
        return self._choice(index, piece, 0)

    def chunk(self, index: int, piece: Piece, offset: int) -> list[bytes]:
        if not (piece.text or piece.tokens or piece.finish):
            return []
        return [self.event(self._choice(index, piece, offset))]

    def _choice(self, index: int, piece: Piece, offset: int) -> dict[str, Any]:
        said = {"index": index, "text": piece.text, "logprobs": self.logprobs(piece, offset)}
        return said | {"finish_reason": piece.finish} | self.told(piece.tokens)

    def logprobs(self, piece: Piece, offset: int) -> dict[str, Any] | None:
        if self.top is None:
            return None
        starts = [offset]
        for token in piece.tokens:
            starts.append(starts[-1] + len(token.text))
        return {
            "tokens": [token.text for token in piece.tokens],
            "token_logprobs": [_logprob(token.logprob) for token in piece.tokens],
            "top_logprobs": [
                {one.text: _logprob(one.logprob) for one in token.beside[: self.top]} for token in piece.tokens
            ],
            "text_offset": starts[:-1],
        }


def join(pieces: Sequence[Piece]) -> Piece:
    """All pieces of one choice as one."""
    text = "".join(piece.text for piece in pieces)
    tokens = [token for piece in pieces for token in piece.tokens]
    last = pieces[-1]
    return Piece(last.choice, text, tokens, last.finish, last.written, last.calls)


def event(said: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + dumped(said) + b"\n\n"


def dumped(said: Any) -> bytes:
    return json.dumps(said, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _logprob(logp: float) -> float:
    return min(max(logp, LEAST), 0.0)


def _plain(text: str, logp: float) -> dict[str, Any]:
    return {"token": text, "logprob": _logprob(logp), "bytes": list(text.encode())}


def _token(token: Token, likely: int) -> dict[str, Any]:
    beside = [
        {"id": one.id, "text": one.text, "logprob": _logprob(one.logprob), "after": dict(one.after)}
        for one in token.beside[:likely]
    ]
    return {"id": token.id, "text": token.text, "logprob": _logprob(token.logprob), "likely": beside}


def _call(name: str, arguments: str) -> dict[str, Any]:
    return {
        "id": f"call_{secrets.token_hex(12)}", "type": "function", "function": {"name": name, "arguments": arguments}
    }  # fmt: skip


def calls_of(text: str, offered: Collection[str], cut: bool = False) -> list[tuple[str, str]]:
    """The tools that a text calls, if it is nothing but {"name": ..., "arguments": {...}} of such as are offered.

    cut: the text ends in the midst of one, which is left out; what was called before it is whole.
    """
    found: list[tuple[str, str]] = []
    reader, rest = json.JSONDecoder(), text.strip()
    while rest:
        try:
            said, end = reader.raw_decode(rest)
        except (ValueError, RecursionError):
            return found if cut and rest.startswith("{") else []
        if not isinstance(said, dict) or said.get("name") not in offered or not isinstance(said.get("arguments"), dict):
            return []
        found.append((said["name"], json.dumps(said["arguments"], ensure_ascii=False)))
        rest = rest[end:].lstrip()
    return found


@dataclass
class Calls:
    """Holds back what may become calls of tools, until they are whole.

    The first character says what a text is, as in `infer.constrain.tool_grammar`: one that begins with { is calls, any
    other is text. So it is the same however the text comes in pieces.
    """

    offered: Collection[str]
    held: dict[int, list[Piece]] = field(default_factory=dict)
    text: set[int] = field(default_factory=set)  # choices that have begun as text

    def take(self, piece: Piece) -> Piece | None:
        """What can be shown; None where it is held back.

        Where the length cuts a call, those before it are calls; where it cuts the first, or a stop string any, what was
        written is shown as text.
        """
        if not self.offered or piece.choice in self.text:
            return piece
        held = self.held.setdefault(piece.choice, [])
        held.append(piece)
        begins = next((one.text[0] for one in held if one.text), None)
        if begins not in (None, "{"):
            self.text.add(piece.choice)
        elif piece.finish is None:
            return None
        whole = join(self.held.pop(piece.choice))
        if piece.choice in self.text:
            return whole
        if calls := calls_of(whole.text, self.offered):
            return replace(whole, text="", tokens=(), calls=calls, finish="tool_calls")
        calls = calls_of(whole.text, self.offered, cut=whole.finish == "length")
        return replace(whole, text="", tokens=(), calls=calls) if calls else whole


# -- embeddings ----------------------------------------------------------------------------------------------------


def embeddings(model: str, vectors: Sequence[Sequence[float]], tokens: int, as_base64: bool) -> dict[str, Any]:
    """base64 is of little-endian float32."""
    data = [
        {"object": "embedding", "index": at, "embedding": _base64(vector) if as_base64 else list(vector)}
        for at, vector in enumerate(vectors)
    ]
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
