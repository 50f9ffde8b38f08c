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
from typing import Any, Literal, NamedTuple

import torch
from torch import Generator, Tensor

from modelwright.infer.packed import cache_dtype
from modelwright.infer.sample import History, Sampling, apply_rules, generators, history, pick
from modelwright.infer.scheduler import Scheduler, Slice, Text
from modelwright.model.cache import Pages, Pair, Part, Step
from modelwright.model.logps import rows_at_once
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
    prompt's tokens whose log-probability is wanted.
    """

    prompt: Sequence[int]
    sampling: Sampling
    source: Sequence[int] | None = None
    ends: Collection[int] = ()
    scored: int | None = None
    generator: Generator | None = None


@dataclass(frozen=True)
class New:
    """A token that was written; `finish` says why it is the last, None where more are to come."""

    token: int
    finish: Finish | None = None
    logprob: float | None = None


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
    cross: list[Pair] = field(default_factory=list)
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

    def take(self, token: int, logprob: float | None) -> New:
        self.written += 1
        if self.past is not None:
            self.past.add(torch.tensor([token], device=self.past.seen.device))
        return New(token, finish(self, token), logprob)


class Engine:
    """A model that answers many requests at once."""

    def __init__(
        self,
        model: Transformer,
        *,
        blocks: int | None = None,
        size: int = SIZE,
        budget: int = BUDGET,
        texts: int = TEXTS,
    ):
        """`blocks` of `size` tokens are kept; at most `budget` tokens of at most `texts` texts are computed at once."""
        self.model, self.cfg = model, model.cfg
        self.device = model.embed.tokens.weight.device
        blocks = blocks or texts * -(-LONG // size)
        self.pages = Pages(self.cfg, blocks, size, cache_dtype(model), self.device)
        self.scheduler = Scheduler(blocks, size, budget, texts)
        self.streams: dict[Text, Stream] = {}

    def submit(self, request: Request) -> Stream:
        """Raises ValueError, with both lengths, where the prompt leaves no room in the model's context or the cache."""
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

    def run(self, requests: Iterable[Request]) -> list[list[New]]:
        """What is new for each, when all have ended."""
        return [list(stream) for stream in [self.submit(request) for request in requests]]

    def leave(self, stream: Stream) -> None:
        """The request has ended, or nobody waits for it any more: nothing more is computed, and its blocks are free."""
        stream.ended, stream.cross = True, []
        if self.streams.pop(stream.text, None):
            self.scheduler.leave(stream.text)

    @torch.inference_mode()
    def step(self) -> list[tuple[Stream, New]]:
        """Compute what the scheduler plans, and draw a token for each text that is read to its end."""
        plan = self.scheduler.plan()
        if plan.copies:
            self.pages.copy(plan.copies)
        streams = [self.streams[s.text] for s in plan.slices]
        with evaluating(self.model):
            hidden = torch.split(self.forward(plan.slices), [s.end - s.start for s in plan.slices])  # each (T, C)
            shares = list(zip(streams, plan.slices, hidden, strict=True))
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
        parts = [Part(s.start, s.end, s.text.blocks[: -(-s.end // size)], self.streams[s.text].cross) for s in slices]
        tokens = [token for s in slices for token in s.text.tokens[s.start : s.end]]
        return self.model.hidden(torch.tensor([tokens], device=self.device), cache=Step(self.pages, parts))[0]

    def read_source(self, stream: Stream) -> None:
        """An encoder-decoder's source, once; what the decoder's layers read of it is kept beside the text."""
        source = stream.request.source
        if source is None or stream.cross:
            return
        alike = (other.cross for other in self.streams.values() if other.text.salt == stream.text.salt and other.cross)
        if (known := next(alike, None)) is not None:
            stream.cross = known
        else:
            memory = self.model.encode(torch.tensor([list(source)], device=self.device))
            dtype = self.pages.k[0].dtype
            stream.cross = [(k.to(dtype), v.to(dtype)) for k, v in self.model.remember(memory)]

    def score(self, shares: Sequence[tuple[Stream, Slice, Tensor]]) -> None:
        """How likely the prompts' own tokens are, of those whose requests want it: hidden (T, C) of each slice."""
        wanted: list[tuple[Stream, Tensor, Sequence[int]]] = []
        for stream, s, x in shares:
            if stream.request.scored is not None:
                first = max(s.start, stream.request.scored - 1)
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
            tokens = pick(apply_rules(own, sampling, joined(some)), drawing(some))  # (rows)
            logprobs: list[Any] = [None] * len(rows)
            if sampling.logprobs:
                logprobs = own.float().log_softmax(-1).gather(1, tokens[:, None])[:, 0].tolist()
            new |= {at: streams[at].take(*said) for at, *said in zip(rows, tokens.tolist(), logprobs, strict=True)}
        return [(stream, new[at]) for at, stream in enumerate(streams)]


def blocks_for(lengths: Sequence[int], size: int = SIZE, texts: int = TEXTS) -> int:
    """How many blocks hold the longest of these texts side by side, as many as are computed together."""
    return sum(-(-length // size) + 1 for length in sorted(lengths)[-texts:])


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
    """What keys and values depend on beside the tokens before."""
    return b"" if request.source is None else hashlib.blake2b(",".join(map(str, request.source)).encode()).digest()


def fresh(request: Request) -> Generator:
    seed = secrets.randbits(63) if request.sampling.seed is None else request.sampling.seed
    return generators([request.source or request.prompt], 1, seed)[0]


def room(cfg: Config, prompt: int, max_new: int) -> int:
    """How many tokens may follow a prompt of so many: at most max_new, and with it at most the context.

    Relative positions (T5's) have no end. Raises ValueError, with both lengths, where there is no room for one.
    """
    if cfg.relative is not None:
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
