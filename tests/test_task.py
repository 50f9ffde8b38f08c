"""A task: read from YAML, divided into parts, named by a hash; and every mistake told in one sentence."""

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.data.examples import Example
from modelwright.data.task import (
    PARTS,
    Data,
    Decoding,
    Task,
    contract,
    of_terms,
    parse_task,
    parts,
    prepare,
    read_task,
    terms,
)
from modelwright.data.tokenizer import Tokenizer, train
from modelwright.project.resolve import task_said

SRC = str(Path(__file__).parents[1] / "src")


def table(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def summaries(count):
    return [{"dialogue": f"Talk {n} of many.", "summary": f"Sum {n}."} for n in range(count)]


def labelled(count):
    return [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(count)]


@pytest.fixture
def minimal(tmp_path):
    table(tmp_path / "d.jsonl", summaries(100))
    path = tmp_path / "talks.yaml"
    path.write_text("kind: summarise\ndata: {train: d.jsonl}\ncolumns: {source: dialogue, target: summary}\n")
    return path


# --- reading --------------------------------------------------------------------------------------


def test_a_minimal_task(minimal):
    task = read_task(minimal)
    assert (task.name, task.kind, task.path) == ("talks", "summarise", minimal)
    assert task.data == Data(str(minimal.parent / "d.jsonl"))
    assert task.prompts == ("{{ source }}\n\nSummary:",)
    assert task.completion == " {{ target }}"
    assert task.decoding == Decoding(max_new=128)
    found = parts(task)
    assert list(found) == list(PARTS)
    example = found["train"][0]
    assert example.fields["source"] == example.fields["dialogue"]
    assert task.reference(example) == example.fields["summary"]


def test_all_of_a_task(tmp_path):
    said = {
        "name": "n", "kind": "classify", "data": {"train": "s3://b/t.jsonl", "test": "/x/y.csv", "seed": 3,
        "split": {"decide": 0}, "limit": {"train": 5}}, "columns": {"text": "t", "required": "r"},
        "prompts": ["{{ text }}?", "{{ t }}!"], "completion": "{{ label }}", "instruction": "Say.", "separator": "--",
        "labels": ["no", "yes"], "metric": "accuracy", "chat": False,
        "decoding": {"max_new": 3, "temperature": 0.5, "top_k": 4, "top_p": 0.9, "stop": "x"},
    }  # fmt: skip
    assert parse_task(said, "here", tmp_path) == Task(
        name="n", kind="classify", data=Data("s3://b/t.jsonl", test="/x/y.csv", split={"train": 0.7, "select": 0.1,
        "decide": 0.0, "test": 0.1}, limit={"train": 5}, seed=3), columns={"text": "t", "label": "label",
        "required": "r"}, prompts=("{{ text }}?", "{{ t }}!"), completion="{{ label }}", instruction="Say.",
        separator="--", labels=("no", "yes"), metric="accuracy", chat=False,
        decoding=Decoding(3, 0.5, 4, 0.9, ("x",)),
    )  # fmt: skip
    assert parse_task({**said, "data": {"train": "desk:x"}}, "here", tmp_path).data.train == "desk:x"


BASE = {"kind": "summarise", "data": {"train": "d.jsonl"}}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"promts": "x"}, "t.yaml has an unknown key 'promts': perhaps you meant prompts"),
        ({"kind": "sumarise"}, "t.yaml: kind is 'sumarise', and may be summarise, translate, answer"),
        ({"data": {"trian": "x"}}, "t.yaml: data has an unknown key 'trian': perhaps you meant train"),
        ({"data": {}}, "t.yaml: data: there is no train: name the file"),
        ({"data": "d.jsonl"}, "t.yaml: data is 'd.jsonl', and is to be a mapping"),
        (
            {"data": {"train": "x", "split": {"tset": 1}}},
            "t.yaml: data: split has an unknown key 'tset': perhaps you meant test",
        ),
        ({"data": {"train": "x", "split": {"test": -1}}}, "t.yaml: data: split: test is -1, and is to be a number"),
        ({"data": {"train": "x", "split": {"train": 0}}}, "t.yaml: data: split: the share of train is 0"),
        ({"data": {"train": "x", "limit": {"train": 0}}}, "t.yaml: data: limit: train is 0, and is to be a whole"),
        ({"columns": {"sorce": "x"}}, "t.yaml: columns has an unknown key 'sorce': perhaps you meant source"),
        ({"columns": {"label": "x"}}, "t.yaml: columns has an unknown key 'label': it may be source, target, required"),
        ({"decoding": {"max_new": 2.5}}, "t.yaml: decoding: max_new is 2.5, and is to be a whole number, 1 or more"),
        ({"decoding": {"topp": 1}}, "t.yaml: decoding has an unknown key 'topp': perhaps you meant top_p"),
        ({"decoding": {"top_p": 1.5}}, "t.yaml: decoding: top_p is 1.5"),
        ({"prompts": "{{ source "}, "t.yaml: the prompt template is wrong on its line 1: unexpected end of template"),
        ({"prompts": ["x", "{% if %}"]}, "t.yaml: the prompt 1 template is wrong on its line 1"),
        ({"prompts": ["x"], "prompt": "y"}, "t.yaml: prompt and prompts are both there"),
        ({"prompts": [["x"]]}, "t.yaml: prompts is [['x']], and is to be a list of texts"),
        ({"completion": 3}, "t.yaml: completion is 3, and is to be a text"),
        ({"chat": "yes"}, "t.yaml: chat is 'yes', and is to be true or false"),
        ({"kind": "classify", "labels": [True, False]}, "t.yaml: labels: YAML reads yes, no, true and the like as"),
        ({"kind": "classify", "labels": ["a", "b", " a"]}, "t.yaml: labels are each to be another, but for the space"),
        ({"labels": ["a"]}, "t.yaml: labels are for the kinds classify and tag"),
    ],
)
def test_every_mistake_is_named(change, fault, tmp_path):
    with pytest.raises(ValueError, match=f"^{re.escape(fault)}"):
        parse_task(BASE | change, "t.yaml", tmp_path)


