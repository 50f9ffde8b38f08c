"""Requests of any lengths, computed together: they join and leave a running batch between two steps.

    engine = Engine(model)
    streams = [engine.submit(request) for request in requests]
    for new in streams[0]: ...          # its tokens as they come; the others go on beside it

Each step is one forward over a single row in which the new tokens of many texts stand one after the other: a token of
each that is being written, and parts of prompts. So nothing is padded, and products read every weight once for all.

N tokens in a step, C width, V vocabulary.
"""

from __future__ import annotations

import hashlib
import itertools
import secrets
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from modelwright.infer.packed import cache_dtype
from modelwright.infer.sample import NEVER, History, Likely, Sampling, apply_rules, generators, history, likely, pick
from modelwright.infer.scheduler import Scheduler, Slice, Text
from modelwright.model.logps import rows_at_once
from modelwright.model.pages import Pages, Part, Sources, Step
from modelwright.model.transformer import Config, Transformer

Finish = Literal["stop", "length", "context"]
SIZE = 16  # tokens in a block
BUDGET = 512  # tokens in a step: a prompt's products are as fast in parts of this size as whole
TEXTS = 32  # texts in a step
LONG = 1024  # tokens of each text that there is room for, unless said otherwise


@dataclass(frozen=True)
class Request:
    """What is to be written: a continuation of `prompt`; or, of a prompt alone, how likely its tokens are.

    prompt: ids, at least one; of an encoder-decoder what its decoder begins with, and `source` is what its encoder
    reads. `sampling.n` is 1: samples are requests of their own, told apart by `generator`. `scored`: the first of the
    prompt's tokens whose log-probability is wanted. `likely`: how many of the likeliest tokens are told beside each
    new one. `bias`: what is added to the logits of some tokens. `adapter`: the name of one that the engine's bank
    holds. `owner`: whose text it is, where one is not to learn from how soon an answer comes what another has asked.
    """

    prompt: Sequence[int]
    sampling: Sampling
    source: Sequence[int] | None = None
    ends: Collection[int] = ()
    scored: int | None = None
    generator: Generator | None = None
    likely: int = 0
    bias: Mapping[int, float] = field(default_factory=dict)
    grammar: Grammar | None = None
    adapter: str | None = None
    owner: str | None = None


class Grammar(Protocol):
    """Which tokens may come next, of one request: what is told to `take` each that came."""

    def allowed(self) -> Tensor: ...  # (<= V) bool: a model may have more logits than there are tokens
    def take(self, token: int) -> None: ...


class Bank(Protocol):
    """Adapters that a model can be read with, each row of a forward with its own."""

    @property
    def names(self) -> Collection[str]: ...
    def rows(self, runs: Sequence[tuple[str | None, int]]) -> None:
        """Of the next forward: which adapter, and how many of its rows in turn."""


@dataclass(frozen=True)
class New:
    """A token that was written; `finish` says why it is the last, None where more are to come."""

    token: int
    finish: Finish | None = None
    logprob: float | None = None
    likely: Sequence[Likely] = ()


class Score(NamedTuple):
    """Of a token that was given: log p in nats, and whether it was the likeliest."""

    logp: float
    best: bool


@dataclass(eq=False)
class Stream:
    """One request under way. Iterating over it has the engine work until its next token is there."""

    engine: Engine
    request: Request
    text: Text
    room: int  # tokens that may be written
    generator: Generator | None
    past: History | None
    seat: int | None = None  # of its source
    new: deque[New] = field(default_factory=deque)
    scores: list[Score] = field(default_factory=list)  # of the prompt's tokens from `scored` on
    written: int = 0
    ended: bool = False

    def __iter__(self) -> Iterator[New]:
        while not self.ended or self.new:
            if self.new:
                yield self.new.popleft()
            else:
                for stream, new in self.engine.step():
                    stream.new.append(new)

    def take(self, token: int, logprob: float | None, likely: Sequence[Likely] = ()) -> New:
        self.written += 1
        if self.past is not None:
            self.past.add(torch.tensor([token], device=self.past.seen.device))
        if self.request.grammar is not None:
            self.request.grammar.take(token)
        return New(token, finish(self, token), logprob, likely)


