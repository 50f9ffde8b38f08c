"""What is looked at before a model is tuned: which tokens carry loss, and what would be learned wrong in silence.

Each check has cost somebody a training run whose loss curve looked healthy: an end that is never learned, a beginning
that is there twice, a prompt whose last token is another one once the answer follows, test rows among training rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from rich.text import Text

from modelwright.data.examples import Example
from modelwright.data.kind import Task
from modelwright.data.pack import Row
from modelwright.data.prompt import Prompter
from modelwright.data.tokenizer import Tokenizer

GRAM = 8  # words of a run that two inputs may share
NEAR = 0.8  # share of an input's runs that, found in one training input, make it a near copy
NAMED = 5  # rows that a fault names


@dataclass(frozen=True)
class Allowed:
    """Shares of a part that may be so before it is a fault."""

    truncated: float = 0.05
    overlap: float = 0.0


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
    tokens: int


def preflight(
    prompter: Prompter,
    parts: Mapping[str, Sequence[Example]],
    rows: Sequence[Row],
    *,
    eos: Collection[int],
    allowed: Allowed = Allowed(),
    samples: int = 3,
) -> Preflight:
    """Look at the training rows and at what the parts have in common. rows: one for each example of parts["train"].

    eos: the ids at which generation will stop. Faults are sentences; a run with a fault is not to begin.
    """
    train = parts["train"]
    cut = [example.id for example in train if prompter.prompt(example).truncated]
    found = [
        *_silent(train, rows),
        *_endless(prompter, train, rows),
        *_beginnings(prompter, train, rows),
        *_padding(prompter.tokenizer, eos),
        *_boundaries(prompter, train),
        *_truncated(cut, len(train), allowed.truncated),
        *overlaps(prompter.task, parts, allowed.overlap),
    ]
    shown = tuple(sample(prompter.tokenizer, *pair) for pair in list(zip(train, rows, strict=True))[:samples])
    learned = sum(int((row.weight > 0).sum()) for row in rows)
    return Preflight(shown, tuple(found), len(cut), learned, sum(len(row.tokens) for row in rows))


# -- the checks -------------------------------------------------------------------------------------------


def _silent(train: Sequence[Example], rows: Sequence[Row]) -> list[str]:
    names = [example.id for example, row in zip(train, rows, strict=True) if not row.weight.any()]
    return [f"no token of {_several(names)} carries loss: is the answer's column empty?"] if names else []


def _endless(prompter: Prompter, train: Sequence[Example], rows: Sequence[Row]) -> list[str]:
    """The answer's last target must be its end, or the model never stops."""
    if prompter.shape == "encoder":
        return []
    names = [
        example.id
        for example, row in zip(train, rows, strict=True)
        if row.weight.any() and int(row.targets[row.weight > 0][-1]) != prompter.end
    ]
    said = "the end of the answer is never learned in"
    return [f"{said} {_several(names)}: a model tuned on them would not stop"] if names else []


def _beginnings(prompter: Prompter, train: Sequence[Example], rows: Sequence[Row]) -> list[str]:
    """A text that begins with two BOS is one that no model was trained on."""
    bos, soft = prompter.tokenizer.bos, len(prompter.soft)
    if bos is None:
        return []
    read = [row.tokens if row.source is None else row.source[0] for row in rows]
    names = [e.id for e, ids in zip(train, read, strict=True) if list(ids[soft : soft + 2]) == [bos, bos]]
    said = f"{_several(names)} begin with two BOS tokens: take the one out of the template, the tokenizer sets its own"
    return [said] if names else []


def _padding(tokenizer: Tokenizer, eos: Collection[int]) -> list[str]:
    """Where padding also ends a text, other tools mask the end with the padding; and a reader stops at a pad."""
    if tokenizer.pad is None or tokenizer.pad == tokenizer.eos or tokenizer.pad not in eos:
        return []
    name = tokenizer.decode([tokenizer.pad], special=True)
    return [f"the padding token {name} stands among the ids that end a text: take it out of eos_token_id"]


def _boundaries(prompter: Prompter, train: Sequence[Example]) -> list[str]:
    changed = [(example.id, said) for example in train if (said := prompter.boundary(example))]
    if not changed:
        return []
    return [
        f"{changed[0][1]}, in {len(changed)} of {len(train)} rows: end the prompt where a token ends, without "
        "a space, and begin the completion's with the space"
    ]