def test_files_that_are_no_tasks(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no task file"):
        read_task(tmp_path / "none.yaml")
    for content in ("a: [", "- 1", "!!python/object/apply:os.system [ls]"):
        (tmp_path / "t.yaml").write_text(content)
        with pytest.raises(ValueError, match=r"t\.yaml is"):
            read_task(tmp_path / "t.yaml")


# --- rows -----------------------------------------------------------------------------------------


def test_a_column_that_is_not_there(minimal):
    minimal.write_text(minimal.read_text().replace("summary}", "sumary}"))
    with pytest.raises(ValueError) as said:  # noqa: PT011
        parts(read_task(minimal))
    where = minimal.parent / "d.jsonl"
    assert str(said.value) == f"d.jsonl:1 in {where} has no column 'sumary' for 'target': it has 'dialogue', 'summary'"


def test_a_table_without_a_header_is_told_what_its_first_row_was_taken_for(tmp_path):
    """Three rows of three labels: nothing tells that the first is an example."""
    (tmp_path / "t.tsv").write_text("good film\t1\nbad film\t0\nfine\t2\n")
    task = parse_task({"kind": "classify", "data": {"train": "t.tsv"}}, "here", tmp_path)
    with pytest.raises(ValueError, match=r"it has 'good film', '1', as its first row says, which is to name the col"):
        prepare(task)


@pytest.mark.parametrize("asks", ["'{0}{1}'.format(source)", "'{x}'.format(source)", "source.index('\\t')"])
def test_a_template_that_fails_on_a_row(minimal, asks):
    minimal.write_text(minimal.read_text() + f'prompt: "{{{{ {asks} }}}}"\n')
    with pytest.raises(ValueError, match=r"the prompt template fails on d\.jsonl:\d+: (Index|Key|Value)Error: "):
        parts(read_task(minimal))


def test_a_template_that_names_a_missing_column(minimal):
    minimal.write_text(minimal.read_text() + 'prompts: ["{{ source }}", "{{ dialog }} {{ source }}"]\n')
    with pytest.raises(ValueError) as said:  # noqa: PT011
        parts(read_task(minimal))
    text = str(said.value)
    assert text.startswith(f"{minimal}: the prompt 1 template asks for 'dialog', and d.jsonl:")
    assert text.endswith("has the columns 'dialogue', 'summary', 'source', 'target'")


@pytest.mark.parametrize(
    ("value", "fault"),
    [(None, "nothing (null)"), (["a"], "['a']"), ({"a": 1}, "{'a': 1}")],
)
def test_another_type_in_a_row(minimal, value, fault):
    rows = summaries(5)
    rows[3]["summary"] = value
    path = table(minimal.parent / "d.jsonl", rows)
    expected = f"d.jsonl:4 in {path}: the column 'summary' is to hold a text, and holds {fault}"
    with pytest.raises(ValueError, match=re.escape(expected)):
        parts(read_task(minimal))


def test_tags_that_are_not_the_tokens_number(tmp_path):
    rows = [{"tokens": ["a", "b"], "tags": ["O"]}]
    said = {"kind": "tag", "data": {"train": str(table(tmp_path / "d.jsonl", rows))}}
    with pytest.raises(ValueError, match=r"d.jsonl:1 .* has 2 tokens and 1 tags"):
        parts(parse_task(said, "t", tmp_path))
    rows = [{"tokens": "a b", "tags": ["O"]}]
    table(tmp_path / "d.jsonl", rows)
    with pytest.raises(ValueError, match="is to hold a list of texts, and holds 'a b'"):
        parts(parse_task(said, "t", tmp_path))


def test_an_empty_part(minimal):
    table(minimal.parent / "d.jsonl", summaries(2))
    with pytest.raises(ValueError, match=r"part '.*' is empty: 2 examples in all are too few to cut it"):
        parts(read_task(minimal))
    minimal.write_text(minimal.read_text().replace("train:", "split: {select: 0, decide: 0, test: 0}, train:"))
    assert list(parts(read_task(minimal))) == ["train"]


# --- the split ------------------------------------------------------------------------------------


def cut(rows, folder, **data):
    task = parse_task(
        {"kind": "generate", "data": {"train": str(table(folder / "d.jsonl", rows)), **data}}, "t", folder
    )
    return task, parts(task)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(200, 400),
    st.lists(st.integers(0, 199), max_size=20),
    st.integers(0, 9),
    st.sampled_from([{}, {"test": 0.4}, {"train": 0.2, "select": 0.2, "decide": 0.2, "test": 0.2}, {"decide": 0}]),
)
def test_no_input_lies_in_two_parts(tmp_path_factory, distinct, again, seed, split):
    numbers = [*range(distinct), *again]
    rows = [{"source": f"{'  ' * (i % 3)}Input {n}", "target": str(i)} for i, n in enumerate(numbers)]
    task, found = cut(rows, tmp_path_factory.mktemp("split"), seed=seed, split=split)
    inputs = {part: {task.input(example) for example in examples} for part, examples in found.items()}
    for part in inputs:
        assert not any(inputs[part] & inputs[other] for other in inputs if other != part)
    ids = [example.id for part in found for example in found[part]]
    assert sorted(ids) == sorted(f"d.jsonl:{n + 1}" for n in range(len(rows)))  # every row once
    shares = {"train": 0.7, "select": 0.1, "decide": 0.1, "test": 0.1} | split
    for part, share in shares.items():
        expected = share / sum(shares.values())
        spread = 4.5 * (expected * (1 - expected) / distinct) ** 0.5
        assert abs(len(inputs.get(part, ())) / distinct - expected) <= spread


