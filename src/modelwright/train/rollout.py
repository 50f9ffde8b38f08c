"""Learning from one's own answers: prompts, engine and reward -> experience, in minibatches for the loop.

    prompts -> write -> answers -> reward -> scores -> experience -> some epochs of minibatches -> the next prompts

A reward reads texts, so it may have a tokenizer of its own. What the policy learns from are the very ids it drew.

Letters: B answers, T tokens of a row (padded on the right), G answers to one prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields, is_dataclass, replace
from itertools import count
from typing import Any, NamedTuple, Protocol, SupportsFloat, TypeVar

import torch
from torch import Tensor, nn

from modelwright.adapt.lora import Reference, merged_copy
from modelwright.data.examples import Example
from modelwright.data.loader import Places, mixed, shuffled
from modelwright.data.pack import Batch, collate
from modelwright.data.prompt import Prompt, Prompter, answered
from modelwright.data.supervised import Widths, sizes
from modelwright.hub.open import LanguageModel
from modelwright.infer.complete import written
from modelwright.infer.engine import TEXTS
from modelwright.infer.packed import prepare
from modelwright.infer.sample import NEVER, Sampling, generators
from modelwright.infer.text import Encoded
from modelwright.losses.language import read
from modelwright.losses.policy import Controller, explained_variance, strayed
from modelwright.model.heads import Critic, policy_of
from modelwright.model.transformer import Transformer
from modelwright.train.loop import Precision

Record = TypeVar("Record")
ROWS = 32  # answers that are read at once, where nothing learns from them


# -- answers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a policy wrote behind a prompt."""

    prompt: Prompt
    ids: tuple[int, ...]  # all that was drawn, the end token included where the policy drew it
    text: str  # as a user reads it: without the end, without blanks round it
    ended: bool  # whether the policy ended it itself, before it was cut off
    example: Example


Reward = Callable[[Sequence[Answer]], Sequence[float]]


def write(
    policy: Transformer,
    prompter: Prompter,
    examples: Sequence[Example],
    *,
    seed: int,
    count: int = 1,
    max_new: int | None = None,
    texts: int = TEXTS,
) -> list[Answer]:
    """`count` answers to each example, side by side, drawn from the policy as it is: its weights of this moment.

    At temperature 1 with no top-k, top-p or penalty, since these draw from another distribution than the one whose
    log-probabilities are compared: ratios would not be 1, and KL could be negative. Only the padding token, which no
    text holds, is never drawn. Each answer has a generator of its own, which depends on the seed, the prompt and which
    answer to it this is, never on its neighbours. `texts`: answers that are written at once.

    Raises ValueError where more new tokens are asked for than the prompts leave room for, or a prompt has no room.
    """
    room = prompter.task.decoding.max_new
    if max_new is not None and not 0 < max_new <= room:
        raise ValueError(f"max_new is {max_new}, and the task's prompts leave room for 1 to {room}: decoding.max_new")
    tokenizer = prompter.tokenizer
    prompts = [prompter.prompt(example) for example in examples]
    sources = [list(prompt.source) for prompt in prompts if prompt.source is not None]
    encoded = Encoded([list(prompt.tokens) for prompt in prompts], sources or None)
    sampling = Sampling(max_new or room, n=count, stop=prompter.task.decoding.stop)
    random = generators(encoded.sources or encoded.prompts, count, seed)
    ends = {end for end in (prompter.end, tokenizer.eos) if end is not None}
    never = {} if tokenizer.pad is None or tokenizer.pad in ends else {tokenizer.pad: NEVER}
    ready = prepare(merged_copy(policy))
    lm, found = LanguageModel(ready, tokenizer), dict[int, Answer]()
    for piece in written(lm, ready, encoded, sampling, random, ends, bias=never, texts=texts):
        if (done := piece.completion) is not None:
            at = piece.row // count
            ended, ids = done.finish == "stop", tuple(done.tokens)
            found[piece.row] = Answer(prompts[at], ids, done.text.strip(), ended, examples[at])
    return [found[row] for row in range(len(found))]


def checked(answers: Sequence[Answer], scores: Sequence[float]) -> Tensor:
    """Scores as (B) float32. Raises ValueError, naming the prompt, where they are not one finite number each."""
    if len(scores) != len(answers):
        raise ValueError(
            f"the reward gave {len(scores)} scores for {len(answers)} answers, the first to {answers[0].example.id}: "
            "it is to give one for each"
        )
    if wrong := [score for score in scores if not isinstance(score, SupportsFloat)]:
        raise ValueError(f"the reward gave {wrong[0]!r} for an answer: it is to be a finite number")
    found = [float(score) for score in scores]
    for answer, score in zip(answers, found, strict=True):
        if not math.isfinite(score):
            raise ValueError(
                f"the reward of the answer {answer.text[:60]!r} to {answer.example.id} is {score}: it is to be a "
                "finite number"
            )
    return torch.tensor(found)


