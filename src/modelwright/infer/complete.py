"""Continuations of texts: `complete` answers with records, `generate` with text, `stream` with text as it comes."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Generator

from modelwright.infer.beam import beam_search
from modelwright.infer.engine import TEXTS, Engine, Finish, Grammar, New, Request, Stream, room
from modelwright.infer.packed import prepare
from modelwright.infer.sample import NEVER, Sampling, generators, settings
from modelwright.infer.text import Encoded, LanguageModel, Writer, banned, encode_prompts, eos_ids, writer
from modelwright.model.transformer import Transformer

PACKING_PAYS = 32  # steps after which packed weights have saved more time than packing them took, measured


@dataclass(frozen=True)
class Completion:
    """One continuation. `text` ends before the stop string; `tokens` hold all that was drawn, the EOS included.

    finish: "stop" at an EOS or a stop string, "length" at `max_new`, "context" where the model's context was full.
    logprobs: of each token under the model itself, before any sampling rule, if asked for.
    """

    text: str
    tokens: list[int]
    finish: Finish
    logprobs: list[float] | None = None


@dataclass(frozen=True)
class Piece:
    """New text of one row, perhaps none; with the last comes the whole completion."""

    row: int
    text: str
    completion: Completion | None = None


@dataclass
class Draft:
    """One row being written."""

    row: int
    writer: Writer
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def take(self, new: New, eos: Collection[int], logprobs: bool) -> Piece:
        """What can be shown with one more token, which is no text where it is an EOS."""
        self.tokens.append(new.token)
        if new.logprob is not None:
            self.logprobs.append(new.logprob)
        said = "" if new.token in eos else self.writer.push(new.token)
        finish = "stop" if self.writer.stopped else new.finish
        if finish is not None:
            said += self.writer.finish()
        self.text += said
        done = Completion(self.text, self.tokens, finish, self.logprobs if logprobs else None) if finish else None
        return Piece(self.row, said, done)


def pieces(
    lm: LanguageModel, prompts: Sequence[str], sampling: Sampling, grammar: Callable[[], Grammar] | None = None
) -> Iterator[Piece]:
    """The continuations as they are written. Sample j of prompt i is row i * n + j. No prompts give no pieces.

    grammar: makes the state that a row keeps to; each has its own.
    """
    encoded = encode_prompts(lm, prompts)
    for prompt in encoded.prompts:
        room(lm.model.cfg, len(prompt), sampling.max_new)  # before any work is done
    seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
    random = generators(encoded.sources or encoded.prompts, sampling.n, seed)
    # By the length alone, so that a prompt's numbers do not depend on how many others there are. Packed weights are not
    # kept for the next call: a write through a parameter's `.data` leaves no trace that would tell they are stale.
    model = prepare(lm.model) if prompts and sampling.max_new >= PACKING_PAYS else lm.model
    yield from written(lm, model, encoded, sampling, random, grammar=grammar)


def written(
    lm: LanguageModel,
    model: Transformer,
    encoded: Encoded,
    sampling: Sampling,
    random: Sequence[Generator],
    ends: Collection[int] = (),
    grammar: Callable[[], Grammar] | None = None,
    bias: Mapping[int, float] | None = None,
    texts: int = TEXTS,
) -> Iterator[Piece]:
    """The continuations of prompts by `model`: `lm.model`, or the same made ready; rows as in `pieces`.

    `ends` are tokens that end a row beside the model's own, as a chat's end of a turn does. `bias`: what is added to
    the logits of some tokens. `texts`: how many are written at once. With beams a row's pieces come all at once.
    Raises ValueError for beams with a grammar or a bias.
    """
    if not encoded.prompts:
        return
    eos, never = eos_ids(lm) | set(ends), banned(lm)
    if sampling.beams > 1:
        if grammar is not None or bias:
            raise ValueError("beams are held to no JSON schema and no bias: leave out either beams or these")
        yield from searched(lm, model, encoded, sampling, eos)
        return
    alone = replace(sampling, n=1)
    cfg, rows = lm.model.cfg, len(encoded.prompts) * sampling.n
    longest = max(len(prompt) + room(cfg, len(prompt), sampling.max_new) for prompt in encoded.prompts)
    engine = Engine(model, longest=longest, texts=min(texts, rows))
    drafts: dict[Stream, Draft] = {}
    for row in short_first(encoded, sampling.n):
        at = row // sampling.n
        prompt, source = encoded.prompts[at], encoded.sources[at] if encoded.sources else None
        request = Request(
            prompt,
            alone,
            source,
            eos,
            generator=random[row],
            grammar=grammar and grammar(),
            bias=dict.fromkeys(never, NEVER) | dict(bias or {}),
        )
        stream = engine.submit(request)
        drafts[stream] = Draft(row, writer(lm.tokenizer, [] if source else prompt, sampling.stop))
    while drafts:
        for stream, new in engine.step():
            piece = drafts[stream].take(new, eos, sampling.logprobs)
            if piece.completion is not None:
                engine.leave(stream)
                del drafts[stream]
            yield piece


def searched(
    lm: LanguageModel, model: Transformer, encoded: Encoded, sampling: Sampling, eos: Collection[int]
) -> Iterator[Piece]:
    """The best texts that beams find, each prompt's best first; rows as in `pieces`."""
    prompts = [[] for _ in encoded.sources] if encoded.sources else encoded.prompts
    begun = [writer(lm.tokenizer, prompt, sampling.stop) for prompt in prompts]
    for at, best in beam_search(model, encoded, sampling, eos, begun if sampling.stop else None, banned(lm)):
        for rank, one in enumerate(best):
            draft, last = Draft(at * sampling.n + rank, begun[at].fork()), len(one.tokens) - 1
            for i, (token, logp) in enumerate(zip(one.tokens, one.logps, strict=True)):
                new = New(token, one.finish if i == last else None, logp if sampling.logprobs else None)
                yield draft.take(new, eos, sampling.logprobs)


def short_first(encoded: Encoded, n: int) -> list[int]:
    read = encoded.sources or encoded.prompts
    return sorted(range(len(read) * n), key=lambda row: len(read[row // n]))


def complete(lm: LanguageModel, prompts: Sequence[str], **sampling: Any) -> list[Completion]:
    """The continuation of each prompt as a record; the n samples of one prompt stand side by side.

    `sampling` has the fields of `infer.sample.Sampling`; `infer.sample.settings` fills in what is left open.
    Raises ValueError naming a setting out of range, for a prompt beyond the context, and for an encoder.
    """
    asked = settings(lm.generation, **sampling)
    found: dict[int, Completion] = {}
    for piece in pieces(lm, prompts, asked):
        if piece.completion is not None:
            found[piece.row] = piece.completion
    return [found[row] for row in range(len(prompts) * asked.n)]


def generate(lm: LanguageModel, prompt: str | Sequence[str], **sampling: Any) -> str | list[str]:
    """The text that follows a prompt: one for one prompt, a list for a list; with `n` the samples side by side.

    `sampling` and errors as `complete`.
    """
    alone = isinstance(prompt, str)
    texts = [done.text for done in complete(lm, [prompt] if isinstance(prompt, str) else prompt, **sampling)]
    return texts[0] if alone and len(texts) == 1 else texts


def stream(lm: LanguageModel, prompt: str, **sampling: Any) -> Iterator[str]:
    """The same for one prompt, in pieces as it is written: whole characters, and never a part of a stop string."""
    asked = settings(lm.generation, **sampling)
    if asked.n != 1:
        raise ValueError(f"a stream is of one continuation, and n is {asked.n}: use generate")
    return (piece.text for piece in pieces(lm, [prompt], asked) if piece.text)