def _truncated(cut: Sequence[str], rows: int, allowed: float) -> list[str]:
    if len(cut) <= allowed * rows:
        return []
    said = f"{len(cut)} of {rows} training inputs are too long for the context and would be cut ({_several(cut)})"
    return [f"{said}: take a model with a longer context, or allow it with --truncated {len(cut) / rows:.2f}"]


def overlaps(task: Task, parts: Mapping[str, Sequence[Example]], allowed: float) -> list[str]:
    """Inputs of a later part that stand in the training part too, to the letter or nearly."""
    said = []
    for first, second in combinations([part for part in parts if parts[part]], 2):
        shared = same(task, parts[first], parts[second])
        if len(shared) > allowed * len(parts[second]):
            said.append(f"{len(shared)} inputs of {second} stand in {first} too ({_several(shared)})")
    near = {part: nearly(task, parts["train"], examples) for part, examples in parts.items() if part != "train"}
    for part, names in near.items():
        exact = set(same(task, parts["train"], parts[part]))
        names = [name for name in names if name not in exact]
        if len(names) > allowed * len(parts[part]):
            said.append(f"{len(names)} inputs of {part} are near copies of training inputs ({_several(names)})")
    return [f"{line}: take them out, or allow it with --overlap SHARE" for line in said]


def same(task: Task, first: Sequence[Example], second: Sequence[Example]) -> list[str]:
    """Ids of the examples of `second` whose input stands in `first`."""
    known = {task.input(example) for example in first}
    return [example.id for example in second if task.input(example) in known]


def nearly(task: Task, train: Sequence[Example], examples: Sequence[Example]) -> list[str]:
    """Ids of the examples most of whose runs of 8 words stand in one training input."""
    index: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for at, example in enumerate(train):
        for gram in grams(task.input(example)):
            index[gram].append(at)
    found = []
    for example in examples:
        own = grams(task.input(example))
        hits = Counter(at for gram in own for at in index.get(gram, ()))
        if own and hits and hits.most_common(1)[0][1] >= NEAR * len(own):
            found.append(example.id)
    return found


def grams(text: str) -> set[tuple[str, ...]]:
    """The runs of 8 words in a text; of a shorter one, none: it would be found in too many others."""
    words = text.split()
    return {tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)}


def _several(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


# -- what is shown ----------------------------------------------------------------------------------------


def sample(tokenizer: Tokenizer, example: Example, row: Row) -> Sample:
    """The row as text, in pieces that carry loss or do not; a target stands where it is predicted, one step on."""
    if row.source is not None:
        read, ids, carries = [int(i) for i in row.source[0]], row.targets, row.weight > 0
    else:
        first = int((row.weight > 0).argmax()) if row.weight.any() else len(row.tokens)
        read, ids, carries = [int(i) for i in row.tokens[: first + 1]], row.targets[first:], row.weight[first:] > 0
    pieces = [(_text(tokenizer, read), False)]
    for token, learned in zip(ids.tolist(), carries.tolist(), strict=True):
        pieces.append((_text(tokenizer, [token]), learned))
    return Sample(example.id, tuple(_joined(pieces)))


def labelled(tokenizer: Tokenizer, names: Sequence[str], example: Example, row: Row) -> Sample:
    """An encoder's row: each token, and behind one that carries loss its label."""
    pieces = []
    for token, target, weight in zip(row.tokens.tolist(), row.targets.tolist(), row.weight.tolist(), strict=True):
        pieces.append((_text(tokenizer, [token]) + " ", False))
        if weight > 0:
            pieces.append((f"={names[target]} ", True))
    return Sample(example.id, tuple(_joined(pieces)))


def _text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Ids as text; those of a soft prompt, which have none, as a sign."""
    soft = sum(token >= tokenizer.vocab for token in ids)
    return ("[soft prompt]" if soft else "") + tokenizer.decode([i for i in ids if i < tokenizer.vocab], special=True)


def _joined(pieces: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
    joined: list[tuple[str, bool]] = []
    for text, learned in pieces:
        if joined and joined[-1][1] == learned:
            joined[-1] = (joined[-1][0] + text, learned)
        else:
            joined.append((text, learned))
    return joined


def coloured(found: Sample) -> Text:
    """For a terminal: what carries loss bold and green, the rest dim."""
    text = Text(f"{found.name}\n", style="bold")
    for piece, learned in found.pieces:
        text.append(piece, style="bold green" if learned else "dim")
    return text
