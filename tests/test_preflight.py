"""What is looked at before tuning: each fault made on purpose, and the sentence that tells it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers, processors

from modelwright.data.examples import Example
from modelwright.data.kind import Data, Decoding, Task
from modelwright.data.pack import Row
from modelwright.data.prompt import Prompter, Shape
from modelwright.data.task import parse_task, prepare
from modelwright.data.tokenizer import Tokenizer
from modelwright.recipes.preflight import Preflight, data_faults, grams, nearly, preflight, same
from modelwright.recipes.ready import rows_of

TEXT = "the a my old new far sea hill road red green blue cat mat birds = : answer user assistant one two three four"
WORDS = [*TEXT.split(), "five", "six"]
SPECIAL = {"bos": "<s>", "eos": "</s>", "pad": "<pad>", "unk": "<unk>", "cls": "[CLS]", "sep": "[SEP]"}
CHAT = (
    "{% for m in messages %}{{ m.role }} : {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


def tokenizer(begins: bool = True, template: str | None = None) -> Tokenizer:
    """Each word a token, and another one with the space before it; a space alone is a third. <s> before each text."""
    vocab = {piece: at for at, piece in enumerate([*SPECIAL.values(), "▁", *sorted({*"".join(WORDS), *"<>/_"})])}
    merges: list[tuple[str, str]] = []
    for first in ("▁", ""):
        for word in WORDS:  # from its letters, left to right
            letters = [*first, *word]
            for at in range(1, len(letters)):
                merges.append(("".join(letters[:at]), letters[at]))
                vocab.setdefault("".join(letters[: at + 1]), len(vocab))
    inner = Inner(models.BPE(vocab=vocab, merges=list(dict.fromkeys(merges)), unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    inner.decoder = decoders.Metaspace(prepend_scheme="never")
    inner.add_special_tokens(list(SPECIAL.values()))
    if begins:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocab["<s>"])])
    return Tokenizer(inner, SPECIAL, {} if template is None else {"chat_template": template})


def task(kind: str = "generate", **more: Any) -> Task:
    """Made by hand, so that a fault that reading would refuse can be made too."""
    names = {"generate": ("source", "target"), "classify": ("text", "label"), "tag": ("tokens", "tags")}[kind]
    said = {
        "prompts": (f"{{{{ {names[0]} }}}} =",),
        "completion": f" {{{{ {names[1]} }}}}",
        "decoding": Decoding(max_new=4),
    }
    return Task("t", kind, Data("t.jsonl"), dict(zip(names, names, strict=True)), **{**said, **more})  # type: ignore[arg-type]


def examples(pairs: Sequence[tuple[Any, Any]], names: tuple[str, str] = ("source", "target")) -> list[Example]:
    return [Example(f"t:{at}", dict(zip(names, pair, strict=True))) for at, pair in enumerate(pairs, 1)]


TRAIN = examples([("the red sea", "cat"), ("a green hill", "mat"), ("my blue road", "birds")])
PARTS = {"train": TRAIN, "test": examples([("the far road", "cat")])}


def looked(
    made: Task,
    parts: dict[str, list[Example]] | None = None,
    *,
    words: Tokenizer | None = None,
    context: int = 40,
    shape: Shape = "decoder",
    eos: frozenset[int] | None = None,
    truncated: float = 0.05,
    rows: list[Row] | None = None,
) -> Preflight:
    parts, words = parts or PARTS, words or tokenizer()
    prompter = Prompter(made, words, shape, context)
    ends = frozenset({words.eos or 0}) if eos is None else eos
    train = parts["train"]
    return preflight(prompter, train, rows or rows_of(prompter, train), eos=ends, truncated=truncated)


def fault(found: Preflight) -> str:
    """The one fault."""
    assert len(found.faults) == 1, found
    return found.faults[0]


def fine(found: Preflight) -> bool:
    return found.faults == ()


# -- none -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["decoder", "encoder-decoder"])
@pytest.mark.parametrize("template", [None, CHAT], ids=["plain", "chat"])
def test_a_good_task_has_no_fault(shape: Shape, template: str | None) -> None:
    found = looked(task(), words=tokenizer(template=template), shape=shape)
    assert fine(found)
    assert found.learned == sum(len(e.fields["target"].split()) + 1 for e in TRAIN)


def test_the_numbers_by_hand() -> None:
    """<s> the red sea = cat: six tokens, of which cat and the end are predicted."""
    found = looked(task(), {"train": TRAIN[:1]})
    assert (found.tokens, found.learned, found.truncated) == (6, 2, 0)
    found = looked(task(), {"train": TRAIN[:1]}, shape="encoder-decoder")
    assert (found.tokens, found.learned) == (5 + 2, 2)


# -- each fault -------------------------------------------------------------------------------------------


def test_no_token_carries_loss() -> None:
    rows = rows_of(Prompter(task(), tokenizer(), "decoder", 40), TRAIN)
    rows[1] = rows[1]._replace(weight=0 * rows[1].weight)
    assert fault(looked(task(), rows=rows)).startswith("no token of t:2 carries loss: is the answer's column empty?")


@pytest.mark.parametrize("shape", ["decoder", "encoder-decoder"])
@pytest.mark.parametrize("template", [None, CHAT], ids=["plain", "chat"])
def test_an_answer_of_nothing_but_its_end(shape: Shape, template: str | None) -> None:
    """Two rows of ten, as they come of a column that is empty here and there."""
    some = examples([(f"{a} {b}", "" if b == "sea" else "cat") for a in ("the", "my") for b in TEXT.split()[3:8]])
    told = fault(looked(task(), {"train": some}, words=tokenizer(template=template), shape=shape))
    names = ", ".join(e.id for e in some if not e.fields["target"])
    assert names.count("t:") == 2
    assert told.startswith(
        f"no token of {names} carries loss: is the answer's column empty? Take such rows out, or say"
    )


def test_an_answer_longer_than_the_context_is_one_of_those_that_are_too_long() -> None:
    """It is learned as far as it fits, and no end behind it."""
    pairs = [*[("the sea", "cat")] * 3, ("a hill", "one two three four " * 4)]
    rows = rows_of(Prompter(task(), tokenizer(), "decoder", 12), examples(pairs))
    assert [len(row.tokens) for row in rows] == [5, 5, 5, 12]
    assert rows[3].targets[-1] != rows[0].targets[-1] == tokenizer().eos
    assert int((rows[3].weight > 0).sum()) == 12 - 3
    told = fault(looked(task(), {"train": examples(pairs)}, context=12))
    assert told.startswith("the answers of 1 of 4 training rows are longer than decoding.max_new, 4 tokens (t:4)")
    assert fine(looked(task(), {"train": examples(pairs)}, context=12, truncated=0.25))


def test_the_end_is_never_learned() -> None:
    rows = rows_of(Prompter(task(), tokenizer(), "decoder", 40), TRAIN)
    for row in rows[:2]:
        row.weight[-1] = 0  # as where padding is masked, and padding is the end
    told = fault(looked(task(), rows=rows))
    assert told == "the end of the answer is never learned in t:1, t:2: a model tuned on them would not stop"


def test_the_end_that_is_learned_is_none_that_generation_stops_at() -> None:
    told = fault(looked(task(), eos=frozenset({7})))
    assert told.startswith("answers are learned to end in </s> (1), and generation does not stop there: add it to eos")
    assert fine(looked(task(), eos=frozenset({7, 1})))


def test_an_end_that_the_model_never_saw() -> None:
    """Its vector is that of two others: a third of the probability is all that it can have while the head is frozen."""
    prompter = Prompter(task(), tokenizer(), "decoder", 40)
    head, rows = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), rows_of(prompter, TRAIN)
    assert fine(preflight(prompter, TRAIN, rows, eos={1}, frozen=head))
    head[[7, 9]] = head[1] + 1e-4
    told = fault(preflight(prompter, TRAIN, rows, eos={1}, frozen=head))
    assert told.startswith("answers end in </s>, whose vector is that of 2 other tokens too: no adapter can tell it")
    assert fine(preflight(prompter, TRAIN, rows, eos={1})), "where all learns, it is learned"


def test_a_chat_template_that_shows_the_answer_elsewhere() -> None:
    moved = CHAT.replace("assistant :", "assistant : answer")
    told = fault(looked(task(), words=tokenizer(template=moved)))
    assert told.startswith("the chat template shows the prompt of t:1 in another way once the answer follows it, in 3")
    assert told.endswith("mend the tokenizer's chat template, or do without it (chat: false in the task)")


def test_a_beginning_that_is_there_twice() -> None:
    told = fault(looked(task(), words=tokenizer(template="{{ bos_token }}{{ bos_token }}" + CHAT)))
    assert told.startswith("t:1, t:2, t:3 begin with two BOS tokens: take one out of the chat template")
    assert fine(looked(task(), words=tokenizer(template="{{ bos_token }}" + CHAT)))


@pytest.mark.parametrize(
    ("more", "name"),
    [({"prompts": ("<s>{{ source }} =",)}, "prompt spells out <s>"),
     ({"separator": "</s>"}, "separator spells out </s>"),
     ({"completion": " {{ target }}</s>"}, "completion spells out </s>")],
)  # fmt: skip
def test_a_special_token_in_a_template(more: dict[str, Any], name: str) -> None:
    """So a beginning set by hand is found too: of a template it is text, and the true one stands before it."""
    told = [said for said in looked(task(**more, decoding=Decoding(max_new=12))).faults if "spells out" in said]
    assert len(told) == 1
    assert told[0].startswith(f"the {name}, which would be read letter by letter")


def test_padding_that_ends_a_text() -> None:
    told = fault(looked(task(), eos=frozenset({1, 2})))
    assert told == "the padding token <pad> stands among the ids that end a text: take it out of eos_token_id"


@pytest.mark.parametrize("at", [0, 1])
def test_a_prompt_that_ends_in_a_space(at: int) -> None:
    """The last prompt token is the space, and with the answer behind it the space is part of the answer's token."""
    good = "{{ source }} ="
    prompts = tuple("{{ source }} = " if i == at else good for i in range(2))
    told = fault(looked(task(prompts=prompts, completion="{{ target }}"), truncated=1))
    assert told.startswith(f"the prompt of t:{at + 1} ends in ")
    assert "when 'mat' follows it" in told if at else "when 'cat' follows it" in told
    assert f"in {2 - at} of 3 rows: end the prompt where a token ends, without a space" in told


