"""Reading data: what comes out, in how much memory, and one clear sentence for every fault."""

import gzip
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.data import documents
from modelwright.data.documents import SEPARATOR, fingerprint, read, split


def texts(*args, **kwargs) -> list[str]:
    return [document.text for document in read(*args, **kwargs)]


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def table(path: Path, columns: dict, **kwargs) -> Path:
    pq.write_table(pa.table(columns), path, **kwargs)
    return path


# --- what comes out ---


def test_text_is_split_at_the_separator_and_its_line_breaks(tmp_path):
    path = written(tmp_path / "a.txt", f"one\n\n{SEPARATOR}\r\n\ntwo{SEPARATOR} three \n{SEPARATOR}\n \n{SEPARATOR}")
    found = list(read(path))
    assert [d.text for d in found] == ["one\n", "\ntwo", " three "]
    assert [d.id for d in found] == [f"{path}:0", f"{path}:1", f"{path}:2"]
    assert all(d.meta == {} for d in found)


def test_text_without_separators_is_kept_to_the_letter(tmp_path):
    text = "\n first\r\n\tsecond\n\n"
    assert texts(written(tmp_path / "a.md", text)) == [text]
    assert texts(written(tmp_path / "b.en", "a|b"), separator="|") == ["a", "b"]
    assert texts(tmp_path / "a.md", separator="") == [text]


def test_byte_order_marks_are_dropped(tmp_path):
    assert texts(written(tmp_path / "a.txt", "\ufeffone")) == ["one"]
    assert texts(written(tmp_path / "a.jsonl", '\ufeff{"text": "one"}')) == ["one"]