def test_a_part_with_a_file_is_not_cut(tmp_path):
    rows = [{"source": f"s {n}", "target": "t"} for n in range(1000)]
    table(tmp_path / "test.jsonl", rows[:10])
    _, found = cut(rows[10:], tmp_path, test=str(tmp_path / "test.jsonl"))
    assert [e.id for e in found["test"]] == [f"test.jsonl:{n}" for n in range(1, 11)]
    assert sum(map(len, found.values())) == 1000
    assert len(found["train"]) / 990 == pytest.approx(7 / 9, abs=0.05)


def test_a_split_is_the_same_everywhere_and_another_for_another_seed(tmp_path):
    rows = [{"source": f"s {n}", "target": "t"} for n in range(60)]
    _, found = cut(rows, tmp_path)
    # worked out here once more: a split that moved would let a model see what it is tested on
    chances = [int(hashlib.sha256(f"0/split/s {n}".encode()).hexdigest()[:16], 16) / 2**64 for n in range(60)]
    assert [e.fields["source"] for e in found["test"]] == [f"s {n}" for n in range(60) if chances[n] >= 0.9]
    assert [e.fields["source"] for e in found["train"]] == [f"s {n}" for n in range(60) if chances[n] < 0.7]
    _, again = cut(rows[::-1], tmp_path)  # whatever the order of the rows
    assert {e.fields["source"] for e in again["test"]} == {e.fields["source"] for e in found["test"]}
    _, other = cut(rows, tmp_path, seed=1)
    assert {e.id for e in other["test"]} != {e.id for e in found["test"]}