def test_inputs_that_are_cut() -> None:
    long = examples([("the red sea " * 9, "cat"), *((f"{e.fields['source']} old", "mat") for e in TRAIN)])
    told = fault(looked(task(), {"train": long}, context=20))
    assert told == (
        "1 of 4 training inputs are too long for the context and would be cut (t:1): take a model with a longer "
        "context, or allow it with --truncated 0.25"
    )
    assert fine(looked(task(), {"train": long}, context=20, truncated=0.25))


def test_answers_that_would_be_cut() -> None:
    long = examples([("the sea", "one two three four"), ("a hill", "one two three")])
    told = fault(looked(task(), {"train": long}))
    assert told == (
        "the answers of 1 of 2 training rows are longer than decoding.max_new, 4 tokens (t:1): raise it, or allow it "
        "with --truncated 0.50"
    )
    labels = replace(task("classify"), labels=("one two three four", "one"))
    chosen = examples([("the sea", "one two three four"), ("a hill", "one")], ("text", "label"))
    assert fine(looked(labels, {"train": chosen})), "labels are chosen, not written"


def test_an_input_that_stands_in_two_parts() -> None:
    both = examples([("The  red sea", "mat"), ("far road", "cat")])
    parts = {"train": TRAIN, "select": examples([("far road", "cat")]), "test": both}
    assert data_faults(task(), parts, 0.0) == [
        "1 of 2 inputs of test stand in train too (t:1): take them out, or allow it with --overlap 0.50",
        "1 of 2 inputs of test stand in select too (t:2): take them out, or allow it with --overlap 0.50",
    ]
    assert data_faults(task(), parts, 0.5) == []