def test_json_lines(tmp_path):
    lines = [
        '{"text": "one", "n": 1}',
        "",
        '{"text": null}',
        '{"text": "  "}',
        '{"text": "zwei ü\\u00fc\\n"}',
    ]
    path = written(tmp_path / "a.ndjson", "\n".join(lines))
    assert [(d.text, d.id) for d in read(path)] == [("one", f"{path}:0"), ("zwei üü\n", f"{path}:4")]
    assert texts(written(tmp_path / "b.jsonl", '{"said": "x"}\n'), column="said") == ["x"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_parquet(tmp_path, kind):
    values = ["one", None, "", "two"] + [f"row {i}" for i in range(4, 100)]
    path = table(tmp_path / "a.parquet", {"n": range(100), "said": pa.array(values).cast(kind)}, row_group_size=70)
    found = list(read(path, column="said"))
    assert [d.text for d in found] == ["one", "two", *values[4:]]
    assert [d.id for d in found[:3]] == [f"{path}:0", f"{path}:3", f"{path}:4"]


def test_gzip(tmp_path):
    written(tmp_path / "a.txt.gz", gzip.compress(f"one{SEPARATOR}two".encode()))
    written(tmp_path / "b.jsonl.gz", gzip.compress(b'{"text": "three"}\n'))
    assert texts(tmp_path) == ["one", "two", "three"]


def test_folders_are_read_in_order_without_what_is_hidden_or_no_text(tmp_path):
    for name in ("b/2.txt", "b/1.txt", "a.txt", ".hidden.txt", ".git/config", "b/.cache/x.txt", "c.tokens"):
        written(tmp_path / name, name)
    written(tmp_path / "picture.PNG", b"\x89PNG")
    assert texts(tmp_path) == ["a.txt", "b/1.txt", "b/2.txt", "c.tokens"]
    assert [d.id for d in read(tmp_path)][1] == f"{tmp_path}/b/1.txt:0"


def test_globs_and_lists(tmp_path):
    for name in ("x1.txt", "x2.txt", "y.txt", "z[1].txt"):
        written(tmp_path / name, name)
    assert texts(f"{tmp_path}/x*.txt") == ["x1.txt", "x2.txt"]
    assert texts([tmp_path / "y.txt", f"{tmp_path}/x?.txt"]) == ["y.txt", "x1.txt", "x2.txt"]
    assert texts(tmp_path / "z[1].txt") == ["z[1].txt"], "a file whose name looks like a glob is that file"


def test_urls(tmp_path):
    with fsspec.open("memory://corpus/sub/a.txt", "w") as stream:
        stream.write("far away")
    assert texts("memory://corpus/sub/a.txt") == texts("memory://corpus") == texts("memory://corpus/*/*.txt")
    assert [d.id for d in read("memory://corpus/*/a.txt")] == ["memory:///corpus/sub/a.txt:0"]
    assert texts(f"file://{written(tmp_path / 'a.txt', 'near')}") == ["near"]


# --- long texts ---


def test_long_texts_come_in_pieces_that_rebuild_them(tmp_path):
    paragraph = "word " * 3000 + "\n\n"
    text = paragraph * 200  # 3 MB
    path = written(tmp_path / "a.txt", f"{text}\n{SEPARATOR}short")
    found = list(read(path))
    assert "".join(d.text for d in found[:-1]) == text
    assert [d.meta.get("continues", False) for d in found] == [False, True, True, False]
    assert all(d.text.endswith("\n\n") and len(d.text) > documents.CHUNK // 2 for d in found[:2])
    assert {d.id for d in found[:-1]} == {f"{path}:0"}
    assert found[-1].id == f"{path}:1"


parts = st.sampled_from(["a", "b", " ", "\n", "\r\n", "<|>", "<|", "<", "|>"])
chunks = st.lists(st.lists(parts, max_size=8).map("".join), max_size=8)


@given(chunks, st.integers(4, 30))
def test_splitting_does_not_depend_on_the_chunks(pieces, limit):
    """Against the whole text split at once; a separator may lie across any border of chunks."""
    whole = "".join(pieces)
    rebuilt, document = [], ""
    for piece, continues, last in split([*pieces, ""], "<|>", limit):
        assert len(piece) <= limit + 7
        assert continues == bool(document)
        document += piece
        if last:
            rebuilt.append(document)
            document = ""
    assert rebuilt == documents.re.split(r"(?:\r?\n)?<\|>(?:\r?\n)?", whole)
    assert document == ""


def test_a_blank_end_of_a_long_text_is_part_of_it(tmp_path):
    text = "x" * (documents.CHUNK - 10) + "\n" * 1000
    found = list(read(written(tmp_path / "a.txt", text)))
    assert "".join(d.text for d in found) == text
    assert [d.text.isspace() for d in found] == [False, True]


def test_cuts_prefer_paragraphs_then_lines_then_spaces():
    assert documents._border("aaaa bb\nc\n\nd eeeee", 16) == 11
    assert documents._border("aaaa bb ccc\nd eeeee", 16) == 12
    assert documents._border("aaaaaaaaaaaaa eeeee", 16) == 13, "the space goes with the word after it"
    assert documents._border("a" * 19, 16) == 16


def test_memory_does_not_grow_with_the_file(tmp_path):
    """24 MiB of text in one stretch, as lines of JSON, and as one row group of Parquet, in 8 MiB."""
    line = "the quick brown fox jumps over the lazy dog " * 24  # about 1 KiB
    written(tmp_path / "a.txt", line * (24 << 10))
    written(tmp_path / "a.jsonl", (json.dumps({"text": line}) + "\n") * (24 << 10))
    rows = [f"{i} {line}" for i in range(24 << 10)]
    table(tmp_path / "a.parquet", {"text": rows}, compression="none", use_dictionary=False)
    pool = pa.default_memory_pool()
    del rows
    before = pool.bytes_allocated()
    for name in ("a.txt", "a.jsonl", "a.parquet"):
        tracemalloc.start()
        most = 0
        for document in read(tmp_path / name):
            most = max(most, pool.bytes_allocated() - before)
            assert document.text
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak + most < 8 << 20, (name, peak, most)


# --- faults: one sentence, naming the place ---


def fault(*args, kind=ValueError, **kwargs) -> str:
    with pytest.raises(kind) as error:
        list(read(*args, **kwargs))
    message = str(error.value)
    assert "\n" not in message
    return message


def test_json_is_passed_over_in_a_folder_and_refused_by_name(tmp_path):
    written(tmp_path / "a.txt", "text")
    for name in ("index.json", "packed.JSON.gz"):
        path = written(tmp_path / name, '{"text": "settings"}')
        assert fault(path) == (
            f"{path} is JSON, not JSON Lines: name it .jsonl if each line of it is an object, "
            "or write it so, one object a line"
        )
    assert texts(tmp_path) == ["text"]
    assert "is JSON, not JSON Lines" in fault(f"{tmp_path}/*")
    assert texts(f"{tmp_path}/*.txt") == ["text"]


def test_no_such_path_names_the_nearest(tmp_path):
    written(tmp_path / "corpus" / "train.txt", "x")
    said = fault(tmp_path / "corpus" / "trian.txt", kind=FileNotFoundError)
    assert f"{tmp_path}/corpus/trian.txt" in said
    assert f"did you mean {tmp_path}/corpus/train.txt?" in said
    assert f"did you mean {tmp_path}/corpus?" in fault(tmp_path / "korpus" / "train.txt", kind=FileNotFoundError)
    assert "did you mean" not in fault(tmp_path / "corpus" / "zzzz", kind=FileNotFoundError)
    assert "did you mean desk+gaps, the embedded one?" in fault("desk+gap:50k", kind=FileNotFoundError)


def test_nothing_is_found_before_anything_is_read(tmp_path):
    written(tmp_path / "a.txt", "x")
    with pytest.raises(FileNotFoundError, match="no file matches"):
        read([tmp_path / "a.txt", f"{tmp_path}/*.csv"])
    with pytest.raises(FileNotFoundError, match="no such file"):
        read([tmp_path / "a.txt", tmp_path / "gone"])


def test_nothing_to_read(tmp_path):
    written(tmp_path / "empty" / ".gitignore", "x")
    assert "holds no file to read" in fault(tmp_path / "empty")
    assert "holds no text" in fault(written(tmp_path / "a.txt", f" \n{SEPARATOR}\n"))
    assert "holds no text" in fault(written(tmp_path / "a.jsonl", '{"text": ""}\n'))
    assert "holds no text" in fault([written(tmp_path / "b.txt", ""), tmp_path / "a.txt"])
    assert "is empty" in fault([])


@pytest.mark.parametrize("before", [0, 1, 5, documents.CHUNK - 1, documents.CHUNK, documents.CHUNK + 7])
@pytest.mark.parametrize(
    ("bad", "shift"), [(b"\xff", 0), (b"\xe2\x82z", 0), (b"\xf0\x9f\x98", 0), (b"\xe2\x82\xac\x80", 3)]
)
def test_bytes_that_are_not_utf8_are_named_exactly(tmp_path, before, bad, shift):
    path = written(tmp_path / "a.txt", b"a" * before + bad)
    assert fault(path) == f"{path} is not UTF-8: byte {before + shift} belongs to no character"


def test_bytes_that_are_not_utf8_in_lines_and_archives(tmp_path):
    lines = '{"text": "ä"}\n'.encode() + b'{"text": "\xff"}\n'
    path = written(tmp_path / "a.jsonl", lines)
    assert fault(path) == f"{path} is not UTF-8: byte {lines.index(0xFF)}, on line 2 belongs to no character"
    path = written(tmp_path / "a.txt.gz", gzip.compress(b"abc\xff"))
    assert fault(path) == f"{path} is not UTF-8: byte 3 of the unpacked text belongs to no character"


@pytest.mark.parametrize("suffix", [".txt.gz", ".jsonl.gz"])
def test_broken_archives(tmp_path, suffix):
    whole = gzip.compress(b'{"text": "one"}\n' * 1000)
    assert "is not a whole gzip file" in fault(written(tmp_path / f"a{suffix}", whole[:-20]))
    assert "is not a whole gzip file" in fault(written(tmp_path / f"b{suffix}", b"plain text"))
    assert "unpack it first" in fault(written(tmp_path / "a.parquet.gz", whole))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "x"', "line 2 of {} is not valid JSON: expecting ',' delimiter at column 13"),
        ("[" * 100_000, "line 2 of {} is not valid JSON: it is nested too deeply"),
        ('["x"]', "line 2 of {} holds a JSON list, not an object"),
        ('{"body": "x", "id": 1}', "line 2 of {} has no field 'text': it has 'body', 'id'"),
        ('{"text": 3}', "the field 'text' on line 2 of {} holds a number, not a text"),
        ('{"text": ["x"]}', "the field 'text' on line 2 of {} holds a list, not a text"),
        (
            '{"text": "a\\ud800"}',
            "the field 'text' on line 2 of {} holds half a character (a lone surrogate) at 1",
        ),
    ],
)
def test_faults_of_json_lines(tmp_path, line, said):
    path = written(tmp_path / "a.jsonl", f'{{"text": "good"}}\n{line}\n')
    assert fault(path) == said.format(path)


