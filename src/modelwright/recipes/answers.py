"""Several answers to each prompt, by one model or more, to be ranked: drawn, or read from a file.

Letters: n answers to a prompt in all, M models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from modelwright.adapt.lora import merged_copy
from modelwright.adapt.open import method, prompter_of
from modelwright.adapt.prompt import soft_ids
from modelwright.data.chat import chat_template, encode_chat, encode_turn
from modelwright.data.examples import Example, read_examples
from modelwright.data.kind import Task, fill
from modelwright.data.parts import canonical
from modelwright.data.rankings import Item, Prompt, prompt_of
from modelwright.hub.open import LanguageModel
from modelwright.infer.complete import written
from modelwright.infer.engine import room
from modelwright.infer.packed import prepare
from modelwright.infer.sample import Sampling, generators
from modelwright.infer.text import Encoded, encode_prompts, refuse_labels

KEYS = 9  # completions that the page's keys can tell apart


@dataclass(frozen=True)
class Asked:
    """A prompt as it is shown, and the row that it was made of."""

    prompt: Prompt
    example: Example


# -- prompts -------------------------------------------------------------------------------------------------------


def read_prompts(path: Path, task: Task | None) -> list[Asked]:
    """Of a text file a prompt a line; of a table its column `prompt`, or with a task what its template makes of a row.

    Raises FileNotFoundError, and ValueError where there is no prompt or a row has none.
    """
    if path.suffix == ".txt":
        if task is not None:
            raise ValueError(f"{path} is a text file, and --task makes prompts of columns: give a table, as .jsonl")
        return _lines(path)
    examples = read_examples(str(path))
    if task is not None:
        return [_by_task(task, example, path) for example in examples]
    return [Asked(prompt_of(example.fields.get("prompt"), example.id), example) for example in examples]


def _lines(path: Path) -> list[Asked]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # and at no other of Unicode's ends of line
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start}") from None
    found = [Asked(line, Example(f"{path.name}:{at}", {})) for at, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise ValueError(f"{path} holds no prompt: put one on each line")
    return found


def _by_task(task: Task, example: Example, path: Path) -> Asked:
    """The task's own columns but for the answer, which nobody needs to have."""
    named = {name: column for name, column in task.columns.items() if name != task.target or column in example.fields}
    made = canonical(replace(task, columns=named), example, str(path))
    said = [task.instruction] if task.instruction else []
    return Asked(task.separator.join([*said, fill(task, "prompt", task.prompts[0], made)]), made)


def columns_of(asked: Asked, task: Task | None) -> dict[str, str]:
    """The columns of a task that made a prompt, which whoever learns from its rankings needs again."""
    if task is None:
        return {}
    named = {column for name, column in task.columns.items() if name != task.target}
    fields = asked.example.fields
    return {name: str(fields[name]) for name in fields if name in named and name not in ("completions", "ranks")}


# -- answers -------------------------------------------------------------------------------------------------------


def share(prompt: int, model: int, n: int, models: int) -> int:
    """How many of n answers to a prompt a model writes: an even share, and what is left over by turns.

    >>> [[share(prompt, model, 3, 2) for model in range(2)] for prompt in range(3)]
    [[2, 1], [1, 2], [2, 1]]
    """
    return n // models + ((model - prompt) % models < n % models)