LONG = "one two three four five six the old sea and a new hill by my far road"


CHANGED = {
    LONG: False,  # the same to the letter, which is another fault
    LONG + " red": True,
    "green " + LONG[8:]: True,
    LONG.replace("far road", "red blue"): True,  # eight of ten runs
    LONG.replace("my far road", "red blue green"): False,  # seven
    LONG[:40] + "red green blue " * 4: False,
    "My sea, road.": True,  # too short for a run: all of it, but for case, commas and full stops, is compared
    "my sea road?": False,
    "my sea road a": False,
    "cool ?": False,
    "the old sea": False,  # which stands in a longer one
}


@pytest.mark.parametrize(("changed", "near"), CHANGED.items())
def test_an_input_that_is_nearly_the_same(changed: str, near: bool) -> None:
    parts = {
        "train": examples([("my sea road", "cat"), (LONG, "mat"), ("cool !", "cat")]),
        "test": examples([(changed, "cat")]),
    }
    found = [said for said in data_faults(task(), parts, 0.0) if "near copies" in said]
    assert bool(found) is near
    if near:
        assert found[0].startswith("1 of 1 inputs of test are near copies of training inputs (t:1)")


def test_overlap_by_a_slow_plain_version() -> None:
    words = LONG.split()
    train = examples([(" ".join(words[i : i + 11]), "cat") for i in range(5)])
    other = examples([(" ".join([*words[i : i + 9], *"x" * j]), "mat") for i in range(7) for j in range(4)])

    def shown(some: list[Example]) -> list[tuple[str, ...]]:
        """Two columns, the other of which is one of three."""
        return [(task().input(one), "abc"[at % 3]) for at, one in enumerate(some)]

    def plain(one: tuple[str, ...]) -> bool:
        own = grams(one[0])
        return any(len(own & grams(t[0])) >= 0.8 * len(own) and one[1] == t[1] for t in shown(train))

    found = nearly(shown(train), shown(other))
    assert found == {at for at, one in enumerate(shown(other)) if plain(one)}
    assert 0 < len(found) < len(other)
    assert len(nearly([one[:1] for one in shown(train)], [one[:1] for one in shown(other)])) > len(found)
    assert same(shown(train), [*shown(other), *shown(train)[2:3]]) == {len(other)}


