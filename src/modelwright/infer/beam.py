"""Beam search: the likeliest whole text, looked for along several continuations at once.

The likeliest token each time need not make the likeliest text. Beam search keeps the W likeliest continuations of equal
length, the beams; each step takes the likeliest tokens behind any of them, and what has ended is set aside. It is no
concern of the scheduler: the beams of a text are rows of a static cache, which all write the same slots.

B rows of a forward: R texts with W beams each. K candidates, V vocabulary, S slots, T length.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from modelwright.infer.engine import Finish, evaluating, room
from modelwright.infer.packed import cache_dtype
from modelwright.infer.sample import NEVER, Sampling
from modelwright.infer.text import Encoded, Writer
from modelwright.model.cache import Cache
from modelwright.model.transformer import Memory, Transformer

ROWS = 128  # beams in a forward, of all texts together
TOKENS = 32_768  # that the cache of a forward has room for, sources counted
CHUNK = 64  # logits that are looked at as one when the likeliest are looked for; measured


class Hypothesis(NamedTuple):
    """A text that has ended: its tokens, the EOS included, log p of each, and what it is ranked by."""

    tokens: tuple[int, ...]
    logps: tuple[float, ...]
    score: float
    finish: Finish


class Beam(NamedTuple):
    """A text that may go on. `writer` has written it, where a stop string may end it."""

    tokens: tuple[int, ...] = ()
    logps: tuple[float, ...] = ()
    total: float = 0.0  # log p of all tokens
    writer: Writer | None = None


class Candidate(NamedTuple):
    """One more token behind a beam, and log p of all with it."""

    total: float
    parent: int
    token: int
    logp: float


def score(total: float, length: int, penalty: float) -> float:
    """log p / length**penalty: what hypotheses of several lengths are ranked by, higher being better.

    A sum of log-probabilities falls with every token, so that without a penalty (0) short texts win; 1 is the mean; the
    larger, the longer the texts. The length is that of what was written, an EOS counted, the prompt not. This is the
    penalty of transformers, whose settings models are published with, and of OpenNMT's `avg`; Wu et al. 2016, eq. 14,
    divide by ((5 + length) / 6)**alpha instead, which favours length less among short texts.
    """
    return total / float(length**penalty)


@dataclass
class Search:
    """One text: its live beams, each in its row of the cache, and the best of what has ended, best first."""

    room: int
    limited: bool  # whether the context, and not `max_new`, says what room there is
    live: list[Beam]
    ended: list[Hypothesis] = field(default_factory=list)

    def step(self, best: Sequence[Candidate], beams: int, penalty: float, ends: Collection[int]) -> list[int]:
        """Go on with the candidates, the best first; which beam each of the new ones continues.

        One that ends is taken if it is among the first W: those behind are there only to go on in its place.
        """
        going: list[tuple[int, Beam]] = []
        for rank, one in enumerate(best):
            beam, finish = self.follow(one, ends)
            if finish is None and len(going) < beams:
                going.append((one.parent, beam))
            elif finish is not None and rank < beams:
                found = Hypothesis(beam.tokens, beam.logps, score(one.total, len(beam.tokens), penalty), finish)
                self.ended.append(found)
        self.ended = sorted(self.ended, key=lambda one: -one.score)[:beams]
        parents, self.live = seated(going, beams)
        return parents

    def follow(self, one: Candidate, ends: Collection[int]) -> tuple[Beam, Finish | None]:
        """The beam with one more token, and why it ends with it."""
        before = self.live[one.parent]
        writer = None if before.writer is None else before.writer.fork()
        if writer is not None and one.token not in ends:
            writer.push(one.token)
        beam = Beam((*before.tokens, one.token), (*before.logps, one.logp), one.total, writer)
        if one.token in ends or (writer is not None and writer.stopped):
            return beam, "stop"
        if len(beam.tokens) < self.room:
            return beam, None
        return beam, "context" if self.limited else "length"

    def done(self, beams: int, penalty: float) -> bool:
        """Whether no beam, were it to end now, would still be among the best W.

        A guess, as transformers makes it (`early_stopping=False`): with a penalty above 0 a beam may yet come to a
        better score by its length.
        """
        best = max(self.live, key=lambda beam: beam.total)
        if best.total == NEVER:
            return True
        return len(self.ended) == beams and score(best.total, len(best.tokens), penalty) <= self.ended[-1].score


def seated(going: Sequence[tuple[int, Beam]], beams: int) -> tuple[list[int], list[Beam]]:
    """W beams in their rows, and which row each continues: the first behind a beam takes its row, which then need not
    be copied. Where there are fewer, dead ones stand in."""
    dead = (0, Beam(total=NEVER))
    places: list[tuple[int, Beam] | None] = [None] * beams
    others = []
    for parent, beam in going:
        if places[parent] is None:
            places[parent] = (parent, beam)
        else:
            others.append((parent, beam))
    rest = iter(others)
    full = [place or next(rest, dead) for place in places]
    return [parent for parent, _ in full], [beam for _, beam in full]


# -- a forward -----------------------------------------------------------------------------------


def likeliest(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest of logits (B, V): values and tokens, (B, k) each, the highest first.

    They are in the k chunks that hold the highest values, which are found without sorting a vocabulary.
    """
    B, V = logits.shape
    if 4 * k * CHUNK > V:
        values, tokens = logits.topk(min(k, V))
        return values, tokens
    whole = torch.arange(V - V % CHUNK, device=logits.device).view(-1, CHUNK)
    highest = logits[:, : whole.numel()].reshape(B, -1, CHUNK).amax(-1).topk(k).indices  # (B, k)
    rest = torch.arange(whole.numel(), V, device=logits.device).expand(B, -1)
    near = torch.cat([whole[highest].flatten(1), rest], 1)  # (B, k * CHUNK + rest)
    values, at = logits.gather(1, near).topk(k)
    return values, near.gather(1, at)


