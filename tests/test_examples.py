"""Tables of examples in every format, and what is said of a broken one."""

import gzip
import json
import os
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.data.examples import Example, read_examples

ROWS = [{"text": 'a, "b"', "n": 1, "tags": ["O", "B"]}, {"text": "line\nbreak\u2028é", "n": 2.5, "tags": []}]


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_json_lines(tmp_path):
    lines = [json.dumps(ROWS[0]), "", json.dumps(ROWS[1], ensure_ascii=False)]
    path = write(tmp_path / "train.jsonl", "\ufeff" + "\r\n".join(lines))
    assert read_examples(path) == [Example("train.jsonl:1", ROWS[0]), Example("train.jsonl:3", ROWS[1])]
    packed = write(tmp_path / "train.jsonl.gz", gzip.compress(path.read_bytes()))
    assert [e.fields for e in read_examples(str(packed))] == ROWS


def test_parquet(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    assert read_examples(tmp_path / "t.parquet") == [Example("t.parquet:1", ROWS[0]), Example("t.parquet:2", ROWS[1])]


def test_csv_with_quotes_and_line_breaks(tmp_path):
    path = write(tmp_path / "t.csv", 'text,label\r\n"a, ""b""",x\r\n\r\n"two\nlines",y\r\nu\u2028v,z\r\n')
    assert read_examples(path) == [
        Example("t.csv:2", {"text": 'a, "b"', "label": "x"}),
        Example("t.csv:4", {"text": "two\nlines", "label": "y"}),
        Example("t.csv:6", {"text": "u\u2028v", "label": "z"}),
    ]


def test_tsv_with_a_header_and_without(tmp_path):
    path = write(tmp_path / "a.tsv", 'sentence\tlabel\n"quoted" word\t1\nanother\t0\n')
    assert [e.fields for e in read_examples(path)] == [
        {"sentence": '"quoted" word', "label": "1"},
        {"sentence": "another", "label": "0"},
    ]
    path = write(tmp_path / "b.tsv", "good film\t1\nbad film\t0\nfine\t1\n")
    assert read_examples(path)[0] == Example("b.tsv:1", {"text": "good film", "label": "1"})
    assert len(read_examples(path)) == 3


def squad(*articles):
    """Articles of paragraphs of (context, {question: answers with their starts})."""

    def asked(question, answers):
        said = [{"text": text, "answer_start": start} for text, start in answers]
        return {"id": question[:2], "question": question, "answers": said}

    return {
        "version": "1.1",
        "data": [
            {
                "title": f"article {at}",
                "paragraphs": [{"context": c, "qas": [asked(*each) for each in qas.items()]} for c, qas in paragraphs],
            }
            for at, paragraphs in enumerate(articles)
        ],
    }


def test_questions_as_squad_has_them(tmp_path):
    said = squad(
        [("To be.", {"what?": [("be", 3), ("To be", 0)]}), ("Or not.", {"why?": [("not", 3)], "who?": [("Or", 0)]})],
        [("That is.", {"is it?": [("is", 5)]})],
    )
    found = read_examples(write(tmp_path / "q.json", json.dumps(said)))
    assert [(e.id, e.group) for e in found] == [("q.json:1", "article 0"), ("q.json:2", "article 0"),
                                                ("q.json:3", "article 0"), ("q.json:4", "article 1")]  # fmt: skip
    assert found[0].fields == {
        "id": "wh", "context": "To be.", "question": "what?", "answer": ["be", "To be"], "answer_start": [3, 0],
        "title": "article 0",
    }  # fmt: skip
    packed = write(tmp_path / "q.json.gz", gzip.compress(json.dumps(said).encode()))
    assert [e.fields for e in read_examples(packed)] == [e.fields for e in found]
    del said["data"][1]["title"]
    assert read_examples(write(tmp_path / "r.json", json.dumps(said)))[3].group == "r.json/2"


def test_conll(tmp_path):
    text = "-DOCSTART- -X- O\n\nAda NNP B-PER\nruns VB O\n\t\n\xa0\tO\n#x\tO\nL.A.\tB-LOC\r\n\n\n"
    assert read_examples(write(tmp_path / "t.conll", text)) == [
        Example("t.conll:3", {"tokens": ["Ada", "runs"], "tags": ["B-PER", "O"]}),
        Example("t.conll:6", {"tokens": ["\xa0", "#x", "L.A."], "tags": ["O", "O", "B-LOC"]}),
    ]


def test_a_folder_a_list_and_a_url(tmp_path):
    write(tmp_path / "b.jsonl", '{"x": 2}\n')
    write(tmp_path / "a.csv", "x\n1\n")
    assert [e.id for e in read_examples(tmp_path)] == ["a.csv:2", "b.jsonl:1"]
    both = [str(tmp_path / "b.jsonl"), str(tmp_path / "a.csv")]
    assert [e.fields["x"] for e in read_examples(both)] == [2, "1"]
    with fsspec.open("memory://modelwright/t.jsonl", "w") as stream:
        stream.write('{"x": 3}\n')
    assert read_examples("memory://modelwright/t.jsonl") == [Example("t.jsonl:1", {"x": 3})]


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.jsonl", '{"x": 1}\n{"x": \n', "line 2 of {} is not valid JSON: expecting value at column 6"),
        ("a.jsonl", '{"x": "\\ud83d\\ude00"}\n{"x": ["a\\ud83d"]}\n', "line 2 of {} holds half a character, '\\ud83d'"),
        ("a.jsonl", '{"x": 1}\n[1]\n', "line 2 of {} holds a JSON list, not an object"),
        ("a.jsonl", b'{"x": 1}\n{"x": "\xff"}\n', "{} is not UTF-8: byte 16, on line 2 belongs to no character"),
        ("a.jsonl", "\n \n", "{} holds no example: every file or row of it is empty or blank"),
        ("a.csv", "x,y\n", "{} holds no example: every file or row of it is empty or blank"),
        ("a.csv", "x,y\n1,2\n1,2,3\n", "line 3 of {} has 3 fields, and there are 2 columns ('x', 'y'): a field that "
         "holds a comma, a quote or a line break stands in quotes"),
        ("a.csv", "x,y\n1,2\n\"1,2\n", "line 3 of {} is not valid CSV: unexpected end of data"),
        ("a.csv", "x,x\n1,2\n", "{} has several columns named 'x': give each a name of its own"),
        ("a.csv", b"x,y\n1,\xff\n", "{} is not UTF-8: byte 6 belongs to no character"),
        ("a.tsv", "x\ty\n1\t2\n1\n", "line 3 of {} has 1 fields, and there are 2 columns ('x', 'y'): a field that "
         "holds a tab or a line break needs JSON Lines"),
        ("a.conll", "Ada\tB\nruns\n", "line 2 of {} is not a token and its tag: 'runs'"),
        ("a.conll", "Ada\t\n", "line 1 of {} is not a token and its tag: 'Ada\\t'"),
        ("a.parquet", "no table", "{} cannot be read as Parquet: "),
        ("a.txt", "no table", "{} is no table of examples: it may be .jsonl, .json, .csv, .tsv, .parquet or .conll"),
        ("a.json", '{"data": [{"paragraphs": [{"context": "a", "qas": [{"question": "b"}]}]}]}', "{} is JSON, not JSON "
         "Lines, and no set of questions as SQuAD has them (KeyError: 'answers', behind question 1)"),
        ("a.json", '{"data":\n [3\n}', "line 3 of {} is not valid JSON: expecting ',' delimiter at column 1"),
        ("a.json", '{"data": [3]}', "{} is JSON, not JSON Lines, and no set of questions as SQuAD has them (TypeErr"),
        ("a.json", "[]", "line 1 of {} holds a JSON list, not an object"),
        ("a.json", "{}", "{} is JSON, not JSON Lines, and no set of questions as SQuAD has them (KeyError: 'data', "),
    ],
)  # fmt: skip
def test_faults_name_file_and_line(tmp_path, name, content, fault):
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError) as said:  # noqa: PT011  (the whole message is compared)
        read_examples(path)
    assert str(said.value).startswith(fault.replace("{}", str(path), 1))