ASPECTS = "{{ text }}\nWhat of the {{ topic }}?"


@pytest.mark.parametrize(("topic", "told"), [("food", False), ("Room", True)])
def test_one_text_with_another_question_is_another_input(topic: str, told: bool) -> None:
    """Neither the same nor nearly, though the text is: it is the whole of what the model reads that counts."""
    made = task("classify", labels=("good", "bad"), prompts=(ASPECTS,))
    made = replace(made, columns={"text": "review", "label": "label"})
    known = Example("t:1", {"review": LONG, "text": LONG, "topic": "room", "label": "good"})
    for text, what in ((LONG, "stand in train too"), (LONG + " red", "are near copies of training inputs")):
        asked = Example("t:2", {"review": text, "text": text, "topic": topic, "label": "bad"})
        assert any(what in said for said in data_faults(made, {"train": [known], "test": [asked]}, 0.0)) is told


def test_columns_under_each_other_s_names_are_compared_as_they_are_read() -> None:
    """Backwards: what the data call the target is the source, and the input is what is read."""
    made = replace(task(), columns={"source": "target", "target": "source"})
    one, other = (Example(f"t:{at}", {"source": read, "target": "cat"}) for at, read in enumerate(("dog", "hen")))
    assert made.shown(one) == ("dog",)
    assert data_faults(made, {"train": [one], "test": [other]}, 0.0) == []