def test_limits_are_nested_and_spread(tmp_path):
    rows = [{"source": f"s {n}", "target": "t"} for n in range(500)]
    chosen = [cut(rows, tmp_path, limit={"train": n})[1]["train"] for n in (20, 100, 10_000)]
    assert [len(examples) for examples in chosen[:2]] == [20, 100]
    small, large, whole = ([e.id for e in examples] for examples in chosen)
    assert set(small) < set(large) < set(whole)
    assert small == [i for i in whole if i in small]  # in the file's order
    assert small != whole[:20]


# --- labels ---------------------------------------------------------------------------------------


def classify(folder, train_labels, test_labels, **more):
    for name, labels in (("train", train_labels), ("test", test_labels)):
        table(folder / f"{name}.jsonl", [{"text": f"{name} {n}", "label": label} for n, label in enumerate(labels)])
    split = {"select": 0, "decide": 0}
    data = {"train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl"), "split": split}
    return parse_task({"kind": "classify", "data": data, **more}, "t", folder)


def test_labels_are_found_in_a_stable_order(tmp_path):
    assert prepare(classify(tmp_path, ["b", "a", "b"], ["a"]))[0].labels == ("a", "b")
    assert prepare(classify(tmp_path, [10, 9, 2], [2]))[0].labels == ("2", "9", "10")
    assert prepare(classify(tmp_path, [True, False], [True]))[0].labels == ("false", "true")
    assert prepare(classify(tmp_path, ["a"], ["a"], labels=["z", "a"]))[0].labels == ("z", "a")
    rows = [{"tokens": ["x", "y", "z"], "tags": ["I-b", "O", "B-b"]}] * 9
    said = {"kind": "tag", "data": {"train": str(table(tmp_path / "n.jsonl", rows)), "split": dict.fromkeys(PARTS, 0)}}
    said["data"]["split"]["train"] = 1
    assert prepare(parse_task(said, "t", tmp_path))[0].labels == ("O", "B-b", "I-b")


def test_a_label_unseen_in_training(tmp_path):
    with pytest.raises(ValueError) as said:  # noqa: PT011
        prepare(classify(tmp_path, ["a", "b"], ["a", "c", "c"]))
    rows = "2 times, test.jsonl:2, test.jsonl:3; if it is one all the same, list all of them in labels"
    assert str(said.value) == f"test has the label 'c', unseen in training (a, b): {rows}"


# --- the contract ---------------------------------------------------------------------------------

TASK = Task(
    name="n", kind="classify", data=Data("x"), columns={"text": "t", "label": "l"}, prompts=("{{ text }}",),
    completion=" {{ label }}", labels=("a", "b"),
)  # fmt: skip
TEXTS = [f"word {n} and more words of a text" for n in range(30)]
CHAT = {"chat_template": "{{ messages[0].content }}"}


@pytest.fixture(scope="module")
def tokenizer():
    return train(TEXTS, "bpe", 300)


def test_the_contract_changes_with_each_piece_of_the_prompt(tokenizer):
    tasks = [
        TASK,
        replace(TASK, kind="generate"),
        replace(TASK, columns={"label": "l"}),
        *[replace(TASK, prompts=("{{ t }}",), columns={"text": text, "label": "l"}) for text in "tu"],
        replace(TASK, prompts=("{{ text }} ",)),
        replace(TASK, prompts=("{{ text }}", "b")),
        replace(TASK, completion="{{ label }}"),
        replace(TASK, instruction="Say."),
        replace(TASK, separator="\n"),
        replace(TASK, labels=("c", "a")),
        *[replace(TASK, prompts=("{{ labels }} {{ text }}",), labels=labels) for labels in (("a", "b"), ("b", "a"))],
        *[replace(TASK, decoding=decoding) for decoding in (
            Decoding(max_new=63), Decoding(temperature=1.0), Decoding(top_k=1), Decoding(top_p=0.5),
            Decoding(stop=("x",)),
        )],
    ]  # fmt: skip
    hashes = [contract(task, tokenizer) for task in tasks]
    other = train([*TEXTS, "zebra zebra"], "bpe", 300)
    chatty = Tokenizer(tokenizer.inner, tokenizer.roles, CHAT)
    roles = Tokenizer(tokenizer.inner, {**tokenizer.roles, "bos": None})
    hashes += [contract(TASK, made) for made in (other, chatty, roles)]
    assert len(set(hashes)) == len(hashes)
    assert contract(replace(TASK, chat=False), chatty) == hashes[0]  # the template is not used
    assert contract(replace(TASK, chat=True), chatty) == contract(TASK, chatty)


