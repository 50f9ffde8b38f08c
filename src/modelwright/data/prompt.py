"""The one place that knows a prompt: an example of a task -> what a model reads, and what it is to answer, as ids.

Training, evaluation and serving all come here, so that the ids a model learned behind are the ids it is asked with.
The answer is encoded apart from the prompt, as a model that writes it has it; `Prompter.boundary` tells where the
two together would have been other ids.

Letters: T tokens of a row, S of a source, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from modelwright.data.chat import Turn, chat_template, continued, conversation, encode_chat, encode_turn, spoken
from modelwright.data.examples import Example
from modelwright.data.kind import DEFAULTS, Decoding, Task, fill
from modelwright.data.pack import Row, around
from modelwright.data.shots import choose_shots as choose_shots
from modelwright.data.template import variables
from modelwright.data.tokenizer import Tokenizer

Shape = Literal["decoder", "encoder", "encoder-decoder"]


@dataclass(frozen=True)
class Prompt:
    """What a model reads before it answers, as ids."""

    tokens: tuple[int, ...]  # decoder: the whole prompt; encoder-decoder: what its decoder begins with; encoder: all
    source: tuple[int, ...] | None  # what the encoder of an encoder-decoder reads
    text: str  # as rendered
    shots: int = 0  # examples that stand in it
    dropped: int = 0  # whole examples left out because the context was short
    truncated: int = 0  # tokens of the input itself that were cut: 0 unless it alone is too long
    first: tuple[int, ...] = ()  # kind tag: place of each word's first token; words cut off have none


CONVERSATION = "{{ messages }}"  # a prompt that is a whole conversation, up to where the assistant is to speak


class NoRoom(ValueError):
    """A context that is too short for a prompt of which the input is cut to nothing."""


class _Said(NamedTuple):
    """A prompt as text and as ids, before it is known to fit."""

    text: str
    ids: list[int]


class Prompter:
    """Makes the prompts and the training rows of one task for one model."""

    def __init__(
        self,
        task: Task,
        tokenizer: Tokenizer,
        shape: Shape,
        context: int,
        *,
        soft: Sequence[int] = (),
        start: Sequence[int] = (),
        longest: int | None = None,
    ) -> None:
        """`context`: tokens a row may have, prompt and answer together (an encoder-decoder's: of its source). With
        relative positions it is what the model learned from: it could read more, and nobody knows how well. `soft`:
        ids of a soft prompt, put before each document. `start`: what an encoder-decoder's decoder begins with, by
        `starts`, else the padding token; `longest`: tokens that this decoder can read, where its positions end.

        Raises ValueError where the task, the tokenizer and the model do not go together.
        """
        self.task, self.tokenizer, self.shape, self.context = task, tokenizer, shape, context
        self.soft = list(soft)
        template = chat_template(tokenizer)
        if task.chat and template is None:
            raise ValueError(f"{task.name} asks for chat, and this model's tokenizer has no chat template")
        self.chat = shape == "decoder" and template is not None and task.chat is not False
        self._before, self._after = around(tokenizer)
        self._start = tuple(start) or (_first_of(tokenizer.pad, tokenizer.bos),)
        self._longest_row = context if shape == "decoder" else longest
        self.end = self._end()
        """The token that ends an answer, learned and to be stopped at: the end of a turn, or else EOS. -1: none."""
        chosen = task.labels if task.kind == "classify" and shape == "decoder" else ()
        self._longest = max(chosen, key=lambda label: len(tokenizer.encode(f" {label}")), default=None)
        self._check()

    def prompt(self, example: Example, shots: Sequence[Example] = (), *, template: int = 0) -> Prompt:
        """What the model reads of an example, with room for `decoding.max_new` tokens of answer, or the longest label.

        Where it is too long, whole shots are left out, the farthest and those too long; where even the input alone is
        too long, the ends of its fields are cut, the longest first, so that what the template says behind them stays.
        Raises NoRoom where the template leaves the input no room.
        """
        return self._prompt(example, shots, template, self._room(example))

    def decoding(self, prompts: Sequence[Prompt]) -> Decoding:
        """How the answers to these are to be written.

        Behind whole examples, a model that was not tuned for it answers and goes on with an example of its own: there
        what stands between examples ends an answer too, where answers do not begin with it.
        """
        found, between = self.task.decoding, self.task.separator
        if self.shape != "decoder" or self.chat or not any(prompt.shots for prompt in prompts):
            return found
        return replace(found, stop=(*found.stop, *([between] if between not in self.task.completion else [])))

    def completion(self, example: Example, answer: str | None = None) -> tuple[int, ...]:
        """Ids of the answer, without the token that ends it; of the reference, or of another `answer`."""
        return tuple(self._answer(example, answer))

    def labels(self, example: Example) -> list[tuple[int, ...]]:
        """Ids of each label as a whole answer, the token that ends it included: the likeliest of them is the answer.

        So labels of several lengths, and one that begins another ("1", "10"), are compared as whole answers, as
        training weighs them; a mean over tokens would favour a long label whose later tokens follow from the first.
        """
        end = () if self.end < 0 else (self.end,)
        return [(*self.completion(example, label), *end) for label in self.task.labels]

    def row(self, example: Example, shots: Sequence[Example] = (), *, template: int = 0) -> Row:
        """A training row: weight 1 on the answer and the token that ends it, for an encoder on the label or tags.

        A decoder's row has the ids of `prompt`, but for an answer longer than `max_new`, which gets the room it needs;
        one that is too long for the context even so is learned as far as it fits, without an end.
        """
        if self.shape == "encoder":
            return self._labelled(example, self.prompt(example, shots, template=template))
        said = self._answer(example, None)
        most = self._room(example)
        try:
            prompt = self._prompt(example, shots, template, max(most, len(said) + 1))
        except NoRoom:
            prompt = self._prompt(example, shots, template, most)
        return answered(prompt, [*said, self.end], self._longest_row)

    def boundary(self, example: Example, *, template: int = 0) -> str | None:
        """What changes at the prompt's end when the answer follows it, or None: a sentence for the preflight.

        A template that ends in a space is the usual case: " Paris" is one token, and " " with "Paris" are others.
        """
        if self.shape != "decoder":
            return None
        answer = self._completion_text(example, None)
        if self.chat:
            messages = self._messages(example, (), template)
            if not encode_turn(self.tokenizer, messages, answer.strip()).follows:
                return f"the chat template shows the prompt of {example.id} in another way once the answer follows it"
            asked = encode_chat(self.tokenizer, messages, True).ids
            whole = encode_chat(self.tokenizer, [*messages, {"role": "assistant", "content": answer.strip()}]).ids
        else:
            said = self._plain(example, (), template)
            asked, whole = said.ids, [*self._before, *self.tokenizer.encode(said.text + answer)]
        same = next((i for i, (a, b) in enumerate(zip(asked, whole, strict=False)) if a != b), len(asked))
        if same == len(asked):
            return None
        alone, joined = (self.tokenizer.decode(ids) for ids in (asked[same:], whole[same : same + 1]))
        return f"the prompt of {example.id} ends in {alone!r}, which becomes {joined!r} when {answer!r} follows it"

    # -- the prompt --------------------------------------------------------------------------------

    def _prompt(self, example: Example, shots: Sequence[Example], template: int, answer: int) -> Prompt:
        if self.shape == "encoder" and shots:
            raise ValueError("an encoder takes no shots: it reads the input alone")
        if self.task.kind == "tag":
            return self._words(example)
        room = self.context - len(self.soft) - (answer if self.shape == "decoder" else 0)
        read = self._conversation if self.chat else self._plain
        said = read(example, shots, template)
        if len(said.ids) <= room:
            return self._made(said, len(shots), 0, 0)
        said = read(example, (), template)
        if len(said.ids) <= room:
            kept: list[Example] = []
            for shot in reversed(shots):  # from the nearest; one that is too long leaves its place to the next
                more = read(example, [shot, *kept], template)
                if len(more.ids) <= room:
                    kept, said = [shot, *kept], more
            return self._made(said, len(kept), len(shots) - len(kept), 0)
        cut = self._shortened(example, template, room, lambda shorter: read(shorter, (), template))
        return self._made(cut, 0, len(shots), len(said.ids) - len(cut.ids))

    def _made(self, said: _Said, shots: int, dropped: int, truncated: int) -> Prompt:
        ids = (*self.soft, *said.ids)
        if self.shape == "encoder-decoder":
            return Prompt(self._start, ids, said.text, shots, dropped, truncated)
        return Prompt(ids, None, said.text, shots, dropped, truncated)

    def _plain(self, example: Example, shots: Sequence[Example], template: int) -> _Said:
        """Instruction, shots and the question, one behind the other; an encoder, which obeys nobody, reads no
        instruction.
        """
        question = self._template(example, template)
        shown = [self._template(shot, template) + self._completion_text(shot, None) for shot in shots]
        said = [self.task.instruction] if self.task.instruction and self.shape != "encoder" else []
        text = self.task.separator.join([*said, *shown, question])
        after = [] if self.shape == "decoder" else self._after
        ids = [*self._before, *self.tokenizer.encode(text), *after]
        empty = [_first_of(self.tokenizer.bos, self.tokenizer.eos)]  # begins a text of which nothing is said
        return _Said(text, ids or empty)

    def _conversation(self, example: Example, shots: Sequence[Example], template: int) -> _Said:
        return _Said(*encode_chat(self.tokenizer, self._messages(example, shots, template), True))

    def _messages(self, example: Example, shots: Sequence[Example], template: int) -> list[dict[str, str]]:
        if self._source(template) == CONVERSATION:
            return [dict(message) for message in example.fields["messages"]]
        shown = [(self._template(shot, template), self._completion_text(shot, None).strip()) for shot in shots]
        question, task = self._template(example, template), self.task
        return conversation(self.tokenizer, task.instruction, shown, question, task.separator)

    def _template(self, example: Example, template: int) -> str:
        return rendered(self.task, f"prompt {template}" if template else "prompt", self._source(template), example)

    def _source(self, template: int) -> str:
        """The prompt's template; a classifier's encoder reads the text alone unless the task says otherwise."""
        if not 0 <= template < len(self.task.prompts):
            raise ValueError(f"{self.task.name} has no prompt {template}: it has 0 to {len(self.task.prompts) - 1}")
        said = self.task.prompts[template]
        plain = self.shape == "encoder" and said == DEFAULTS["classify"].prompt
        return "{{ text }}" if plain else said

    def _shortened(self, example: Example, template: int, room: int, read: Callable[[Example], _Said]) -> _Said:
        """The prompt with the ends of its fields cut, the longest first, by as few tokens as make it fit."""
        used = variables(self._source(template))
        texts = dict.fromkeys(t for name, t in example.fields.items() if name in used and isinstance(t, str))
        said = read(example)
        for longest in sorted(texts, key=len, reverse=True):
            ends = [end for _, end in self.tokenizer.inner.encode(longest, add_special_tokens=False).offsets]
            keep, whole = len(ends), example
            while keep and len(said.ids) > room:
                keep = max(keep - max(len(said.ids) - room, 1), 0)
                shorter = longest[: ends[keep - 1]].rstrip() if keep else ""
                example = Example(whole.id, _replaced(whole.fields, longest, shorter))
                said = read(example)
        if len(said.ids) > room:
            raise NoRoom(self._no_room(example, len(said.ids), room))
        return said

    def _room(self, example: Example) -> int:
        """Tokens that are kept for an answer and its end; a label, which is chosen, may be longer than `max_new`."""
        most = self.task.decoding.max_new
        return most if self._longest is None else max(most, len(self._answer(example, self._longest)) + 1)

    def _no_room(self, example: Example, size: int, room: int) -> str:
        kept = f", {self._room(example)} of them kept for the answer" if self.shape == "decoder" else ""
        return (
            f"the prompt of {example.id} has {size} tokens without its input, and {max(room, 0)} fit a context of "
            f"{self.context}{kept}: shorten the template or the instruction"
        )

    # -- the answer --------------------------------------------------------------------------------

    def _completion_text(self, example: Example, answer: str | None) -> str:
        if answer is not None:
            named = (self.task.target, self.task.columns.get(self.task.target, self.task.target))
            example = Example(example.id, {**example.fields, **dict.fromkeys(named, answer)})
        return fill(self.task, "completion", self.task.completion, example)

    def _answer(self, example: Example, answer: str | None) -> list[int]:
        if self.chat:
            return self._turn(example, answer).ids
        text = self._completion_text(example, answer)
        if self.shape == "decoder":
            return continued(self.tokenizer, text)
        return self.tokenizer.encode(text.lstrip())  # a decoder of its own begins a text of its own

    def _turn(self, example: Example, answer: str | None) -> Turn:
        messages = self._messages(example, (), 0)
        return encode_turn(self.tokenizer, messages, self._completion_text(example, answer).strip())

    def _end(self) -> int:
        if self.shape == "encoder":
            return -1
        turn = encode_turn(self.tokenizer, [{"role": "user", "content": "a"}], "b").end if self.chat else None
        return _first_of(turn, self.tokenizer.eos)

    # -- an encoder's labels and tags --------------------------------------------------------------

    def _words(self, example: Example) -> Prompt:
        """A sentence of words: each is encoded by itself, so that it is known which token begins it."""
        words = self._pieces(example.fields["tokens"])
        most = self.context - len(self.soft) - len(self._before) - len(self._after)
        ids, first = [*self.soft, *self._before], list[int]()
        used = len(ids)
        for word in words:
            if len(ids) - used + len(word) > most:
                break
            first.append(len(ids))
            ids += word
        cut = sum(map(len, words)) - (len(ids) - used)
        text = " ".join(example.fields["tokens"])
        return Prompt((*ids, *self._after), None, text, truncated=cut, first=tuple(first))

    def _pieces(self, words: Sequence[str]) -> list[list[int]]:
        """The ids of each word, with the space before it where the vocabulary has one; at least one id each."""
        nothing = [_first_of(self.tokenizer.unk, self.tokenizer.sep)]
        known = [continued(self.tokenizer, f" {w}") if at else self.tokenizer.encode(w) for at, w in enumerate(words)]
        return [ids or nothing for ids in known]

    def _labelled(self, example: Example, prompt: Prompt) -> Row:
        """The label is the target at the first token; a tag at the first token of its word."""
        said, labels = self.task.reference(example), self.task.labels
        names, places = ([said], (0,)) if isinstance(said, str) else (said, prompt.first)
        if unknown := [name for name in names if name not in labels]:
            raise ValueError(f"{example.id} has the label {unknown[0]!r}, and the task knows {', '.join(labels)}")
        targets, weight = np.zeros(len(prompt.tokens), np.int64), np.zeros(len(prompt.tokens), np.float32)
        at = list(places)
        targets[at] = [labels.index(name) for name in names[: len(at)]]
        weight[at] = 1
        return _row(prompt.tokens, targets, weight)

    # -- what goes together ------------------------------------------------------------------------

    def _check(self) -> None:
        kind, shape = self.task.kind, self.shape
        if kind == "tag" and shape != "encoder":
            raise ValueError(f"a model that tags words is an encoder, and this one is a {shape}")
        if shape == "encoder" and kind not in ("classify", "tag"):
            raise ValueError(f"an encoder cannot {kind}: it classifies or tags; take a decoder or an encoder-decoder")
        if shape != "encoder" and self.end < 0:
            raise ValueError("this model's tokenizer has no token that ends a text, so no answer would ever end")
        if shape == "encoder-decoder" and self._start[0] < 0:
            raise ValueError("this tokenizer does not say what a decoder begins with: it has neither pad nor bos")
        room = self.context - len(self.soft)
        if room <= (self.task.decoding.max_new if shape == "decoder" else 0):
            needs = f"decoding.max_new of {self.task.decoding.max_new}" if shape == "decoder" else "a prompt"
            raise ValueError(
                f"a context of {self.context}, less {len(self.soft)} of soft prompt, has no room for {needs}"
            )


def rendered(task: Task, name: str, template: str, example: Example) -> str:
    """The text that a template makes of an example."""
    return spoken(example.fields["messages"]) if template == CONVERSATION else fill(task, name, template, example)


def starts(generation: Mapping[str, Any]) -> tuple[int, ...]:
    """What the decoder of an encoder-decoder begins with, by the model's generation settings: its start and, where one
    always follows, the token that begins a text, as BART's </s> <s>. Empty where they do not say.
    """
    start, follows = (generation.get(key) for key in ("decoder_start_token_id", "forced_bos_token_id"))
    return tuple(i for i in (start, follows) if isinstance(i, int)) if isinstance(start, int) else ()


def answered(prompt: Prompt, ids: Sequence[int], longest: int | None) -> Row:
    """A prompt and the ids that answer it, the end included where there is one: weight 1 where they are predicted.

    The row is cut to the `longest` that a decoder can read.
    """
    whole = [*prompt.tokens, *ids]
    tokens, targets = whole[:-1][:longest], np.array(whole[1:][:longest], np.int64)
    weight = np.zeros(len(tokens), np.float32)
    weight[len(prompt.tokens) - 1 :] = 1
    source = None if prompt.source is None else _alone(prompt.source)
    return _row(tokens, targets, weight)._replace(source=source)


def _first_of(*ids: int | None) -> int:
    return next((i for i in ids if i is not None), -1)


def _replaced(fields: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    """A text stands in the fields twice: under its canonical name and under the file's."""
    return {name: new if value == old else value for name, value in fields.items()}


def _row(tokens: Sequence[int], targets: Any, weight: Any) -> Row:
    """One document: positions from 0, segment 1; targets where no loss is due are 0."""
    ids, pos, segment = _alone(tokens)
    return Row(ids, np.where(weight > 0, targets, 0), weight, pos, segment)


def _alone(tokens: Sequence[int]) -> tuple[Any, Any, Any]:
    ids = np.array(tokens, np.int64)
    return ids, np.arange(len(ids)), np.ones(len(ids), np.int64)