TAGGED = {"tokens": ["go"], "tags": ["VB"]}
WRITTEN = {"source": "a sea", "target": "cat"}


@pytest.mark.parametrize(
    ("made", "row", "told"),
    [(task("tag", labels=("NN", "VB")), TAGGED, "'NN' is no tag of an entity"),
     (task(metric="accuracy"), WRITTEN, "'accuracy' does not fit a task of kind generate"),
     (task(metric="mentions"), WRITTEN, "a column `required`, a list of strings, which t:2 does not have"),
     (task(prompts=("{{ source }} {{ topic }}",)), WRITTEN, "asks for 'topic', and t:2 has the columns")],
)  # fmt: skip
def test_what_is_wrong_whatever_the_model(made: Task, row: dict[str, Any], told: str) -> None:
    """It is the second row alone that lacks a topic, and required strings."""
    good = Example("t:1", row | {"topic": "sea", "required": []})
    (found,) = data_faults(made, {"train": [good], "test": [Example("t:2", row)]}, 1.0)
    assert told in found
    assert data_faults(made, {"train": [good]}, 0.0) == ([] if "t:2" in told else [found])


@pytest.mark.parametrize("metric", ["rouge1", "rougeL", "bleu"])
def test_a_metric_that_cannot_read_the_references(metric: str) -> None:
    """A perfect model would score 0; a few rows of no words are left to the score."""
    plain = [(f"{n} the sea", "one two three four five") for n in range(39)]
    parts = {
        "test": examples([(f"{n} море", "сине е-морето" if metric == "bleu" else "море и небе") for n in range(7)])
    }
    (told,) = data_faults(task(metric=metric), parts, 0.0)
    assert told.startswith(f"{metric} gives the references of test 0 of ")
    assert "(t:1, t:2, t:3, t:4, t:5 and 2 more): take another metric, such as chrf" in told
    assert data_faults(task(metric="chrf"), parts, 0.0) == []
    assert data_faults(task(metric=metric), {"test": examples([*plain, ("the hill", "...")])}, 0.0) == []


def test_a_stop_string_within_a_reference() -> None:
    """The model could not write such an answer whole. What it would end at its own end, or choose, is well."""
    parts = {"train": examples([("a sea", "cat\n"), ("a hill", "a cat\nor a mat"), ("a road", "no\n")])}
    stopped = task(decoding=Decoding(max_new=4, stop=("\n",)))
    assert data_faults(stopped, parts, 0.0) == [
        "the stop string '\\n' stands in 1 of 3 references of train (t:2): take it out of decoding.stop, or out of them"
    ]
    assert data_faults(task(), parts, 0.0) == []
    chosen = task("classify", labels=("a", "b"), decoding=Decoding(max_new=4, stop=("a",)))
    assert data_faults(chosen, {"train": examples([("sea", "a"), ("hill", "b")], ("text", "label"))}, 0.0) == []


def test_a_missing_column_is_told_when_the_task_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({"source": "the sea"}) + "\n")
    with pytest.raises(ValueError, match=r"t.jsonl:1 in .* has no column 'target' for 'target': it has 'source'"):
        prepare(parse_task({"kind": "generate", "data": {"train": "t.jsonl"}}, "here", tmp_path))


def test_all_faults_are_told_and_five_rows_named() -> None:
    many = examples([(f"{a} {b}", "cat") for a in ("the", "a", "my") for b in ("sea", "hill", "road")])
    rows = rows_of(Prompter(task(), tokenizer(), "decoder", 40), many)
    found = looked(task(), {"train": many}, rows=[r._replace(weight=0 * r.weight) for r in rows], eos=frozenset({1, 2}))
    assert [said.split()[0] for said in found.faults] == ["no", "the"]
    assert "t:1, t:2, t:3, t:4, t:5 and 4 more carries loss" in found.faults[0]