def test_a_file_of_one_endless_line_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LINE", 1 << 20)
    assert "line 1 of" in fault(written(tmp_path / "a.jsonl", b'{"text": "' + b"a" * (2 << 20)))


def test_faults_of_parquet(tmp_path):
    path = table(tmp_path / "a.parquet", {"body": ["x"], "n": [1]})
    assert fault(path) == f"{path} has no column 'text': it has 'body', 'n'"
    assert fault(path, column="n") == f"the column 'n' of {path} holds int64, not text"
    assert "cannot be read as Parquet" in fault(written(tmp_path / "b.parquet", "no table"))


def test_urls_that_cannot_be_read():
    assert "Protocol not known" in fault("nowhere://bucket/a.txt")


# --- the fingerprint ---


def test_the_fingerprint_follows_names_and_content_and_nothing_else(tmp_path):
    def make(folder: str, names: Iterator[str] | list[str], content: str = "text") -> str:
        for name in names:
            written(tmp_path / folder / name, content)
        return fingerprint(tmp_path / folder)

    first = make("a", ["x.txt", "sub/y.txt"])
    assert make("b", ["x.txt", "sub/y.txt"]) == first, "the place does not count"
    assert make("c", ["x.txt", "sub/z.txt"]) != first
    assert make("d", ["x.txt", "sub/y.txt"], "texd") != first
    assert len(first) == 64