def test_beams_are_part_of_the_contract_where_there_are_any(tokenizer):
    """A model that was tuned before there were beams keeps its contract."""
    assert contract(TASK, tokenizer) == "679d37d8dee3ef152019850417feb5b59536e711809bb288c66b228adf6976bf"
    assert set(terms(TASK)["decoding"]) == {"max_new", "temperature", "top_k", "top_p", "stop"}
    assert set(task_said(TASK)["decoding"]) == {
        "max_new",
        "temperature",
        "stop",
    }  # by which a project's steps are named
    beamy = [replace(TASK, decoding=Decoding(beams=4, length_penalty=penalty)) for penalty in (1.0, 0.6)]
    assert len({contract(task, tokenizer) for task in [TASK, *beamy]}) == 3
    for task in beamy:
        assert of_terms(terms(task), "here").decoding == task.decoding
        assert task_said(task)["decoding"]["length_penalty"] == task.decoding.length_penalty


@pytest.mark.parametrize(
    ("decoding", "told"),
    [
        ({"beams": 0}, "beams is 0, and is to be a whole number, 1 or more"),
        ({"beams": 4, "length_penalty": -1}, "length_penalty is -1, and is to be a number, 0 or more"),
        ({"length_penalty": 0.6}, "length_penalty ranks the answers of beams"),
        ({"beams": 4, "temperature": 0.5}, "beams draw nothing"),
        ({"beams": 2, "top_p": 0.5}, "beams draw nothing"),
    ],
)
def test_decodings_that_cannot_be(decoding, told, minimal):
    minimal.write_text(minimal.read_text() + f"decoding: {json.dumps(decoding)}\n")
    with pytest.raises(ValueError, match=f"decoding: {told}"):
        read_task(minimal)


def test_a_decoding_with_beams(minimal):
    minimal.write_text(minimal.read_text() + "decoding: {beams: 4, length_penalty: 0.6}\n")
    assert read_task(minimal).decoding == Decoding(max_new=128, beams=4, length_penalty=0.6)


def test_the_contract_is_of_the_prompt_alone(tokenizer, tmp_path):
    first = contract(TASK, tokenizer)
    same = replace(TASK, name="m", data=Data("y", seed=9), metric="accuracy", path=Path("z"))
    assert contract(same, tokenizer) == first
    assert contract(replace(TASK, columns={"label": "l", "text": "t"}), tokenizer) == first
    for columns in ({"text": "u", "label": "k"}, {"text": "text", "label": "label"}, {**TASK.columns, "required": "r"}):
        assert contract(replace(TASK, columns=columns), tokenizer) == first  # what the file calls them
    assert contract(replace(TASK, labels=("b", "a")), tokenizer) == first
    tokenizer.save(tmp_path)
    assert contract(TASK, Tokenizer.load(tmp_path)) == first


def test_the_contract_in_another_process(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {SRC!r})\nfrom pathlib import Path\n"
        "from modelwright.data.task import *\nfrom modelwright.data.tokenizer import Tokenizer\n"
        "task = Task(name='n', kind='classify', data=Data('x'), columns={'label': 'l', 'text': 't'},"
        "prompts=('{{ text }}',), completion=' {{ label }}', labels=('a', 'b'))\n"
        f"print(contract(task, Tokenizer.load(Path({str(tmp_path)!r}))))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == contract(TASK, tokenizer)


def test_inputs_are_compared_without_case_and_spacing():
    task = replace(TASK, kind="answer")
    a = Example("a", {"context": "A  b\n", "question": "Why?"})
    b = Example("b", {"context": "a B", "question": " why?"})
    assert task.input(a) == task.input(b)
    assert task.input(a) != task.input(Example("c", {"context": "a", "question": "b why?"}))