# -- what is shown ----------------------------------------------------------------------------------------


def test_samples_show_what_carries_loss() -> None:
    first = looked(task()).samples[0]
    assert first.name == "t:1"
    assert first.pieces == (("<s> the red sea =".replace("<s> ", "<s>"), False), (" cat</s>", True))
    read = looked(task(), shape="encoder-decoder").samples[0].pieces
    assert read == (("<s>the red sea =\n", False), ("cat</s>", True))


def test_samples_of_an_encoder_show_labels() -> None:
    words = tokenizer(begins=False)
    words.inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", words.cls), ("[SEP]", words.sep)]
    )
    made = replace(task("classify", prompts=("{{ text }}",)), labels=("no", "yes"))
    found = looked(made, {"train": examples([("the sea", "yes")], ("text", "label"))}, words=words, shape="encoder")
    assert fine(found)
    assert found.samples[0].pieces == (("[CLS]the sea[SEP]", False), (" = yes  ", True), ("", False))
    made = replace(task("tag"), labels=("O", "B-X"))
    tagged = examples([(["the", "sea"], ["O", "B-X"])], ("tokens", "tags"))
    found = looked(made, {"train": tagged}, words=words, shape="encoder")
    assert fine(found)
    assert [piece for piece in found.samples[0].pieces if piece[1]] == [(" = O  ", True), (" = B-X  ", True)]
    assert (found.learned, found.tokens) == (2, 4)


# -- answers that are pointed at ------------------------------------------------------------------------------


def pointed(
    *answers: str, context: int = 60, text: str | None = "the old sea road cat a new hill", **more: Any
) -> Preflight:
    """What is found of questions on one text, for an encoder."""
    columns = {name: name for name in ("context", "question", "answer")}
    made = Task("t", "answer", Data("t.jsonl"), columns, ("{{ question }}",), "{{ answer }}", decoding=Decoding(4))
    rows = [{"context": text, "question": "the cat ?", "answer": answer, **more} for answer in answers]
    asked = [Example(f"t:{at}", row) for at, row in enumerate(rows, 1)]
    return looked(made, {"train": asked}, shape="encoder", context=context)


def test_an_answer_that_its_context_does_not_hold_is_counted() -> None:
    assert fine(pointed("sea road", "cat", "hill"))
    said = fault(pointed("sea road", "Cat", "birds", ""))
    assert said.startswith("the answers of 3 of 4 training rows (t:2, t:3, t:4) do not stand in their context to the ")
    assert "take such rows out, or a decoder or an encoder-decoder, which writes its answers" in said
    assert fault(pointed("cat", answer_start=3)).startswith("the answers of 1 of 1 training rows (t:1) do not stand in")


def test_an_answer_that_fits_no_window_or_is_longer_than_is_looked_for() -> None:
    said = fault(pointed("old sea road cat", "cat", context=10))
    assert said == (
        "the answers of 1 of 2 training rows (t:1) fit no window of the model's context of 10 tokens: take such rows "
        "out, or a decoder or an encoder-decoder, which writes its answers"
    )
    said = fault(pointed("the old sea road cat", "cat"))
    assert said.startswith("the answers of 1 of 2 training rows are longer than decoding.max_new, 4 tokens (t:1)")


def test_a_row_without_a_context_is_refused() -> None:
    with pytest.raises(ValueError, match=r"t:1 has no context, and an encoder points at its answer in one: name the"):
        pointed("cat", text=None)


def test_an_answer_that_is_pointed_at_is_shown() -> None:
    (shown,) = pointed("sea road").samples
    assert [learned for _, learned in shown.pieces] == [False, True, False]
    assert shown.pieces[1][0].strip() == "sea road"
