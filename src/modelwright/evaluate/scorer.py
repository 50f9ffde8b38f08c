"""To evaluation, a model is five verbs: loglikelihood, rolling, generate, predict, embed.

Rows of like lengths share a batch; what several rows begin with is read once; texts are written by the engine that
serves them.

Letters: B batch, T length, S source length, C width, V vocabulary, L labels, R answers, n texts.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelwright.adapt.lora import merged_copy
from modelwright.adapt.prompt import soft_ids
from modelwright.data.kind import Decoding
from modelwright.data.pack import Batch, Row
from modelwright.data.prompt import Prompt
from modelwright.data.tokenizer import Tokenizer
from modelwright.evaluate.reading import batches, marks, pad_right, reach, stacked, text_rows
from modelwright.infer.complete import written
from modelwright.infer.engine import TEXTS, Engine, Finish, Request
from modelwright.infer.packed import prepare
from modelwright.infer.sample import Sampling, generators
from modelwright.infer.text import Encoded, LanguageModel
from modelwright.model.transformer import Transformer

TOKENS = 8192  # of a batch, padding included
SCORED = 2048  # tokens of answers, and what stands before them, in a step
GREEDY = Sampling(1, 0.0)
GAPS = 0  # the seed of the gaps that texts are measured with: one for all, or two models would not be comparable

Told = Callable[[int], None]  # called with how many rows have come to be done


def untold(done: int) -> None:
    """For callers who do not watch."""


class Likelihood(NamedTuple):
    """Of an answer: log p in nats, summed over its tokens; how many these are; whether each was the likeliest."""

    logp: float
    tokens: int
    greedy: bool


class Rolling(NamedTuple):
    """Of a text: log p in nats of the tokens that were predicted, how many they are, and how many bytes they spell."""

    logp: float
    tokens: int
    bytes: float


class Generation(NamedTuple):
    """What was written: the text before the stop string, all tokens drawn, and why it ended."""

    text: str
    tokens: tuple[int, ...]
    finish: Finish


class Scorer(Protocol):
    """What evaluation asks of a model. `labels` are those of its head, none where it speaks."""

    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    def loglikelihood(
        self, prompts: Sequence[Prompt], answers: Sequence[tuple[int, ...]], *, told: Told = untold
    ) -> list[Likelihood]: ...
    def rolling(self, texts: Sequence[str], *, told: Told = untold) -> list[Rolling]: ...
    def generate(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        *,
        seed: int,
        ends: Collection[int] = (),
        told: Told = untold,
    ) -> list[Generation]: ...
    def predict(self, prompts: Sequence[Prompt], *, told: Told = untold) -> list[NDArray[np.float32]]: ...
    def embed(self, texts: Sequence[str], *, told: Told = untold) -> NDArray[np.float32]: ...


class ModelScorer:
    """The five verbs of a model of ours, with the weights of this moment: after training, make another.

    A LoRA is merged, into a copy, and for writing the weights are packed, once for all that is asked. With `precision`
    bf16, weights and products are bfloat16; log-probabilities are float32 always. `spare` tokens of the context are
    left free when texts are rolled: as many as the soft prompt has of a model that this one is held against.
    """

    def __init__(
        self,
        lm: LanguageModel,
        *,
        precision: Literal["fp32", "bf16", "int8"] = "fp32",
        budget: int = TOKENS,
        spare: int = 0,
    ):
        self.lm, self.tokenizer, self.budget, self.spare = lm, lm.tokenizer, budget, spare
        model = merged_copy(lm.model)  # plain layers, which can be packed
        self.int8 = precision == "int8"
        self.model = copy.deepcopy(model).to(torch.bfloat16) if precision == "bf16" else model
        self.model = prepare(model, int8=True) if self.int8 else self.model
        self.labels = lm.model.cfg.labels.names if lm.model.cfg.labels else ()

    @property
    def device(self) -> torch.device:
        return self.model.embed.tokens.weight.device

    @cached_property
    def packed(self) -> Transformer:
        return self.model if self.int8 else prepare(self.model)

    # -- answers to prompts ---------------------------------------------------------------------------

    def loglikelihood(
        self, prompts: Sequence[Prompt], answers: Sequence[tuple[int, ...]], *, told: Told = untold
    ) -> list[Likelihood]:
        """log p(answer | prompt) of each pair; a prompt that stands beside several answers is read once.

        Raises ValueError for an encoder, an answer without a token, and a pair that is longer than the context.
        """
        self._check_speaks()
        for prompt, answer in zip(prompts, answers, strict=True):
            self._check_pair(prompt, answer)
        pairs = [([*prompt.tokens, *answer], prompt) for prompt, answer in zip(prompts, answers, strict=True)]
        longest = max((len(said) for said, _ in pairs), default=1)
        engine = Engine(self.model, longest=longest, budget=SCORED, texts=max(1, min(TEXTS, len(pairs))))
        asked = [
            engine.submit(Request(said, GREEDY, prompt.source, scored=len(prompt.tokens))) for said, prompt in pairs
        ]
        for stream in asked:
            list(stream)
            told(1)
        return [
            Likelihood(
                sum(score.logp for score in stream.scores), len(stream.scores), all(s.best for s in stream.scores)
            )
            for stream in asked
        ]

    def generate(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        *,
        seed: int,
        ends: Collection[int] = (),
        told: Told = untold,
    ) -> list[Generation]:
        """The continuation of each prompt, until an end-of-text or one of `ends`, a stop string or `max_new`.

        A draw depends on the seed and the prompt alone, never on its neighbours. Raises ValueError for an encoder, and
        for a prompt that leaves no room in the context.
        """
        self._check_speaks()
        sampling = Sampling(
            decoding.max_new, decoding.temperature, decoding.top_k, decoding.top_p, stop=tuple(decoding.stop),
            seed=seed, beams=decoding.beams, length_penalty=decoding.length_penalty,
        )  # fmt: skip
        read = [list(prompt.tokens if prompt.source is None else prompt.source) for prompt in prompts]
        random = generators(read, 1, seed)
        found: dict[int, Generation] = {}
        sources = read if any(prompt.source is not None for prompt in prompts) else None
        encoded = Encoded([list(prompt.tokens) for prompt in prompts], sources)
        for piece in written(self.lm, self.packed, encoded, sampling, random, ends):
            if (done := piece.completion) is not None:
                found[piece.row] = Generation(done.text, tuple(done.tokens), done.finish)
                told(1)
        return [found[at] for at in range(len(prompts))]

    # -- labels -----------------------------------------------------------------------------------------

    def predict(self, prompts: Sequence[Prompt], *, told: Told = untold) -> list[NDArray[np.float32]]:
        """The scores of the labels: (L,) for each text, or (words, L) where each word has one, read at its first token.

        Raises ValueError for a model without labels.
        """
        labels = self.model.cfg.labels
        if labels is None:
            raise ValueError("this model has no labels to predict: fine-tune it on a task of labels first")
        found: dict[int, NDArray[np.float32]] = {}
        with torch.inference_mode():
            for some in batches([len(prompt.tokens) for prompt in prompts], self.budget):
                hidden = self._hidden([prompts[at].tokens for at in some])  # (B, T, C)
                for row, at in enumerate(some):
                    places = [0] if labels.each == "text" else list(prompts[at].first)
                    scores = self.model.logits(hidden[row, places]).float().cpu().numpy()  # (1 or words, L)
                    found[at] = scores[0] if labels.each == "text" else scores
                told(len(some))
        return [found[at] for at in range(len(prompts))]

    def _hidden(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """(B, T, C) of rows of ids, padded on the right."""
        tokens, segment = pad_right(rows, 0, self.device), marks(list(map(len, rows)), self.device)
        if self.model.encoder is not None:
            return self.model.encode(tokens, segment=segment).x
        return self.model.hidden(tokens, segment=segment)

    # -- texts ------------------------------------------------------------------------------------------

    def rolling(self, texts: Sequence[str], *, told: Told = untold) -> list[Rolling]:
        """log p of each text: of all its tokens under a decoder, each predicted once, in rows of the context.

        An encoder or encoder-decoder predicts what is hidden from it, as in its pretraining and always the same:
        `bytes` is then that share of the text's. Raises ValueError for a model of labels, which predicts no text.
        """
        if self.labels:
            raise ValueError(
                "this model answers with labels and predicts no text: there is no loss on a text to measure"
            )
        rows = [(i, row) for i, text in enumerate(texts) for row in self._rows(text)]
        sums, counts = np.zeros(len(texts)), np.zeros(len(texts), np.int64)
        for owners, batch, logps in self.read(rows, told):
            np.add.at(sums, owners, logps.double().sum(1).cpu().numpy())
            np.add.at(counts, owners, batch.weight.long().sum(1).cpu().numpy())
        shares = self._shares(texts, rows)
        sizes = [len(text.encode()) * share for text, share in zip(texts, shares, strict=True)]
        return [Rolling(float(s), int(n), size) for s, n, size in zip(sums, counts, sizes, strict=True)]

    def read(self, rows: Sequence[tuple[int, Row]], told: Told) -> Iterator[tuple[list[int], Batch, Tensor]]:
        """Of rows, each with the number of its text, a batch at a time: the numbers, the batch and log p, (B, T)."""
        left = Counter(owner for owner, _ in rows)  # rows of each text that are still to be read
        for some in batches([reach(row) for _, row in rows], self.budget):
            batch = stacked([rows[i][1] for i in some], self.device)
            with torch.inference_mode():
                logps = self.model(
                    batch.tokens, batch.targets.masked_fill(batch.weight == 0, -1),
                    pos=batch.pos, segment=batch.segment, source=batch.source,
                )  # (B, T)  # fmt: skip
            owners = [rows[i][0] for i in some]
            yield owners, batch, logps
            left.subtract(owners)
            told(sum(left[owner] == 0 for owner in set(owners)))

    def _rows(self, text: str) -> list[Row]:
        return text_rows(text, self.tokenizer, self.model.cfg, GAPS, soft_ids(self.model), self.spare)

    def _shares(self, texts: Sequence[str], rows: Sequence[tuple[int, Row]]) -> list[float]:
        """How much of each text is predicted: all of it, or the tokens that fill its gaps."""
        if self.model.cfg.shape == "decoder":
            return [1.0] * len(texts)
        marks, filled = list(self.tokenizer.special | {*self.tokenizer.sentinels}), np.zeros(len(texts))
        for owner, row in rows:
            filled[owner] += (~np.isin(row.targets, marks) & (row.weight > 0)).sum()
        whole = [max(1, len(ids)) for ids in self.tokenizer.encode_batch(list(texts))]
        return [float(some) / of for some, of in zip(filled, whole, strict=True)]

    def embed(self, texts: Sequence[str], *, told: Told = untold) -> NDArray[np.float32]:
        """(n, C): the mean of the last layer's vectors over a text's tokens; a long text is read in pieces of the
        context.

        Of an encoder-decoder, its encoder's.
        """
        cfg, soft = self.model.cfg, soft_ids(self.model)
        room = (cfg.encoder or cfg).context - len(soft)
        rows = [(i, ids[j : j + room]) for i, ids in enumerate(self._ids(texts)) for j in range(0, len(ids), room)]
        sums, counts = np.zeros((len(texts), cfg.width)), np.zeros(len(texts))
        with torch.inference_mode():
            for some in batches([len(row) for _, row in rows], self.budget):
                hidden = self._hidden([[*soft, *rows[i][1]] for i in some])  # (B, T, C)
                for x, (owner, row) in zip(hidden, [rows[i] for i in some], strict=True):
                    sums[owner] += x[len(soft) : len(soft) + len(row)].double().sum(0).cpu().numpy()
                    counts[owner] += len(row)
                told(len(some))
        return (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer.encode_batch(list(texts), special=True)

    # -- guards -----------------------------------------------------------------------------------------

    def _check_speaks(self) -> None:
        if self.model.cfg.shape == "encoder":
            raise ValueError(
                "this model is an encoder, which writes no text: it predicts labels, once it has been tuned to"
            )

    def _check_pair(self, prompt: Prompt, answer: tuple[int, ...]) -> None:
        length, context = len(prompt.tokens) + len(answer) - 1, self.model.cfg.context
        if not answer:
            raise ValueError("an answer without a token has no likelihood: say at least one character")
        if length > context and not self.model.cfg.unbounded:
            raise ValueError(
                f"prompt and answer are {length} tokens, and the model's context is {context}: shorten them"
            )