# --- questions ------------------------------------------------------------------------------------


def questions(path, articles, each=5):
    """Articles of one paragraph with some questions, as SQuAD has them."""
    asked = [{"question": f"what is {n}?", "answers": [{"text": f"it {n}", "answer_start": 0}]} for n in range(each)]
    data = [{"title": f"a{at}", "paragraphs": [{"context": f"it {at}", "qas": asked}]} for at in range(articles)]
    path.write_text(json.dumps({"data": data}))
    return path


def test_an_article_stands_in_one_part(tmp_path):
    said = {"kind": "answer", "data": {"train": "q.json"}}
    questions(tmp_path / "q.json", 24)
    found = parts(parse_task(said, "here", tmp_path))
    titles = {part: {e.fields["title"] for e in examples} for part, examples in found.items()}
    assert sum(map(len, titles.values())) == len(set().union(*titles.values())) == 24
    assert [len(found[part]) for part in PARTS] == pytest.approx([84, 12, 12, 12], abs=5)  # one article is 5
    other = parts(parse_task({**said, "data": {"train": "q.json", "seed": 1}}, "here", tmp_path))
    assert {e.fields["title"] for e in other["test"]} != titles["test"]
    questions(tmp_path / "q.json", 12)
    fewer = parts(parse_task(said, "here", tmp_path))
    assert all(fewer.values())  # though there are so few


def test_several_right_answers(tmp_path):
    table(tmp_path / "d.jsonl", [{"context": "to be", "question": f"q{n}", "a": ["be", "to be"]} for n in range(40)])
    columns = {"answer": "a", "answer_start": "at", "context": "context"}
    said = {"kind": "answer", "data": {"train": "d.jsonl"}, "columns": {"answer": "a"}}
    example = parts(parse_task(said, "here", tmp_path))["train"][0]
    assert (example.fields["answer"], example.fields["accepted"]) == ("be", ["be", "to be"])
    with pytest.raises(ValueError, match=r"has no column 'at' for 'answer_start'"):
        parts(parse_task({**said, "columns": columns}, "here", tmp_path))
    table(tmp_path / "d.jsonl", [{"context": "to be", "question": f"q{n}", "a": "be", "at": 3} for n in range(40)])
    example = parts(parse_task({**said, "columns": columns}, "here", tmp_path))["train"][0]
    assert (example.fields["answer"], example.fields["answer_start"]) == ("be", 3)
    assert "accepted" not in example.fields
    table(tmp_path / "d.jsonl", [{"context": "to be", "question": f"q{n}", "a": []} for n in range(40)])
    with pytest.raises(ValueError, match=r"d\.jsonl:1 in .*: the column 'a' holds no answer: take such rows out"):
        parts(parse_task(said, "here", tmp_path))


def test_the_contract_of_a_task_that_answers_is_what_it_was(tokenizer, tmp_path):
    """What may be told of an answer is no part of a prompt."""
    said = {"kind": "answer", "data": {"train": "q.json"}, "columns": {"answer": "a"}}
    more = {**said, "columns": {"answer": "a", "answer_start": "at", "accepted": "all"}}
    assert contract(parse_task(said, "h", tmp_path), tokenizer) == contract(parse_task(more, "h", tmp_path), tokenizer)
    with pytest.raises(ValueError, match="unknown key 'answer_start'"):
        parse_task({"kind": "summarise", "data": {"train": "x"}, "columns": {"answer_start": "at"}}, "h", tmp_path)


def test_columns_that_nobody_named_are_no_right_answers(tmp_path):
    """A table from before there were several right answers may have such columns, and mean nothing by them."""
    row = {"context": "c d", "question": "q", "answer": "d", "answer_start": 2, "accepted": ["zzz"]}
    table(tmp_path / "q.jsonl", [row | {"question": f"q{n}"} for n in range(40)])
    task = parse_task({"kind": "answer", "data": {"train": "q.jsonl"}}, "t", tmp_path)
    example = parts(task)["train"][0]
    assert not {"accepted", "answer_start"} & set(example.fields)
    columns = {"answer_start": "answer_start"}
    named = parse_task({"kind": "answer", "data": {"train": "q.jsonl"}, "columns": columns}, "t", tmp_path)
    example = parts(named)["train"][0]
    assert example.fields["answer_start"] == 2
    assert "accepted" not in example.fields