def candidates(logits: Tensor, totals: Tensor, k: int, never: Collection[int] = ()) -> list[list[Candidate]]:
    """The k likeliest texts with one more token, of each of R: logits (R * W, V), log p of the beams totals (R, W).

    What may never be written keeps its share of the probability, as in transformers.
    """
    logits = logits.float()
    whole = logits.logsumexp(-1, keepdim=True)  # (R * W, 1)
    if never:
        logits = logits.index_fill(1, torch.tensor(sorted(never), device=logits.device), NEVER)
    values, tokens = likeliest(logits, k)
    logps = values - whole  # (R * W, k)
    R, each = len(totals), logps.size(-1)
    sums = (totals[..., None] + logps.view(R, -1, each)).flatten(1)  # (R, W * k)
    best, at = sums.topk(min(k, sums.size(1)))
    columns = best, at // each, tokens.view(R, -1).gather(1, at), logps.view(R, -1).gather(1, at)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [[Candidate(*one) for one in zip(*row, strict=True) if one[0] > NEVER] for row in rows]


def padded(rows: Sequence[Sequence[int]], device: torch.device, left: bool) -> tuple[Tensor, Tensor | None]:
    """Ids (R, T) and segments (R, T), 0 where there is padding; None where there is none."""
    longest = max(map(len, rows))
    gaps = [[0] * (longest - len(row)) for row in rows]
    ids = [[*gap, *row] if left else [*row, *gap] for gap, row in zip(gaps, rows, strict=True)]
    marks = [[*gap, *[1] * len(row)] if left else [*[1] * len(row), *gap] for gap, row in zip(gaps, rows, strict=True)]
    return torch.tensor(ids, device=device), torch.tensor(marks, device=device) if any(gaps) else None


class Texts:
    """What the model has read of R texts, each in one row and then in a row for each beam."""

    def __init__(self, model: Transformer, prompts: Encoded, new: int):
        self.model, device = model, model.embed.tokens.weight.device
        self.memory = None
        if prompts.sources is not None:
            source, marks = padded(prompts.sources, device, left=False)
            self.memory = model.encode(source, segment=marks)
        self.tokens, self.segment = padded(prompts.prompts, device, left=True)  # (R, T)
        self.cache = Cache(model.cfg, *(len(self.tokens), self.tokens.size(1) + new), cache_dtype(model), device)

    def first(self) -> Tensor:
        """Read the prompts: logits (R, V) of what comes next."""
        pos = None if self.segment is None else (self.segment.cumsum(1) - 1).clamp(min=0)  # (R, T)
        return self.read(self.tokens, pos, self.segment)

    def next(self, rows: list[int], tokens: list[int], alike: list[int]) -> Tensor:
        """Keep these rows and read a token behind each: logits (B, V). `alike`: of Cache.select, in new tokens."""
        device, prompt = self.tokens.device, self.tokens.size(1)
        self.cache.select(torch.tensor(rows, device=device), torch.tensor(alike, device=device) + prompt)
        return self.read(torch.tensor(tokens, device=device)[:, None])

    def read(self, tokens: Tensor, pos: Tensor | None = None, segment: Tensor | None = None) -> Tensor:
        memory = self.memory
        if memory is not None and memory.segment is not None:
            # The cache holds what is read of x: only its length is looked at again.
            memory = Memory(memory.x, memory.segment[self.cache.source])
        x = self.model.hidden(tokens, pos=pos, segment=segment, memory=memory, cache=self.cache)  # (B, T, C)
        return self.model.logits(x[:, -1])