def draw(
    name: str, lm: LanguageModel, asked: Sequence[Asked], counts: Sequence[int], task: Task | None,
    sampling: Sampling, told: Callable[[], None],
) -> list[list[str]]:  # fmt: skip
    """counts[i] answers to prompt i, all computed together; each depends on sampling.seed and its prompt alone.

    Raises ValueError for a model that cannot write, or a prompt that does not fit its context, named.
    """
    refuse_labels(lm.model.cfg)
    if lm.model.cfg.shape == "encoder":
        raise ValueError(f"{name} is an encoder, which cannot write answers: name a decoder or an encoder-decoder")
    if method(lm) == "lora":
        lm = replace(lm, model=merged_copy(lm.model))  # plain layers can be packed, and write faster
    rows, owners = [], []
    ends: set[int] = set()
    for at, (one, count) in enumerate(zip(asked, counts, strict=True)):
        try:
            encoded, end = encode(name, lm, one, task)
            room(lm.model.cfg, len(encoded.prompts[0]), sampling.max_new)
        except ValueError as error:
            raise ValueError(f"{one.example.id}: {error}") from None
        rows += [encoded] * count
        owners += [at] * count
        ends |= end
    sources = [row.sources[0] for row in rows if row.sources] or None
    together = Encoded([row.prompts[0] for row in rows], sources)
    random = generators(together.sources or together.prompts, 1, sampling.seed or 0)
    found: list[list[str]] = [[] for _ in asked]
    texts: dict[int, str] = {}
    for piece in written(lm, prepare(lm.model), together, sampling, random, ends):
        if piece.completion is not None:
            texts[piece.row] = piece.completion.text
            told()
    for row, at in enumerate(owners):
        found[at].append(texts[row])
    return found


def encode(name: str, lm: LanguageModel, asked: Asked, task: Task | None) -> tuple[Encoded, set[int]]:
    """What the model reads, and the tokens beside its own that end an answer: as the task has it measured, as
    `modelwright chat` speaks with it, or as `modelwright generate` continues a text."""
    if task is not None:
        prompter = prompter_of(task, lm)
        made = prompter.prompt(asked.example)
        if made.truncated:
            raise ValueError(f"the prompt is {made.truncated} tokens longer than {name} can read: shorten it")
        sources = None if made.source is None else [list(made.source)]
        return Encoded([list(made.tokens)], sources), {prompter.end} - {-1}
    if isinstance(asked.prompt, str):
        return encode_prompts(lm, [asked.prompt]), set()
    if chat_template(lm.tokenizer) is None or lm.model.cfg.shape != "decoder":
        raise ValueError(f"the prompt is a list of messages, and {name} has no chat template: give texts")
    end = encode_turn(lm.tokenizer, asked.prompt, "a").end
    ids = [*soft_ids(lm.model), *encode_chat(lm.tokenizer, asked.prompt, True).ids]
    return Encoded([ids], None), set() if end is None else {end}


# -- items ---------------------------------------------------------------------------------------------------------


def item_of(name: str, prompt: Prompt, texts: Sequence[str], writers: Sequence[str], fields: dict[str, str]) -> Item:
    """What is shown once of the same text, whoever wrote it; space around a text makes no other of it."""
    found: dict[str, tuple[str, list[str]]] = {}
    for text, writer in zip(texts, writers, strict=True):
        found.setdefault(text.strip(), (text, []))[1].append(writer)
    kept = list(found.values())
    return Item(name, prompt, tuple(text for text, _ in kept), tuple(tuple(who) for _, who in kept), fields)


def read_answers(path: Path) -> list[Item]:
    """Rows {"prompt", "completions", perhaps "models": who wrote each}. Raises ValueError naming the row."""
    return [_answered(example) for example in read_examples(str(path))]


def _answered(example: Example) -> Item:
    said, where = example.fields, example.id
    prompt = prompt_of(said.get("prompt"), where)
    texts = said.get("completions")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{where}: completions are to be a list of texts, two or more")
    models = said.get("models", [""] * len(texts))
    if not isinstance(models, list) or len(models) != len(texts):
        raise ValueError(f"{where}: models are to be one name for each of the {len(texts)} completions")
    item = item_of(where, prompt, texts, list(map(str, models)), {})
    if len(item.completions) < 2:
        raise ValueError(f"{where} has one answer, and there is nothing to rank: give two that differ, or more")
    if len(item.completions) > KEYS:
        raise ValueError(f"{where} has {len(item.completions)} answers, and a page ranks {KEYS} at most")
    return item
