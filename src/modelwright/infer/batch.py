"""Requests of any lengths, computed together: they join and leave a running batch between two steps.

    engine = Engine(model)
    streams = [engine.submit(request) for request in requests]
    for new in streams[0]: ...          # its tokens as they come; the others go on beside it

Each step is one forward over a single row in which the new tokens of many texts stand one after the other: a token of
each that is being written, and parts of prompts. So nothing is padded, and products read every weight once for all.

N tokens in a step, C width, V vocabulary.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Generator, Tensor

from modelwright.infer.packed import cache_dtype
from modelwright.infer.sample import History, Sampling, apply_rules, generators, history, pick
from modelwright.infer.scheduler import Scheduler, Slice, Text
from modelwright.model.cache import Pages, Pair, Part, Step
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
    scores: list[float] = field(default_factory=list)  # log p of the prompt's tokens from `scored` on
    written: int = 0
    ended: bool = False

    def __iter__(self) -> Iterator[New]:
        while not self.ended or self.new:
            if self.new:
                yield self.new.popleft()
            else:
                self.engine.step()

    def stop(self) -> None:
        """Nobody waits for it any more: nothing more is computed, and its blocks are free."""
        self.engine.leave(self)


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
        self.model, self.cfg = model.eval(), model.cfg
        self.device = model.embed.tokens.weight.device
        blocks = blocks or texts * -(-LONG // size)
        self.pages = Pages(self.cfg, blocks, size, cache_dtype(model), self.device)
        self.scheduler = Scheduler(blocks, size, budget, texts)
        self.streams: dict[Text, Stream] = {}

    def submit(self, request: Request) -> Stream:
        """Raises ValueError, with both lengths, where the prompt leaves no room in the model's context or the cache."""
        writes = request.sampling.max_new if request.scored is None else 0
        left = room(self.cfg, len(request.prompt), writes) if writes else 0
        text = Text(
            list(request.prompt),
            len(request.prompt) + left,
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

    def leave(self, stream: Stream) -> None:
        stream.ended = True
        if self.streams.pop(stream.text, None):
            self.scheduler.leave(stream.text)

    @torch.inference_mode()
    def step(self) -> None:
        """Compute what the scheduler plans, and draw a token for each text that is read to its end."""
        plan = self.scheduler.plan()
        if plan.copies:
            self.pages.copy(plan.copies)
        slices = plan.slices
        hidden = self.forward(slices)  # (N, C)
        shares = hidden.split([s.end - s.start for s in slices])
        for s, share in zip(slices, shares, strict=True):
            self.score(s, share)
        last = [(self.streams[s.text], share[-1]) for s, share in zip(slices, shares, strict=True) if self.draws(s)]
        drawn = self.draw([stream for stream, _ in last], torch.stack([x for _, x in last])) if last else {}
        self.scheduler.commit(plan, {stream.text: new.token for stream, new in drawn.items()})
        for stream, new in drawn.items():
            stream.new.append(new)
        ended = [stream for stream, new in drawn.items() if new.finish]
        ended += [self.streams[s.text] for s in slices if s.last and self.streams[s.text].request.scored is not None]
        for stream in ended:
            self.leave(stream)

    def forward(self, slices: Sequence[Slice]) -> Tensor:
        """What the head reads for each new token of each slice, (N, C)."""
        for s in slices:
            self.read_source(self.streams[s.text])
        size = self.pages.size
        parts = [
            Part(s.start, s.end, s.text.blocks[: -(-s.end // size)], self.streams[s.text].cross) for s in slices
        ]
        tokens = [token for s in slices for token in s.text.tokens[s.start : s.end]]
        return self.model.hidden(torch.tensor([tokens], device=self.device), cache=Step(self.pages, parts))[0]

    def read_source(self, stream: Stream) -> None:
        """An encoder-decoder's source, once; what the decoder's layers read of it is kept beside the text."""
        source = stream.request.source
        if source is not None and not stream.cross:
            memory = self.model.encode(torch.tensor([list(source)], device=self.device))
            dtype = self.pages.k[0].dtype
            stream.cross = [(k.to(dtype), v.to(dtype)) for k, v in self.model.remember(memory)]

    def score(self, s: Slice, hidden: Tensor) -> None:
        """Log-probabilities of the prompt's own tokens, from the first that is wanted on."""
        stream = self.streams[s.text]
        if (scored := stream.request.scored) is None:
            return
        first = max(s.start, scored - 1)
        targets = torch.tensor(s.text.tokens[first + 1 : s.end + 1], device=self.device)[None]  # (1, T)
        if targets.numel():
            x = hidden[None, first - s.start : first - s.start + targets.size(1)]
            stream.scores += self.model.head.logps(x, targets)[0].tolist()

    def draws(self, s: Slice) -> bool:
        return s.last and self.streams[s.text].request.scored is None

    def draw(self, streams: Sequence[Stream], hidden: Tensor) -> dict[Stream, New]:
        """The next token of each text, hidden (B, C). Texts that follow the same rules are drawn together."""
        logits = self.model.logits(hidden)  # (B, V)
        groups: dict[tuple[Sampling, bool], list[int]] = {}
        for at, stream in enumerate(streams):
            groups.setdefault((stream.request.sampling, stream.past is not None), []).append(at)
        chosen: dict[int, tuple[int, float | None]] = {}
        for (sampling, _), rows in groups.items():
            some = [streams[at] for at in rows]
            own = logits if len(rows) == len(streams) else logits[torch.tensor(rows, device=self.device)]
            tokens = pick(apply_rules(own, sampling, joined(some)), drawing(some))
            logprobs = [None] * len(rows)
            if sampling.logprobs:
                logprobs = own.float().log_softmax(-1).gather(1, tokens[:, None])[:, 0].tolist()
            chosen |= dict(zip(rows, zip(tokens.tolist(), logprobs, strict=True), strict=True))
        return {stream: self.take(stream, *chosen[at]) for at, stream in enumerate(streams)}

    def take(self, stream: Stream, token: int, logprob: float | None) -> New:
        stream.written += 1
        if stream.past is not None:
            stream.past.add(torch.tensor([token], device=self.device))
        return New(token, finish(stream, token), logprob)


def finish(stream: Stream, token: int) -> Finish | None:
    """Why a text ends with this token, None where it does not."""
    if token in stream.request.ends:
        return "stop"
    if stream.written < stream.room:
        return None
    return "length" if stream.room == stream.request.sampling.max_new else "context"


def joined(streams: Sequence[Stream]) -> History | None:
    """What was said so far in each, as one."""
    pasts = [stream.past for stream in streams if stream.past is not None]
    return History(torch.cat([p.seen for p in pasts]), torch.cat([p.counts for p in pasts])) if pasts else None


def drawing(streams: Sequence[Stream]) -> list[Generator] | None:
    found = [stream.generator for stream in streams if stream.generator is not None]
    return found or None


def salt(request: Request) -> bytes:
    """What keys and values depend on beside the tokens before."""
    return b"" if request.source is None else b"source %d " % len(request.source) + secrets.token_bytes(16)


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