def together(
    model: Transformer,
    prompts: Encoded,
    sampling: Sampling,
    ends: Collection[int],
    writers: Sequence[Writer] | None,
    never: Collection[int] = (),
) -> list[list[Hypothesis]]:
    """The hypotheses of texts that share every forward; one that is done leaves it."""
    beams, penalty, wanted = sampling.beams, sampling.length_penalty, max(2, 1 + len(ends)) * sampling.beams
    rooms = [room(model.cfg, len(prompt), sampling.max_new) for prompt in prompts.prompts]
    searches = [
        Search(left, left < sampling.max_new, [Beam(writer=writers[at] if writers else None)])
        for at, left in enumerate(rooms)
    ]
    texts, under_way = Texts(model, prompts, max(rooms)), searches
    logits = texts.first()
    while True:
        totals = torch.tensor([[beam.total for beam in one.live] for one in under_way], device=logits.device)
        rows, alike, going = list[int](), list[int](), list[Search]()
        for at, (one, best) in enumerate(zip(under_way, candidates(logits, totals, wanted, never), strict=True)):
            before = one.live
            parents = one.step(best, beams, penalty, ends)
            if not one.done(beams, penalty):
                going.append(one)
                rows += [at * len(before) + parent for parent in parents]
                alike += shared(before, parents) if len(before) == beams else [0] * beams
        if not (under_way := going):
            return [one.ended for one in searches]
        logits = texts.next(rows, [beam.tokens[-1] if beam.tokens else 0 for one in going for beam in one.live], alike)


def shared(before: Sequence[Beam], parents: Sequence[int]) -> list[int]:
    """With how many tokens the beam that was in a row, and the one that comes, begin alike."""
    pairs = [(before[at].tokens, before[parent].tokens) for at, parent in enumerate(parents)]
    return [next((i for i, (a, b) in enumerate(zip(x, y, strict=False)) if a != b), 0) for x, y in pairs]


def beam_search(
    model: Transformer,
    prompts: Encoded,
    sampling: Sampling,
    ends: Collection[int],
    writers: Sequence[Writer] | None = None,
    never: Collection[int] = (),
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """The `sampling.n` best texts of each prompt with which of the prompts it is, some prompts at a time, short first.

    A text ends at one of `ends`, at a stop string (`writers`, one a prompt, each with the prompt's end written), after
    `sampling.max_new` tokens or where the context is full, and holds none of `never`. What is found equals
    transformers' beam search with `num_beams`, `length_penalty` and `early_stopping=False`, but that a BART's forced
    first token, which is given here and written there, makes its texts longer by one; a vocabulary too small for n
    texts gives fewer.
    Raises ValueError where a prompt leaves no room in the context.
    """
    for some in parts(model, prompts, sampling):
        with evaluating(model), torch.inference_mode():
            found = together(model, prompts.part(some), sampling, ends, writers and [writers[at] for at in some], never)
        for at, best in zip(some, found, strict=True):
            yield at, best[: sampling.n]


def parts(model: Transformer, prompts: Encoded, sampling: Sampling) -> Iterator[list[int]]:
    """Prompts of like lengths, as many as fit into a forward."""
    sizes = [len(prompt) + room(model.cfg, len(prompt), sampling.max_new) for prompt in prompts.prompts]
    sizes = [size + len(prompts.sources[at] if prompts.sources else ()) for at, size in enumerate(sizes)]
    read, some = prompts.sources or prompts.prompts, list[int]()
    for at in sorted(range(len(read)), key=lambda at: len(read[at])):
        rows = (len(some) + 1) * sampling.beams
        if some and (rows > ROWS or rows * max(sizes[i] for i in (*some, at)) > TOKENS):
            yield some
            some = []
        some.append(at)
    if some:
        yield some
