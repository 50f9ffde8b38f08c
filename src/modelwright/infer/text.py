"""Between text and ids: prompts as a model reads them, and the text of a continuation as it grows."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from modelwright.data.prompt import starts
from modelwright.data.tokenizer import Decoder, Tokenizer
from modelwright.model.transformer import Config, Transformer


class LanguageModel(Protocol):
    """A model that reads and writes text, as `hub.open.load` gives it."""

    @property
    def model(self) -> Transformer: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def generation(self) -> Mapping[str, Any]: ...


# -- prompts -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoded:
    """Prompts as the model reads them: what the decoder begins with, and for an encoder-decoder the sources."""

    prompts: list[list[int]]
    sources: list[list[int]] | None

    def part(self, which: Sequence[int]) -> Encoded:
        return Encoded([self.prompts[i] for i in which], self.sources and [self.sources[i] for i in which])


def encode_prompts(lm: LanguageModel, prompts: Sequence[str]) -> Encoded:
    """Raises ValueError for an encoder, an empty prompt without a BOS to stand for it, a prompt beyond the context."""
    shape, soft = lm.model.cfg.shape, lm.model.embed.soft
    refuse_labels(lm.model.cfg)
    if shape == "encoder":
        raise ValueError("this model is an encoder, which cannot write on: give it a text with a mask to fill instead")
    rows = [encode(lm.tokenizer, prompt, gap_marks(lm)) for prompt in prompts]
    if shape == "encoder-decoder":
        rows = [[*soft, *row] for row in rows]
        _check_sources(lm.model.cfg, rows)
        return Encoded([_start(lm)] * len(rows), rows)
    bos = lm.tokenizer.eos if lm.tokenizer.bos is None else lm.tokenizer.bos
    if bos is None and not all(rows):
        raise ValueError("the prompt is empty, and this model has no token that begins a text: say something")
    return Encoded([[*soft, *(row or [bos or 0])] for row in rows], None)


def refuse_labels(cfg: Config) -> None:
    """Raises ValueError for a model that answers with labels and has no words."""
    if cfg.labels:
        named = ", ".join(cfg.labels.names[:4]) + (", ..." if len(cfg.labels.names) > 4 else "")
        raise ValueError(
            f"this model answers with the labels {named}, and cannot write: measure it with `modelwright evaluate`"
        )


def encode(tokenizer: Tokenizer, text: str, known: Collection[int]) -> list[int]:
    """Ids of a text, with the BOS, EOS or the like round it.

    The `known` special tokens mean themselves where the text spells them; all others are plain text.
    """
    names = {tokenizer.inner.id_to_token(i) or "": i for i in known}
    if not any(name in text for name in names):
        return tokenizer.encode(text, special=True)
    parts = [part for part in re.split("|".join(_spelled(tokenizer, i) for i in known), text) if part]
    inner = [i for part in parts for i in ([names[part]] if part in names else tokenizer.encode(part))]
    before, after = _around(tokenizer)
    return [*before, *inner, *after]


def _spelled(tokenizer: Tokenizer, token: int) -> str:
    """A pattern that finds a special token in text; some swallow the space beside them, as RoBERTa's <mask> does."""
    pattern = f"({re.escape(tokenizer.inner.id_to_token(token) or '')})"
    added = tokenizer.inner.get_added_tokens_decoder().get(token)
    return pattern if added is None else r"\s*" * added.lstrip + pattern + r"\s*" * added.rstrip


