"""Continuations of prompts: a batch of rows, one token each a step, until each has its end.

`generate_tokens` works on ids; `complete`, `generate` and `stream` on text; an encoder does `fill_mask` instead.
A prompt is computed once whatever number of samples it has; rows that are done leave the batch.

B rows, T prompt length, S slots of the cache, C width, V vocabulary.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from modelwright.infer.packed import cache_dtype, prepare
from modelwright.infer.sample import History, Sampling, apply_rules, generators, history, pick, settings
from modelwright.infer.text import (
    Encoded,
    LanguageModel,
    Writer,
    encode,
    encode_prompts,
    eos_ids,
    refuse_labels,
    writer,
)
from modelwright.model.cache import Cache
from modelwright.model.transformer import Config, Memory, Transformer

Finish = Literal["stop", "length", "context"]
ROWS = 32  # rows decoded together; more prompts than this take turns
SHARING_PAYS = 256  # tokens not read twice that are worth a forward pass of their own
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
class Step:
    """One new token of one row; `finish` says why it is the row's last, None where more are to come."""

    row: int
    token: int
    finish: Finish | None = None
    logprob: float | None = None


# -- tokens --------------------------------------------------------------------------------------


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


def pad_left(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Rows of ids as one batch: tokens, positions, segments, each (B, T); only tokens where all are as long.

    The last token of every row stands in the last column, so that a new one can follow; padding is segment 0.
    """
    longest = max(map(len, rows))
    tokens = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=device)
    if all(len(row) == longest for row in rows):
        return tokens, None, None
    pads = torch.tensor([longest - len(row) for row in rows], device=device)[:, None]  # (B, 1)
    pos = torch.arange(longest, device=device)[None] - pads  # (B, T), below 0 at padding
    return tokens, pos.clamp(min=0), (pos >= 0).long()


@dataclass
class Rows:
    """What the rows still in the batch need for their next token."""

    ids: list[int]  # which of the caller's rows each one is
    generators: list[Generator] | None  # None: greedy
    past: History | None
    cache: Cache
    memory: Memory | None
    hidden: Tensor  # (B, C), of the newest token

    def keep(self, kept: list[int]) -> None:
        """Only these of the rows, by place in the batch; a place named twice makes two rows."""
        rows = torch.tensor(kept, device=self.hidden.device)
        self.ids = [self.ids[i] for i in kept]
        self.generators = self.generators and [self.generators[i] for i in kept]
        if self.past is not None:
            self.past.select(rows)
        self.cache.select(rows)
        if self.memory is not None:
            segment = self.memory.segment
            self.memory = Memory(self.memory.x[rows], None if segment is None else segment[rows])
        self.hidden = self.hidden[rows]


@torch.inference_mode()
def generate_tokens(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    eos: Collection[int] = (),
    sources: Sequence[Sequence[int]] | None = None,
    random: list[Generator] | None = None,
    ended: Callable[[Step], bool] = lambda step: False,
) -> Iterator[list[Step]]:
    """One list of steps for each forward pass: a new token for each row that is not done.

    prompts: ids, none empty, of any lengths; of an encoder-decoder what its decoder begins with, and `sources` is what
    its encoder reads. Sample j of prompt i is row i * n + j. `random` has a generator for each row (else they come from
    the sampling's seed). `ended` is asked after each token whether the row is to end here, finish "stop".

    Raises ValueError where a prompt leaves no room in the context.
    """
    n = sampling.n
    rooms = [room(model.cfg, len(prompt), sampling.max_new) for prompt in prompts for _ in range(n)]
    if random is None and not sampling.greedy:
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        random = generators(sources or prompts, n, seed)
    with evaluating(model):
        rows = prefill(model, prompts, sources, max(rooms), sampling)
        rows.keep([i for i in range(len(prompts)) for _ in range(n)]) if n > 1 else None
        rows.ids, rows.generators = list(range(len(rooms))), None if sampling.greedy else random
        written, done = [0] * len(rooms), [False] * len(rooms)
        lengths = [len(prompt) for prompt in prompts for _ in range(n)]
        for count in itertools.count(1):
            chosen, logprobs = draw(model.logits(rows.hidden), rows, sampling)
            steps = []
            for row, token, logprob in zip(rows.ids, chosen.tolist(), logprobs, strict=True):
                if done[row]:
                    continue
                written[row] += 1
                step = Step(row, token, None, logprob)
                finish = finished(step, written[row], rooms[row], sampling.max_new, eos, ended)
                done[row] = finish is not None
                steps.append(Step(row, token, finish, logprob))
            yield steps
            live = [i for i, row in enumerate(rows.ids) if not done[row]]
            if not live:
                return
            # A row that is done goes on beside the others, but not beyond the last position that was learned.
            full = model.cfg.learned and any(lengths[row] + count > model.cfg.context for row in rows.ids if done[row])
            if 2 * len(live) <= len(rows.ids) or full:  # moving the cache costs about as much as one step
                rows.keep(live)
                chosen = chosen[torch.tensor(live, device=chosen.device)]
            rows.hidden = model.hidden(chosen[:, None], memory=rows.memory, cache=rows.cache)[:, -1]


def prefill(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    sources: Sequence[Sequence[int]] | None,
    new: int,
    sampling: Sampling,
) -> Rows:
    """Read the prompts (and the sources), one row each, into a cache with room for `new` tokens more.

    What all prompts begin with (an instruction, the same examples) is read once.
    """
    device = model.embed.tokens.weight.device
    memory = None if sources is None else model.encode(*pad_left(sources, device))
    start = shared_start(prompts) if memory is None else 0
    tokens, pos, segment = pad_left([prompt[start:] for prompt in prompts], device)
    cache = Cache(model.cfg, 1 if start else len(prompts), start + tokens.size(1) + new, cache_dtype(model), device)
    if start:
        model.hidden(torch.tensor([prompts[0][:start]], device=device), cache=cache)
        cache.select(torch.zeros(len(prompts), dtype=torch.long, device=device))
        pos = pos if pos is None else pos + start
    hidden = model.hidden(tokens, pos=pos, segment=segment, memory=memory, cache=cache)[:, -1]  # (B, C)
    past = history(prompts, model.cfg.vocab, sampling, device)
    return Rows(list(range(len(prompts))), None, past, cache, memory, hidden)


def shared_start(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, the last of each left out; 0 where reading them once saves little."""
    first, last = min(map(list, prompts)), max(map(list, prompts))  # in order: what these two share, all share
    longest = min(map(len, prompts)) - 1
    alike = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), longest)
    start = min(alike, longest)
    return start if (len(prompts) - 1) * start >= SHARING_PAYS else 0