class Engine:
    """A model that answers many requests at once."""

    def __init__(
        self,
        model: Transformer,
        *,
        longest: int | None = None,
        blocks: int | None = None,
        size: int = SIZE,
        budget: int = BUDGET,
        texts: int = TEXTS,
        bank: Bank | None = None,
    ):
        """At most `budget` tokens of at most `texts` texts are computed at once; texts of at most `longest` tokens are
        read fastest. `blocks` of `size` tokens are kept, so many that each text has as many as the longest unless said.

        bank: the adapters that `model` was given, which requests name.
        """
        self.model, self.cfg, self.bank = model, model.cfg, bank
        self.device = model.embed.tokens.weight.device
        lane = -(-(longest or LONG) // size)
        blocks, dtype = blocks or texts * lane, cache_dtype(model)
        lane = lane if blocks >= 2 * lane else 1  # a small cache has no room for any
        self.pages = Pages(self.cfg, blocks, size, lane, dtype, self.device)
        self.sources = Sources(self.cfg, dtype, self.device) if self.cfg.encoder else None
        self.scheduler = Scheduler(blocks, size, budget, texts, lane)
        self.streams: dict[Text, Stream] = {}
        self.read: dict[bytes, Stream] = {}  # by what a source says, who has read it

    def submit(self, request: Request) -> Stream:
        """Raises ValueError, with both lengths, where the prompt leaves no room in the model's context or the cache,
        for an adapter that the engine has not, and for a request without what it needs."""
        self.check(request)
        scored = request.scored is not None
        left = 0 if scored else room(self.cfg, len(request.prompt), request.sampling.max_new)
        tokens = list(request.prompt[:-1] if scored else request.prompt)  # what comes last is foretold, and not read
        text = Text(
            tokens,
            len(tokens) + left,
            salt=salt(request),
            source=len(request.source or ()),
            reusable=None if request.scored is None else request.scored - 1,
        )
        self.scheduler.submit(text)
        greedy = request.sampling.greedy
        generator = None if greedy else request.generator or fresh(request)
        past = history([list(request.prompt)], self.cfg.vocab, request.sampling, self.device)
        stream = self.streams[text] = Stream(self, request, text, left, generator, past)
        return stream

    def check(self, request: Request) -> None:
        """Raises ValueError for what would end the step in which it is computed, and all others with it."""
        names = self.bank.names if self.bank else ()
        if request.adapter is not None and request.adapter not in names:
            raise ValueError(f"there is no adapter {request.adapter!r}: there is {', '.join(names) or 'none'}")
        if request.sampling.beams > 1:
            raise ValueError(
                f"beams are {request.sampling.beams}, and an engine writes each text along one: search with "
                "`modelwright generate` or `modelwright evaluate`"
            )
        if not request.prompt:
            raise ValueError("a request needs a prompt of at least one token")
        if (request.source is None) == (self.sources is not None) or (
            request.source is not None and not request.source
        ):
            raise ValueError("an encoder-decoder, and it alone, needs a source, of at least one token")
        if request.scored is None:
            return
        if not 0 < request.scored < len(request.prompt):
            raise ValueError(
                f"the first token to be scored is {request.scored}, and must stand behind the prompt's first and "
                f"before its end: it has {len(request.prompt)} tokens"
            )
        if not self.cfg.unbounded and len(request.prompt) - 1 > self.cfg.context:
            raise ValueError(
                f"the text has {len(request.prompt)} tokens, but the model's context is {self.cfg.context}: shorten it"
            )

    def run(self, requests: Iterable[Request]) -> list[list[New]]:
        """What is new for each, when all have ended."""
        return [list(stream) for stream in [self.submit(request) for request in requests]]

    def leave(self, stream: Stream) -> None:
        """The request has ended, or nobody waits for it any more: nothing more is computed, and its blocks are free."""
        stream.ended = True
        if self.streams.pop(stream.text, None):
            self.scheduler.leave(stream.text)
            if self.sources is not None and stream.seat is not None:
                self.sources.leave(stream.seat)
                self.read = {salt: other for salt, other in self.read.items() if other is not stream}

    @torch.inference_mode()
    def step(self) -> list[tuple[Stream, New]]:
        """Compute what the scheduler plans, and draw a token for each text that is read to its end."""
        plan = self.scheduler.plan()
        if not plan.slices:
            return []
        if plan.copies:
            self.pages.copy(plan.copies)
        slices = sorted(plan.slices, key=lambda s: self.streams[s.text].request.adapter or "")  # an adapter's together
        streams = [self.streams[s.text] for s in slices]
        with evaluating(self.model):
            hidden = torch.split(self.forward(slices), [s.end - s.start for s in slices])  # each (T, C)
            shares = list(zip(streams, slices, hidden, strict=True))
            self.score(shares)
            last = {stream: x[-1] for stream, s, x in shares if s.last}
            drawn = self.draw([stream for stream in last if stream.request.scored is None], last)
        self.scheduler.commit(plan, {stream.text: new.token for stream, new in drawn})
        for stream in last:
            if stream.request.scored is not None:
                self.leave(stream)
        for stream, new in drawn:
            if new.finish:
                self.leave(stream)
        return drawn

    def forward(self, slices: Sequence[Slice]) -> Tensor:
        """What the head reads for each new token of each slice, (N, C)."""
        for s in slices:
            self.read_source(self.streams[s.text])
        size = self.pages.size
        seats = [self.streams[s.text].seat or 0 for s in slices]
        blocks = [s.text.blocks[: -(-s.end // size)] for s in slices]
        parts = [Part(s.start, s.end, lie, seat) for s, lie, seat in zip(slices, blocks, seats, strict=True)]
        step = Step(self.pages, parts, self.sources)
        tokens = [token for s in slices for token in s.text.tokens[s.start : s.end]]
        if self.bank is not None:
            self.bank.rows([(self.streams[s.text].request.adapter, s.end - s.start) for s in slices])
        row = torch.tensor([tokens + [0] * step.spare], device=self.device)  # (1, N)
        return self.model.hidden(row, cache=step)[0, : len(tokens)]

    def read_source(self, stream: Stream) -> None:
        """An encoder-decoder's source, once; what the decoder's layers read of it is kept beside the text."""
        source = stream.request.source
        if self.sources is None or source is None or stream.seat is not None:
            return
        known = self.read.get(stream.text.salt)
        if known is not None and known.text in self.streams and known.seat is not None:
            stream.seat = self.sources.copy(known.seat)
            return
        if self.bank is not None:
            self.bank.rows([(stream.request.adapter, len(source))])
        memory = self.model.encode(torch.tensor([list(source)], device=self.device))
        stream.seat = self.sources.sit(self.model.remember(memory))
        self.read[stream.text.salt] = stream

    def score(self, shares: Sequence[tuple[Stream, Slice, Tensor]]) -> None:
        """How likely the prompts' own tokens are, of those whose requests want it: hidden (T, C) of each slice."""
        wanted: list[tuple[Stream, Tensor, Sequence[int]]] = []
        for stream, s, x in shares:
            if stream.request.scored is not None:
                first = max(s.start, stream.request.scored - 1)
                del stream.scores[first - stream.request.scored + 1 :]  # of a text that had to begin again
                if said := stream.request.prompt[first + 1 : s.end + 1]:
                    wanted.append((stream, x[first - s.start :][: len(said)], said))
        if not wanted:
            return
        targets = torch.tensor([token for _, _, said in wanted for token in said], device=self.device)  # (n)
        scores = judged(self.model.logits, torch.cat([x for _, x, _ in wanted]), targets, self.cfg.vocab)
        for stream, _, said in wanted:
            stream.scores += itertools.islice(scores, len(said))

    def draw(self, streams: Sequence[Stream], hidden: Mapping[Stream, Tensor]) -> list[tuple[Stream, New]]:
        """The next token of each text, hidden (C) each. Those that follow the same rules are drawn together."""
        if not streams:
            return []
        logits = self.model.logits(torch.stack([hidden[stream] for stream in streams]))  # (B, V)
        groups: dict[Sampling, list[int]] = {}
        for at, stream in enumerate(streams):
            groups.setdefault(stream.request.sampling, []).append(at)
        new: dict[int, New] = {}
        for sampling, rows in groups.items():
            some = [streams[at] for at in rows]
            own = logits if len(rows) == len(streams) else logits[torch.tensor(rows, device=self.device)]
            new |= zip(rows, drawn(own, some, sampling), strict=True)
        return [(stream, new[at]) for at, stream in enumerate(streams)]


def drawn(logits: Tensor, streams: Sequence[Stream], sampling: Sampling) -> list[New]:
    """One token for each stream, from logits (B, V), all by the same rules."""
    free = allowed(logits, streams)
    tokens = pick(apply_rules(free, sampling, joined(streams)), drawing(streams)).tolist()  # (B)
    logprobs: list[Any] = [None] * len(streams)
    if sampling.logprobs:
        logps = logits.float().log_softmax(-1)
        logprobs = [logps[row, token].item() for row, token in enumerate(tokens)]
    beside = [beside_it(stream, logits[row, None], free[row, None]) for row, stream in enumerate(streams)]
    return [s.take(*said) for s, *said in zip(streams, tokens, logprobs, beside, strict=True)]


def beside_it(stream: Stream, logits: Tensor, free: Tensor) -> Sequence[Likely]:
    """What else might have been drawn, from logits (1, V), of which `free` are those that the rules began with."""
    request = stream.request
    if not request.likely:
        return ()
    changed = request.bias or request.grammar is not None
    return likely(logits, request.likely, request.sampling, stream.past, free if changed else None)


def allowed(logits: Tensor, streams: Sequence[Stream]) -> Tensor:
    """logits (B, V) with what requests have added to some tokens, and without those that a grammar forbids."""
    changed = logits
    for row, stream in enumerate(streams):
        if stream.request.bias or stream.request.grammar is not None:
            changed = logits.clone() if changed is logits else changed
            for token, bias in stream.request.bias.items():
                changed[row, token] += bias
            if stream.request.grammar is not None:
                free = stream.request.grammar.allowed().to(logits.device)
                changed[row, : len(free)].masked_fill_(~free, NEVER)
                changed[row, len(free) :] = NEVER
    return changed


def finish(stream: Stream, token: int) -> Finish | None:
    """Why a text ends with this token, None where it does not."""
    if token in stream.request.ends:
        return "stop"
    if stream.written < stream.room:
        return None
    return "length" if stream.room == stream.request.sampling.max_new else "context"


def judged(head: Callable[[Tensor], Tensor], x: Tensor, targets: Tensor, vocab: int) -> Iterator[Score]:
    """x (n, C), targets (n); a part of the logits at a time."""
    at_once = rows_at_once(vocab)
    for some, said in zip(torch.split(x, at_once), torch.split(targets, at_once), strict=True):
        logits = head(some).float()  # (<= at_once, V)
        logps = logits.log_softmax(-1).gather(-1, said[:, None])[:, 0]
        yield from map(Score, logps.tolist(), (logits.argmax(-1) == said).tolist())


def joined(streams: Sequence[Stream]) -> History | None:
    """What was said so far in each, as one."""
    pasts = [stream.past for stream in streams if stream.past is not None]
    return History(torch.cat([p.seen for p in pasts]), torch.cat([p.counts for p in pasts])) if pasts else None


def drawing(streams: Sequence[Stream]) -> list[Generator] | None:
    found = [stream.generator for stream in streams if stream.generator is not None]
    return found or None


def salt(request: Request) -> bytes:
    """What keys and values depend on beside the tokens before, an adapter and what an encoder has read; and whose they
    are."""
    apart = request.owner, request.adapter, request.source and [*request.source]
    return hashlib.blake2b(repr(apart).encode()).digest() if any(apart) else b""


def fresh(request: Request) -> Generator:
    seed = secrets.randbits(63) if request.sampling.seed is None else request.sampling.seed
    return generators([request.source or request.prompt], 1, seed)[0]


def room(cfg: Config, prompt: int, max_new: int) -> int:
    """How many tokens may follow a prompt of so many: at most max_new, and with it at most the context.

    Relative positions (T5's) have no end. Raises ValueError, with both lengths, where there is no room for one.
    """
    if cfg.unbounded:
        return max_new
    if prompt >= cfg.context:
        raise ValueError(
            f"the prompt has {prompt} tokens, but the model's context is {cfg.context}, prompt and continuation "
            f"together: shorten the prompt to at most {cfg.context - 1} tokens"
        )
    return min(max_new, cfg.context - prompt)


@contextmanager
def evaluating(model: Transformer) -> Iterator[None]:
    """Without dropout, and afterwards as it was."""
    training = model.training
    model.eval() if training else None
    try:
        yield
    finally:
        model.train(training) if training else None