def _around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after every text."""
    alone, within = tokenizer.encode("a"), tokenizer.encode("a", special=True)
    start = next(i for i in range(len(within)) if within[i : i + len(alone)] == alone)
    return within[:start], within[start + len(alone) :]


def _check_sources(cfg: Config, rows: list[list[int]]) -> None:
    encoder = cfg.encoder
    assert encoder is not None
    longest = max(map(len, rows), default=0)
    if not encoder.unbounded and longest > encoder.context:
        raise ValueError(
            f"the prompt has {longest} tokens, but the model's encoder reads {encoder.context}: shorten the prompt"
        )


def gap_marks(lm: LanguageModel) -> tuple[int, ...]:
    """The special tokens that a prompt may spell: T5's sentinels, and the mask where an encoder reads it, as BART's."""
    mask = () if lm.tokenizer.mask is None or lm.model.cfg.encoder is None else (lm.tokenizer.mask,)
    return (*lm.tokenizer.sentinels, *mask)


def _start(lm: LanguageModel) -> list[int]:
    """What an encoder-decoder's decoder begins with: by its config, else the padding token, as T5's does."""
    if said := starts(lm.generation):
        return [*said]
    for start in (lm.tokenizer.pad, lm.tokenizer.bos):
        if start is not None:
            return [start]
    raise ValueError("this model does not say what its decoder begins with: set decoder_start_token_id in its config")


def eos_ids(lm: LanguageModel) -> frozenset[int]:
    """Every token that ends a text: those of the generation settings, or else the tokenizer's EOS."""
    said = lm.generation.get("eos_token_id", lm.tokenizer.eos)
    return frozenset(said if isinstance(said, list) else () if said is None else (said,))


def banned(lm: LanguageModel) -> frozenset[int]:
    """Tokens that the generation settings forbid: `bad_words_ids` of one token, as Marian's padding, whose logit is 0.

    Raises ValueError for words of several tokens, which are not kept track of.
    """
    said = lm.generation.get("bad_words_ids") or []
    if not isinstance(said, list) or not all(isinstance(word, list) and len(word) == 1 for word in said):
        raise ValueError(f"generation_config.json: bad_words_ids = {said!r}; supported: lists of one token each")
    return frozenset(word[0] for word in said)


def shown(tokenizer: Tokenizer, token: int) -> str:
    """A token by itself, to be looked at: a space before it as ▁, line breaks and half characters spelled out."""
    piece = tokenizer.inner.id_to_token(token)
    if piece is None:
        return f"<{token}>"  # the model has more rows than there are tokens, or a soft prompt
    text = tokenizer.decode([token], special=True)
    if not text or "\ufffd" in text:
        return piece
    begins = piece.startswith(("▁", "Ġ")) and not text.startswith("▁")
    return "▁" * begins + repr(text.removeprefix(" ") if begins else text)[1:-1]


# -- what is written -----------------------------------------------------------------------------


@dataclass
class Writer:
    """The text of one row as it grows. Text that may be the beginning of a stop string is held back."""

    decoder: Decoder
    stop: tuple[str, ...]
    held: str = ""
    stopped: bool = False

    def push(self, token: int) -> str:
        """The text that is certain with this token; at a stop string all that stands before it."""
        return self._release(self.held + self.decoder.push(token))

    def finish(self) -> str:
        """What was held back, when nothing more comes."""
        out = self._release(self.held + self.decoder.finish())
        held, self.held = self.held, ""
        return out + held

    def fork(self) -> Writer:
        """Another that has written the same, and goes on by itself."""
        return Writer(self.decoder.fork(), self.stop, self.held, self.stopped)

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        found = [(text.index(s) + len(s), text.index(s)) for s in self.stop if s in text]
        if found:  # the first to be complete, as it would be if the characters came one by one
            self.stopped, self.held = True, ""
            return text[: min(found)[1]]
        held = max((overlap(text, s) for s in self.stop), default=0)
        self.held = text[len(text) - held :]
        return text[: len(text) - held]


def overlap(text: str, stop: str) -> int:
    """How many characters at the end of the text are the beginning of `stop`, and not all of it."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def writer(tokenizer: Tokenizer, prompt: Sequence[int], stop: tuple[str, ...]) -> Writer:
    """A writer that has seen the prompt's end, since what a token looks like may depend on what stands before it."""
    decoder = Decoder(tokenizer)
    for token in prompt[-8:]:
        decoder.push(token)
    return Writer(decoder, stop)
