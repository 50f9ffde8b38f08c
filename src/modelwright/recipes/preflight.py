"""What is looked at before a model is tuned: which tokens carry loss, and what would be learned wrong in silence.

Each check has cost somebody a training run whose loss curve looked healthy: an end that is never learned, a beginning
that is there twice, a prompt whose last token is another one once the answer follows, test rows among training rows.

`data_faults` needs no model, and what it finds no model mends; `preflight` looks at the rows that one model is to learn
from by one method: another model, or another method, may do well.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, combinations, groupby, product

import numpy as np
from torch import Tensor

from modelwright.data.examples import Example
from modelwright.data.kind import Task, fill, templates
from modelwright.data.pack import Row
from modelwright.data.prompt import Prompter
from modelwright.data.span import END, START, place_of
from modelwright.data.tokenizer import Tokenizer
from modelwright.evaluate.metrics import metric_of, score, wanted

GRAM = 8  # words of a run that two inputs may share
NEAR = 0.8  # share of an input's runs that, found in one training input, make it a near copy
ALIKE = 0.01  # of its own length, within which another token's vector is the same
READ = 0.95  # of a metric's best, that references against themselves are to reach
PLAIN = "one two three four five"  # which every metric reads
PROBED = 200  # characters of a reference that are tried, since ROUGE takes long for long ones
NAMED = 5  # rows that a fault names
Shown = tuple[str, ...]  # an input, column by column


class Unfit(ValueError):
    """A model and a method that cannot learn this task from these rows: another may."""


@contextmanager
def suited() -> Iterator[None]:
    """What is refused in here is refused for the model or the method: ValueError becomes Unfit."""
    try:
        yield
    except ValueError as error:
        raise Unfit(str(error)) from error


@dataclass(frozen=True)
class Sample:
    """One training row as it will be learned: pieces of text, and whether each carries loss."""

    name: str
    pieces: tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class Preflight:
    samples: tuple[Sample, ...]
    faults: tuple[str, ...]
    truncated: int  # training inputs that were cut
    learned: int  # tokens that carry loss, of all training rows
    tokens: int  # that are read, those of sources too


def preflight(
    prompter: Prompter,
    train: Sequence[Example],
    rows: Sequence[Row],
    *,
    eos: Collection[int],
    truncated: float = 0.05,
    frozen: Tensor | None = None,
    samples: int = 3,
) -> Preflight:
    """Look at the training rows.

    rows: one for each example of `train`, under the task's prompts in turn. truncated: the share of them that may be.
    eos: the ids at which generation will stop. frozen (V, C): the vectors of a head that does not learn.
    Faults are sentences; a run with a fault is not to begin.
    """
    turns = [at % len(prompter.task.prompts) for at in range(len(train))]
    asked = [prompter.prompt(example, template=at) for example, at in zip(train, turns, strict=True)]
    cut = [example.id for example, prompt in zip(train, asked, strict=True) if prompt.truncated]
    faults = [
        *(_pointless(prompter, train, rows) if prompter.points else _silent(prompter, train, rows)),
        *_truncated(cut, len(train), truncated),
        *_unfinished(prompter, train, rows, truncated),
        *_endless(prompter, train, rows),
        *_unstopped(prompter, eos),
        *_unlearnable(prompter, frozen),
        *_beginnings(prompter, train, rows),
        *_spelled(prompter),
        *_padding(prompter.tokenizer, eos),
        *_boundaries(prompter, train, turns),
    ]
    shown = [sample(prompter, *pair) for pair in zip(train[:samples], rows, strict=False)]
    learned = sum(int((row.weight > 0).sum()) for row in rows)
    tokens = sum(len(row.tokens) + (0 if row.source is None else len(row.source[0])) for row in rows)
    return Preflight(tuple(shown), tuple(faults), len(cut), learned, tokens)


# -- the checks of rows -----------------------------------------------------------------------------------


def _silent(prompter: Prompter, train: Sequence[Example], rows: Sequence[Row]) -> list[str]:
    """An answer of nothing but its end teaches a model to say nothing. One is too many: it is seldom meant."""

    def says(row: Row) -> bool:
        learned = row.targets[row.weight > 0].tolist()
        written = [token for token in learned if token != prompter.end]
        return bool(learned) if prompter.shape == "encoder" else bool(_text(prompter.tokenizer, written).strip())

    names = [example.id for example, row in zip(train, rows, strict=True) if not says(row)]
    mend = "is the answer's column empty? Take such rows out, or say in words that there is no answer"
    return [f"no token of {_several(names)} carries loss: {mend}"] if names else []


def _pointless(prompter: Prompter, train: Sequence[Example], rows: Sequence[Row]) -> list[str]:
    """An encoder learns to point at an answer that stands in the context, and in a window of it, and nothing else."""
    unmarked = [example for example, row in zip(train, rows, strict=True) if not row.weight.any()]
    absent = [example.id for example in unmarked if place_of(example) is None]
    wide = [example.id for example in unmarked if example.id not in absent]
    said, mend = [], "take such rows out, or a decoder or an encoder-decoder, which writes its answers"
    if absent:
        which = f"the answers of {len(absent)} of {len(train)} training rows ({_several(absent)})"
        where = "do not stand in their context to the letter, or not where answer_start says"
        said.append(f"{which} {where}, and an encoder can only point at one: {mend}")
    if wide:
        which = f"the answers of {len(wide)} of {len(train)} training rows ({_several(wide)})"
        said.append(f"{which} fit no window of the model's context of {prompter.context} tokens: {mend}")
    return said


def _endless(prompter: Prompter, train: Sequence[Example], rows: Sequence[Row]) -> list[str]:
    """The answer's last target must be its end, or the model never stops; but of one that fills the context, which
    `_unfinished` counts.
    """
    if prompter.shape == "encoder":
        return []
    full = prompter.context if prompter.shape == "decoder" else math.inf
    names = [
        example.id
        for example, row in zip(train, rows, strict=True)
        if row.weight.any() and len(row.tokens) < full and int(row.targets[row.weight > 0][-1]) != prompter.end
    ]
    said = "the end of the answer is never learned in"
    return [f"{said} {_several(names)}: a model tuned on them would not stop"] if names else []


def _unstopped(prompter: Prompter, eos: Collection[int]) -> list[str]:
    """The end that is learned must be one at which generation stops, or the model runs on behind it."""
    if prompter.shape == "encoder" or prompter.end in eos:
        return []
    name = prompter.tokenizer.decode([prompter.end], special=True)
    return [
        f"answers are learned to end in {name} ({prompter.end}), and generation does not stop there: add it to "
        "eos_token_id in the model's generation_config.json"
    ]


def _unlearnable(prompter: Prompter, frozen: Tensor | None) -> list[str]:
    """Tokens that a model never saw all have the same vector, and where that is frozen it gives them all the same p."""
    if frozen is None or prompter.shape == "encoder" or prompter.task.kind == "classify":
        return []
    apart = (frozen - frozen[prompter.end]).norm(dim=1)  # (V,)
    alike = int((apart <= ALIKE * frozen[prompter.end].norm()).sum()) - 1
    name = prompter.tokenizer.decode([prompter.end], special=True)
    said = f"answers end in {name}, whose vector is that of {alike} other tokens too: no adapter can tell it from them"
    mend = "tune all weights (method full), or take an eos_token that the model has seen"
    return [f"{said}, and the model would not stop: {mend}"] if alike else []


def _beginnings(prompter: Prompter, train: Sequence[Example], rows: Sequence[Row]) -> list[str]:
    """A text that begins with two BOS is one that no model was trained on."""
    bos, soft = prompter.tokenizer.bos, len(prompter.soft)
    if bos is None:
        return []
    read = [row.tokens if row.source is None else row.source[0] for row in rows]
    names = [e.id for e, ids in zip(train, read, strict=True) if list(ids[soft : soft + 2]) == [bos, bos]]
    said = f"{_several(names)} begin with two BOS tokens: take one out of the chat template, the tokenizer sets its own"
    return [said] if names else []


def _spelled(prompter: Prompter) -> list[str]:
    """Text never becomes a special token: one that a template spells out is read letter by letter."""
    task, tokenizer = prompter.task, prompter.tokenizer
    said = [*templates(task), ("instruction", task.instruction), ("separator", task.separator)]
    special = [tokenizer.decode([token], special=True) for token in sorted(tokenizer.special)]
    return [
        f"the {name} spells out {token}, which would be read letter by letter: take it out, the special tokens that a "
        "model expects are set without it"
        for name, text in said
        for token in special
        if token.strip() and token in text
    ]


def _padding(tokenizer: Tokenizer, eos: Collection[int]) -> list[str]:
    """Where padding also ends a text, other tools mask the end with the padding; and a reader stops at a pad."""
    if tokenizer.pad is None or tokenizer.pad == tokenizer.eos or tokenizer.pad not in eos:
        return []
    name = tokenizer.decode([tokenizer.pad], special=True)
    return [f"the padding token {name} stands among the ids that end a text: take it out of eos_token_id"]


def _boundaries(prompter: Prompter, train: Sequence[Example], turns: Sequence[int]) -> list[str]:
    pairs = zip(train, turns, strict=True)
    changed = [said for example, at in pairs if (said := prompter.boundary(example, template=at))]
    if not changed:
        return []
    mend = "end the prompt where a token ends, without a space, and begin the completion's with the space"
    if prompter.chat:
        mend = "mend the tokenizer's chat template, or do without it (chat: false in the task)"
    return [f"{changed[0]}, in {len(changed)} of {len(train)} rows: {mend}"]


def _truncated(cut: Sequence[str], rows: int, allowed: float) -> list[str]:
    if len(cut) <= allowed * rows:
        return []
    said = f"{len(cut)} of {rows} training inputs are too long for the context and would be cut ({_several(cut)})"
    return [f"{said}: take a model with a longer context, or allow it with --truncated {_share(len(cut), rows)}"]


def _unfinished(prompter: Prompter, train: Sequence[Example], rows: Sequence[Row], allowed: float) -> list[str]:
    """An answer that is learned whole and may not be written whole."""
    task = prompter.task
    if task.kind in ("classify", "tag"):  # labels are not written, but chosen
        return []
    most, size = task.decoding.max_new, _pointed if prompter.points else _written
    long = [e.id for e, row in zip(train, rows, strict=True) if size(row) > most]
    if len(long) <= allowed * len(train):
        return []
    said = f"the answers of {len(long)} of {len(train)} training rows are longer than decoding.max_new, {most} tokens"
    return [f"{said} ({_several(long)}): raise it, or allow it with --truncated {_share(len(long), len(train))}"]


def _written(row: Row) -> int:
    return int((row.weight > 0).sum())


def _pointed(row: Row) -> int:
    """Tokens of an answer that is pointed at."""
    return int((row.targets & END).argmax()) + 1 - int((row.targets & START).argmax()) if row.weight.any() else 0


def _share(part: int, whole: int) -> str:
    """Rounded up, so that it is enough."""
    return f"{math.ceil(100 * part / whole) / 100:.2f}"


# -- the data alone ---------------------------------------------------------------------------------------


def data_faults(task: Task, parts: Mapping[str, Sequence[Example]], overlap: float) -> list[str]:
    """What is wrong with a task and its parts whatever the model: sentences, none where all is well.

    task, parts: as `data.task.prepare` gives them, which has refused a missing column, an empty part and a label that
    training never sees. overlap: share of a part's inputs that may stand in another part.
    """
    return [*task_faults(task, parts), *_broken_off(task, parts), *overlaps(task, parts, overlap)]


def task_faults(task: Task, parts: Mapping[str, Sequence[Example]]) -> list[str]:
    """Those that each part has alone."""
    measured = {part: examples for part, examples in parts.items() if part != "train"}
    return [
        *(_unmeasurable(task, parts) or _unread(task, measured)),
        *_unfilled(task, parts),
    ]


def _unmeasurable(task: Task, parts: Mapping[str, Sequence[Example]]) -> list[str]:
    """A metric that does not fit the kind, the labels or the columns."""
    try:
        metric = metric_of(task)
        for example in chain.from_iterable(parts.values()):
            wanted(metric, task, example)
    except ValueError as error:
        return [str(error)]
    return []


def _unread(task: Task, parts: Mapping[str, Sequence[Example]]) -> list[str]:
    """A metric that knows no word of the references, as ROUGE of another alphabet, gives them 0 of themselves."""
    metric = metric_of(task)
    if task.kind in ("classify", "tag") or metric.name == "mentions":
        return []
    said, best = [], score(metric, metric.stats(PLAIN, PLAIN, task)[None])
    for part, examples in parts.items():
        texts = [str(task.reference(example))[:PROBED] for example in examples]
        stats = np.stack([metric.stats(text, text, task) for text in texts])
        if (found := score(metric, stats)) < READ * best:
            names = [e.id for e, one in zip(examples, stats, strict=True) if metric.value(one) < READ * best]
            said.append(
                f"{metric.name} gives the references of {part} {found:.3g} of {best:.3g} against themselves, since it "
                f"finds too few words in them ({_several(names)}): take another metric, such as chrf, of characters"
            )
    return said


def _unfilled(task: Task, parts: Mapping[str, Sequence[Example]]) -> list[str]:
    """A row that a template has no text for."""
    try:
        for example, (name, template) in product(chain.from_iterable(parts.values()), templates(task)):
            fill(task, name, template, example)
    except ValueError as error:
        return [str(error)]
    return []


def _broken_off(task: Task, parts: Mapping[str, Sequence[Example]]) -> list[str]:
    """A reference that no model could write whole, since generation ends at a stop string within it."""
    if task.kind in ("classify", "tag"):  # labels are not written, but chosen
        return []
    said = []
    for part, stop in product(parts, task.decoding.stop):
        if names := [e.id for e in parts[part] if stop in str(task.reference(e)).strip()]:
            which = f"{len(names)} of {len(parts[part])} references of {part} ({_several(names)})"
            said.append(f"the stop string {stop!r} stands in {which}: take it out of decoding.stop, or out of them")
    return said


def overlaps(task: Task, parts: Mapping[str, Sequence[Example]], allowed: float) -> list[str]:
    """Inputs of a later part that stand in an earlier one too, to the letter; or nearly, in the training part."""
    said, shown = [], {part: [task.shown(example) for example in examples] for part, examples in parts.items()}
    for first, second in combinations(parts, 2):
        shared = same(shown[first], shown[second])
        found = {f"stand in {first} too": shared}
        if first == "train":
            found["are near copies of training inputs"] = nearly(shown[first], shown[second]) - shared
        for what, places in found.items():
            if len(places) > allowed * (whole := len(parts[second])):
                names = _several([parts[second][at].id for at in sorted(places)])
                mend = f"take them out, or allow it with --overlap {_share(len(places), whole)}"
                said.append(f"{len(places)} of {whole} inputs of {second} {what} ({names}): {mend}")
    return said


def same(first: Sequence[Shown], second: Sequence[Shown]) -> set[int]:
    """Places of the inputs in `second` that stand in `first`."""
    known = set(first)
    return {at for at, shown in enumerate(second) if shown in known}


def nearly(train: Sequence[Shown], inputs: Sequence[Shown]) -> set[int]:
    """Places of the inputs of which some training input has most of every column's runs of words.

    That it be every column, and of one training input, leaves apart the questions that are asked of one text.
    """
    own = [[grams(text) for text in shown] for shown in inputs]
    index: dict[tuple[int, tuple[str, ...]], list[int]] = defaultdict(list)  # of these, far fewer than is trained on
    for at, columns in enumerate(own):
        for place in ((column, gram) for column, found in enumerate(columns) for gram in found):
            index[place].append(at)
    near = set()
    for shown in train:
        places = ((column, gram) for column, text in enumerate(shown) for gram in grams(text))
        shared = Counter((at, place[0]) for place in places if place in index for at in index[place])
        near |= {
            at
            for at, first in shared
            if first == 0 and all(shared[at, i] >= NEAR * len(found) for i, found in enumerate(own[at]))
        }
    return near


def grams(text: str) -> set[tuple[str, ...]]:
    """The runs of 8 words in a text; of a shorter one all its words, since a part of them stands in too many others.

    Of these few a comma or a full stop does not count; all else may: a sign, a question mark, a smile.
    """
    words = text.split()
    if len(words) < GRAM:
        return {tuple(word.strip(".,;:") or word for word in words)}
    return {tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)}


def _several(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


# -- what is shown ----------------------------------------------------------------------------------------


def sample(prompter: Prompter, example: Example, row: Row) -> Sample:
    """The row as text, in pieces that carry loss or do not."""
    if prompter.points:
        return _marked(prompter, example, row)
    if prompter.shape == "encoder":
        return _labelled(prompter, example, row)
    first = int((row.weight > 0).argmax()) if row.weight.any() else len(row.tokens)
    read = row.source[0] if row.source is not None else row.tokens[: first + 1]
    # A target stands where it is predicted, one step ahead of where it is read.
    targets, weight = row.targets[first:].tolist(), row.weight[first:].tolist()
    pieces = [(_text(prompter.tokenizer, read.tolist()) + ("\n" if row.source is not None else ""), False)]
    for learned, pair in groupby(zip(targets, weight, strict=True), key=lambda pair: pair[1] > 0):
        pieces.append((_text(prompter.tokenizer, [target for target, _ in pair]), learned))
    return Sample(example.id, tuple(pieces))


def _labelled(prompter: Prompter, example: Example, row: Row) -> Sample:
    """An encoder's row: its text and the label, or its words and behind each the tag."""
    places = row.weight.nonzero()[0].tolist() if prompter.task.kind == "tag" else [len(row.tokens) - 1]
    names = [prompter.task.labels[target] for target in row.targets[row.weight > 0]]
    pieces, begun = [], 0
    for at, name in zip(places, names, strict=True):
        pieces += [(_text(prompter.tokenizer, row.tokens[begun : at + 1].tolist()), False), (f" = {name}  ", True)]
        begun = at + 1
    pieces.append((_text(prompter.tokenizer, row.tokens[begun:].tolist()), False))
    return Sample(example.id, tuple(pieces))


def _marked(prompter: Prompter, example: Example, row: Row) -> Sample:
    """A question, and the first window of its context that holds the answer, which is the piece that is learned."""
    tokens = row.tokens[row.segment == 1].tolist()
    start = int((row.targets & START).argmax())
    end = start + _pointed(row)
    pieces = (tokens[:start], False), (tokens[start:end], True), (tokens[end:], False)
    return Sample(example.id, tuple((_text(prompter.tokenizer, ids) + " ", learned) for ids, learned in pieces))


def _text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Ids as text; those of a soft prompt, which have none, as a sign."""
    soft = sum(token >= tokenizer.vocab for token in ids)
    plain = tokenizer.decode([token for token in ids if token < tokenizer.vocab], special=True)
    return f"[soft prompt of {soft}]{plain}" if soft else plain