def repetition(ids: Sequence[int], n: int = 3) -> float:
    """The share of an answer's n-grams that stood in it before."""
    grams = [tuple(ids[at : at + n]) for at in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


# -- experience --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Experience:
    """Answers as a policy learns from them: a row each, padded on the right. `batch.weight` is the mask."""

    batch: Batch
    old: Tensor | None  # (B, T) log p when they were drawn, as the training's own forward has it; None: it will say
    reference: Tensor | None  # (B, T) log p under the reference
    advantages: Tensor  # (B, T)
    values: Tensor | None  # (B, T) what the critic expected before each token; None without one
    returns: Tensor | None  # (B, T) what it is to expect
    scores: Tensor  # (B)
    ended: Tensor  # (B) bool
    told: dict[str, float] = field(default_factory=dict)
    """Numbers of the whole experience, for the monitor: see `told`."""

    def take(self, rows: Tensor) -> Experience:
        """Some of the answers, (n) numbers of rows."""
        return _each(self, lambda tensor: tensor[rows])


def _each(record: Record, change: Callable[[Tensor], Tensor]) -> Record:
    """The same record with every tensor in it changed."""

    def changed(value: Any) -> Any:
        if isinstance(value, Tensor):
            return change(value)
        return _each(value, change) if is_dataclass(value) else value

    return replace(record, **{f.name: changed(getattr(record, f.name)) for f in fields(record)})  # type: ignore


def batch_of(answers: Sequence[Answer], prompter: Prompter) -> Batch:
    """A row for each answer: the prompt and the ids that were drawn, weight 1 where these are predicted."""
    rows = [answered(answer.prompt, answer.ids, prompter.context) for answer in answers]
    longest, source = (max(each) for each in zip(*map(sizes, rows), strict=True))
    return collate(rows, Widths(longest, source, prompter.tokenizer.pad or 0).fitted(rows))


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Without dropout and without gradients; afterwards as it was."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


@dataclass(frozen=True)
class Reader:
    """Reads answers as the training's forward does, in its precision, some rows at a time."""

    precision: Precision = "fp32"
    rows: int = ROWS

    def __call__(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """log p of the answers' tokens, and of a critic its values: (B, T) each, 0 behind the end."""
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        cast = nullcontext() if self.precision == "fp32" else torch.autocast(batch.tokens.device.type, dtype)
        found: list[tuple[Tensor, ...]] = []
        with still(model), cast:
            for rows in torch.split(torch.arange(len(batch.tokens)), self.rows):
                said = read(model, _each(batch, lambda tensor, rows=rows: tensor[rows]))  # type: ignore[misc]
                found.append(said if isinstance(said, tuple) else (said,))
        return [torch.cat(parts) * batch.weight for parts in zip(*found, strict=True)]


class Seen(NamedTuple):
    """What a method makes its advantages of."""

    answers: Sequence[Answer]
    batch: Batch
    scores: Tensor  # (B)
    ended: Tensor  # (B)
    old: Tensor | None  # (B, T)
    reference: Tensor | None  # (B, T)
    values: Tensor | None  # (B, T)


class Method(Protocol):
    """PPO or GRPO: `train/policy.py`."""

    @property
    def needs_reference(self) -> bool: ...
    def controller(self) -> Controller: ...
    def experience(self, seen: Seen, beta: float) -> Experience: ...


class Actor:
    """A policy that writes, and sees what it wrote: the half of the method before its loss."""

    def __init__(
        self,
        model: Transformer | Critic,
        prompter: Prompter,
        method: Method,
        reference: Reference | None,
        *,
        precision: Precision = "fp32",
        texts: int = TEXTS,
        rows: int = ROWS,
    ):
        """reference: of `reference_of`; None where nobody is to know how far the policy goes, which saves a forward.

        Raises ValueError where the method has a penalty on the way from the reference, and there is none.
        """
        if method.needs_reference and reference is None:
            raise ValueError("there is a penalty on the KL to a reference, and no reference: give reference_of(policy)")
        self.model, self.prompter, self.method, self.texts = model, prompter, method, texts
        self.reference, self.reader = reference, Reader(precision, rows)
        self.controller = method.controller()
        """Of the KL's coefficient, moved once for each experience."""

    def write(
        self, examples: Sequence[Example], *, seed: int, count: int = 1, max_new: int | None = None
    ) -> list[Answer]:
        """See `write`."""
        policy = policy_of(self.model)
        return write(policy, self.prompter, examples, seed=seed, count=count, max_new=max_new, texts=self.texts)

    def experience(self, answers: Sequence[Answer], scores: Sequence[float], *, once: bool = False) -> Experience:
        """What was written, by the policy of this moment, and what it was worth -> what to learn from.

        once: all of it is learned from in a single step. Then the policy that learns is the one that wrote, and where
        there is no critic it need not be read before: a forward is saved, and the loss tells entropy and KL.

        Raises ValueError for scores that are not one finite number for each answer.
        """
        judged = checked(answers, scores)
        device = next(self.model.parameters()).device
        batch = _each(batch_of(answers, self.prompter), lambda tensor: tensor.to(device))
        said = [] if once and not isinstance(self.model, Critic) else self.reader(self.model, batch)
        old, values = (*said, None, None)[:2]
        reference = None
        if self.reference is not None:
            with self.reference() as silent:
                reference = self.reader(silent, batch)[0]
        ended = torch.tensor([answer.ended for answer in answers])
        seen = Seen(answers, batch, judged.to(device), ended.to(device), old, reference, values)
        made = self.method.experience(seen, self.controller.value)
        numbers = told(seen, made) | {"beta": self.controller.value}
        if "kl" in numbers:
            self.controller.update(numbers["kl"], len(answers))
        return replace(made, told=numbers | made.told)


def told(seen: Seen, made: Experience) -> dict[str, float]:
    """What a monitor wants to know of an experience, beside what the method and `losses.policy.strayed` say; means over
    answers. constant: 1 where all scores are one number, so that nothing can be learned.
    """
    mask = seen.batch.weight
    found = {
        "score": seen.scores.mean().item(),
        "score_std": seen.scores.std(correction=0).item(),
        "constant": float(bool((seen.scores == seen.scores[0]).all())),
        "length": mask.sum(1).mean().item(),
        "ended": seen.ended.float().mean().item(),
        "repetition": sum(repetition(answer.ids) for answer in seen.answers) / len(seen.answers),
    }
    if seen.old is not None:
        found |= strayed(seen.old, seen.reference, mask)
    if made.values is not None and made.returns is not None:
        found["explained"] = explained_variance(made.values, made.returns, mask)
    return found


# -- the loader ----------------------------------------------------------------------------------------------------


def minibatches(experience: Experience, *, epochs: int, rows: int, seed: int) -> Iterator[Experience]:
    """Every answer once in each of some epochs, `rows` at a time, in an order of each epoch's own."""
    answers = len(experience.scores)
    for epoch in range(epochs):
        order = [shuffled(at, answers, mixed(mixed(seed) + epoch)) for at in range(answers)]
        for start in range(0, answers, rows):
            yield experience.take(torch.tensor(order[start : start + rows], device=experience.scores.device))


class Rollouts(Places):
    """What `fit` reads when a policy learns from its own answers: minibatches of experience, without end.

    The prompts of an experience are the next ones of a shuffled epoch. All chance follows from the seed and the place,
    so that a loader set back to {epoch, row, coefficient} goes on exactly as it would have - between two experiences:
    in the midst of one, the policy that wrote it is gone. `resting` says when it may be saved.
    """

    data = "prompts"

    def __init__(
        self,
        actor: Actor,
        examples: Sequence[Example],
        reward: Reward,
        *,
        prompts: int,
        count: int,
        minibatch: int,
        seed: int,
        epochs: int = 1,
        accumulate: int = 1,
    ):
        """An experience has `count` answers to each of `prompts` prompts, and is learned from for `epochs` epochs, in
        optimizer steps of `minibatch` answers, each in `accumulate` parts. Raises ValueError where they do not divide.
        """
        if not examples:
            raise ValueError("there is no prompt to answer")
        answers = prompts * count
        if min(answers, minibatch, epochs, accumulate) < 1 or answers % minibatch or minibatch % accumulate:
            raise ValueError(
                f"{prompts} prompts with {count} answers each make no equal steps of {minibatch} answers in "
                f"{accumulate} parts: the parts are to divide a step, and steps the {answers} answers"
            )
        self.actor, self.examples, self.reward, self.seed = actor, examples, reward, seed
        self.prompts, self.count, self.epochs = prompts, count, epochs
        self.part = minibatch // accumulate
        self.steps = answers // minibatch * epochs
        """Optimizer steps to an experience."""
        self.rows = len(examples)
        self.place = 0
        self.resting = True
        """Whether the last minibatch of an experience was handed out, or none yet."""

    def __iter__(self) -> Iterator[Experience]:
        for start in count(self.place, self.prompts):
            experience = self.experience(start)
            self.resting, left = False, self.epochs * self.prompts * self.count // self.part
            some_of_it = minibatches(experience, epochs=self.epochs, rows=self.part, seed=self.key(start))
            for at, some in enumerate(some_of_it):
                if at == left - 1:
                    self.place, self.resting = start + self.prompts, True
                yield replace(some, told=some.told | {"minibatch": at})

    def experience(self, start: int) -> Experience:
        """Of the prompts from place `start` on."""
        examples = [self.examples[self._row(at)] for at in range(start, start + self.prompts)]
        answers = self.actor.write(examples, seed=self.key(start), count=self.count)
        return self.actor.experience(answers, self.reward(answers), once=self.steps == 1)

    def key(self, start: int) -> int:
        """The seed of all chance in the experience that begins at place `start`."""
        return mixed(mixed(mixed(self.seed)) + start)

    def _row(self, place: int) -> int:
        epoch, at = divmod(place, self.rows)
        return shuffled(at, self.rows, mixed(mixed(self.seed) + epoch))

    def state_dict(self) -> dict[str, Any]:
        """Where the next experience begins, and the KL's coefficient by then."""
        return {**super().state_dict(), "coefficient": self.actor.controller.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict({name: state[name] for name in ("epoch", "row")})
        self.actor.controller.value = state["coefficient"]
        self.resting = True