def test_a_file_that_is_not_there(tmp_path):
    write(tmp_path / "train.jsonl", '{"x": 1}\n')
    with pytest.raises(FileNotFoundError, match=r"train\.jsonl\?"):
        read_examples(tmp_path / "trian.jsonl")


texts = st.text(st.characters(exclude_characters="\r\n\t\0", exclude_categories=["Cs"]), min_size=1)


@given(st.lists(st.tuples(texts, st.sampled_from("ab")), min_size=1, max_size=5))
def test_any_text_comes_back(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("any")
    rows = [(f"x{text}", label) for text, label in rows]
    lines = "".join(json.dumps({"text": t, "label": l}, ensure_ascii=False) + "\n" for t, l in rows)
    tabs = "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows)
    for path in (write(folder / "a.jsonl", lines), write(folder / "b.tsv", tabs)):
        assert [(e.fields["text"], e.fields["label"]) for e in read_examples(path)] == rows


def test_real_files():
    data = os.environ.get("MODELWRIGHT_DATA")
    if not data:
        pytest.skip("MODELWRIGHT_DATA does not name the folder with the real data")
    assert len(read_examples(Path(data) / "wnut17/dev.conll")) == 1009
    sentences = read_examples(Path(data) / "wnut17/train.conll")
    assert len(sentences) == 3394
    assert len({tag for e in sentences for tag in e.fields["tags"]}) == 13
    sst2 = read_examples(Path(data) / "sst2/dev.tsv")
    assert len(sst2) == 872
    assert sst2[0].fields == {"text": "one long string of cliches", "label": "0"}
    dialogues = read_examples(Path(data) / "dialogsum/dev.jsonl")
    assert len(dialogues) == 500
    assert dialogues[-1].id == "dev.jsonl:500"