def draw(logits: Tensor, rows: Rows, sampling: Sampling) -> tuple[Tensor, list[float] | list[None]]:
    """The next token of each row (B,) from logits (B, V), and its log-probability under the model."""
    chosen = pick(apply_rules(logits, sampling, rows.past), rows.generators)  # (B,)
    if rows.past is not None:
        rows.past.add(chosen)
    if not sampling.logprobs:
        return chosen, [None] * len(chosen)
    return chosen, logits.float().log_softmax(-1).gather(1, chosen[:, None])[:, 0].tolist()


def finished(
    step: Step, written: int, room: int, max_new: int, eos: Collection[int], ended: Callable[[Step], bool]
) -> Finish | None:
    """Why a row ends with this token, None where it does not."""
    if step.token in eos or ended(step):
        return "stop"
    if written < room:
        return None
    return "length" if room == max_new else "context"


@contextmanager
def evaluating(model: Transformer) -> Iterator[None]:
    """Without dropout, and afterwards as it was."""
    training = model.training
    model.eval() if training else None
    try:
        yield
    finally:
        model.train(training) if training else None


# -- text ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """New text of one row, perhaps none; with the last comes the whole completion."""

    row: int
    text: str
    completion: Completion | None = None


@dataclass
class Draft:
    """One row being written."""

    writer: Writer
    pieces: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


def pieces(lm: LanguageModel, prompts: Sequence[str], sampling: Sampling) -> Iterator[Piece]:
    """The continuations as they are written. Sample j of prompt i is row i * n + j.

    Prompts beyond what is decoded together take turns, the shortest first. No prompts give no pieces.
    """
    encoded = encode_prompts(lm, prompts)
    read = encoded.sources or encoded.prompts
    for prompt in encoded.prompts:
        room(lm.model.cfg, len(prompt), sampling.max_new)  # before any work is done
    seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
    random = generators(read, sampling.n, seed)
    # By the length alone, so that a prompt's numbers do not depend on how many others there are. Packed weights are not
    # kept for the next call: a write through a parameter's `.data` leaves no trace that would tell they are stale.
    model = prepare(lm.model) if prompts and sampling.max_new >= PACKING_PAYS else lm.model
    for some in turns(read, max(1, ROWS // sampling.n)):
        rows = [i * sampling.n + j for i in some for j in range(sampling.n)]
        for piece in turn(lm, model, encoded.part(some), sampling, [random[row] for row in rows]):
            yield Piece(rows[piece.row], piece.text, piece.completion)


def turns(read: Sequence[Sequence[int]], at_once: int = ROWS) -> Iterator[list[int]]:
    """Places of the prompts that are decoded together, the shortest first."""
    order = sorted(range(len(read)), key=lambda at: len(read[at]))
    yield from (order[i : i + at_once] for i in range(0, len(order), at_once))


def turn(
    lm: LanguageModel,
    model: Transformer,
    encoded: Encoded,
    sampling: Sampling,
    random: list[Generator],
    ends: Collection[int] = (),
) -> Iterator[Piece]:
    """The continuations of prompts that are decoded together by `model`: `lm.model`, or the same made ready.

    `ends` are tokens that end a row beside the model's own, as a chat's end of a turn does.
    """
    starts = [[] if encoded.sources else prompt for prompt in encoded.prompts]
    drafts = [Draft(writer(lm.tokenizer, start, sampling.stop)) for start in starts for _ in range(sampling.n)]
    eos = eos_ids(lm) | set(ends)

    def ended(step: Step) -> bool:
        draft = drafts[step.row]
        draft.pieces.append(draft.writer.push(step.token))
        return draft.writer.stopped

    for steps in generate_tokens(
        model, encoded.prompts, sampling, eos=eos, sources=encoded.sources, random=random, ended=ended
    ):
        for step in steps:
            yield _piece(drafts[step.row], step, sampling.logprobs)


def _piece(draft: Draft, step: Step, logprobs: bool) -> Piece:
    draft.tokens.append(step.token)
    if step.logprob is not None:
        draft.logprobs.append(step.logprob)
    if len(draft.pieces) < len(draft.tokens):  # an EOS is no text
        draft.pieces.append("")
    if step.finish is None:
        return Piece(step.row, draft.pieces[-1])
    draft.pieces.append(draft.writer.finish())
    finish: Finish = "stop" if draft.writer.stopped else step.finish
    done = Completion("".join(draft.pieces), draft.tokens, finish, draft.logprobs if logprobs else None)
    return Piece(step.row, "".join(draft.pieces[-2:]), done)


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


# -- encoders ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """One token for a mask: its id, its own text, and how likely it is."""

    token: int
    text: str
    probability: float


@torch.inference_mode()
def fill_mask(lm: LanguageModel, text: str, top: int = 5) -> list[list[Candidate]]:
    """The likeliest tokens for each mask in the text, in order, the likeliest first.

    Raises ValueError for a model that is no encoder, a text without a mask, one beyond the context, and top below 1.
    """
    model, mask = lm.model, lm.tokenizer.mask
    refuse_labels(model.cfg)
    if model.cfg.shape != "encoder" or mask is None:
        raise ValueError(f"a {model.cfg.shape} has no mask to fill: let this model generate instead")
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}")
    ids = [*model.embed.soft, *encode(lm.tokenizer, text, (mask,))]
    if mask not in ids:
        raise ValueError(
            f"the text has no {lm.tokenizer.decode([mask], special=True)} to fill: put one where a word is missing"
        )
    if len(ids) > model.cfg.context:
        raise ValueError(f"the text has {len(ids)} tokens, but the model's context is {model.cfg.context}: shorten it")
    tokens = torch.tensor([ids], device=model.embed.tokens.weight.device)
    with evaluating(model):
        hidden = model.hidden(tokens)[tokens == mask]  # (masks, C)
        best = model.logits(hidden).float().softmax(-1).topk(min(top, model.cfg.vocab))
    return [
        [Candidate(i, lm.tokenizer.decode([i], special=True), p) for i, p in zip(row, probs, strict=True)]
        for row, probs in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
