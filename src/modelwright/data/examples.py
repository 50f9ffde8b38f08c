"""Tables of examples -> a list of `Example`s: what tasks are made of.

A source is what `documents.files` finds: a path, a folder, a glob, a URL, or a list of these; or a table of the
embedded desk, `desk:NAME`. What a file holds is read from its name: `.jsonl` and `.ndjson` are a JSON object a line;
`.json` is questions on texts as SQuAD has them; `.csv` has a header; `.tsv` has a header or is `text<TAB>label`;
`.parquet` is a table; `.conll`, `.bio` and `.iob` are a token and its tag a line, with a blank line between sentences.
All but Parquet may be gzipped. Every fault names its file and line.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from modelwright.data.desk import projects
from modelwright.data.documents import File, characters, files, first_line, lines, listed, opened, record
from modelwright.data.named import is_desk

HALF = re.compile("[\ud800-\udfff]")  # a surrogate without its other half, which JSON can spell and no text can hold
FORMAT = re.compile(r"\.(jsonl|ndjson|json|csv|tsv|parquet|conll|bio|iob2?)(\.gz)?$", re.IGNORECASE)


@dataclass(frozen=True)
class Example:
    """One row of a table."""

    id: str
    """`train.jsonl:17`: the file's name and the line, counted from 1, on which the row begins (Parquet: the row)."""
    fields: Mapping[str, Any]
    """Columns under their names in the file: str, numbers, list[str] (tokens, tags), list[dict] (messages)."""
    group: str = ""
    """What several examples are about, where the file says it: an article. They stand in one part."""


def read_examples(source: str | Path | Sequence[str]) -> list[Example]:
    """All examples of a source, in the order of the files and their rows.

    Raises FileNotFoundError for a path that does not exist; ValueError, naming file and line, for a file that is no
    table, is not UTF-8 or JSON, has a row without its columns, or where there is no example at all.
    """
    if isinstance(source, str) and is_desk(source):
        return [Example(name, fields) for name, fields in projects.rows(source)]
    found = [example for file in files(source) for example in _examples(file)]
    if not found:
        raise ValueError(f"{source} holds no example: every file or row of it is empty or blank")
    return found


def _examples(file: File) -> Iterator[Example]:
    match = FORMAT.search(file.name)
    if match is None:
        raise ValueError(
            f"{file.name} is no table of examples: it may be .jsonl, .json, .csv, .tsv, .parquet or .conll"
        )
    kind = match[1].lower()
    if kind in ("jsonl", "ndjson"):
        return _jsonl(file)
    if kind == "json":
        return _squad(file)
    if kind == "parquet":
        return _parquet(file)
    if kind == "csv":
        return _csv(file)
    return _tsv(file) if kind == "tsv" else _conll(file)


# --- JSON Lines and Parquet -----------------------------------------------------------------------


def _jsonl(file: File) -> Iterator[Example]:
    offset = 0
    with opened(file) as stream:
        for row, line in enumerate(lines(stream, file)):
            if (fields := record(line, file, row, offset)) is not None:
                if b"\\ud" in line.lower():
                    _whole_characters(fields, f"line {row + 1} of {file.name}")
                yield _example(file, row + 1, fields)
            offset += len(line)


def _whole_characters(fields: Mapping[str, Any], where: str) -> None:
    if half := HALF.search(json.dumps(fields, ensure_ascii=False)):
        raise ValueError(f"{where} holds half a character, {half[0]!a}: a text was cut in the midst of one")


def _squad(file: File) -> Iterator[Example]:
    """Questions on paragraphs of articles (Rajpurkar et al. 2016), one row for each question, counted from 1.

    `{data: [{title, paragraphs: [{context, qas: [{id, question, answers: [{text, answer_start}]}]}]}]}`. The rows of an
    article are one group, also where several files have it, as those of other languages do.
    """
    with opened(file) as stream:
        said = record(stream.read(), file, 0, 0) or {}
    row = 0
    try:
        for number, article in enumerate(said["data"], 1):
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    row += 1
                    fields = _question(paragraph["context"], asked) | {"title": article.get("title", "")}
                    _whole_characters(fields, f"question {row} of {file.name}")
                    yield replace(_example(file, row, fields), group=fields["title"] or f"{file.relative}/{number}")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file.name} is JSON, not JSON Lines, and no set of questions as SQuAD has them "
            f"({type(error).__name__}: {error}, behind question {row}): name it .jsonl if each line of it is an object"
        ) from error


def _question(context: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """A question as a row: all its right answers, and the character of the context at which each begins."""
    answers = asked["answers"]
    return {
        "id": asked.get("id", ""),
        "context": context,
        "question": asked["question"],
        "answer": [answer["text"] for answer in answers],
        "answer_start": [answer["answer_start"] for answer in answers],
    }


def _parquet(file: File) -> Iterator[Example]:
    try:
        with file.system.open(file.path, "rb") as stream:
            rows = pyarrow.parquet.read_table(stream).to_pylist()
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"{file.name} cannot be read as Parquet: {first_line(error)}") from error
    return (_example(file, row, fields) for row, fields in enumerate(rows, 1))


def _example(file: File, row: int, fields: Mapping[str, Any]) -> Example:
    return Example(f"{file.relative}:{row}", fields)


# --- separated by commas, by tabs -----------------------------------------------------------------


def _csv(file: File) -> Iterator[Example]:
    """A header and rows as RFC 4180 has them: a field in quotes may hold commas and line breaks."""
    # StringIO with newline="" breaks lines as csv asks: at \n, \r and \r\n, not at U+2028 as str.splitlines does
    reader = csv.reader(io.StringIO("".join(characters(file)), newline=""), strict=True)
    header: list[str] = []
    start = 1
    try:
        for row in reader:
            if row and not header:
                header = _header(row, file)
            elif row:
                yield _example(file, start, _fields(row, header, start, file))
            start = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"line {start} of {file.name} is not valid CSV: {error}") from error


def _tsv(file: File) -> Iterator[Example]:
    """A row a line; a quote is a character like any other, as in the files of SST-2."""
    rows = [(at, line.split("\t")) for at, line in _numbered(file) if line.strip()]
    if not rows:
        return
    header = ["text", "label"]
    if not _headless([row for _, row in rows]):
        header = _header(rows.pop(0)[1], file)
    for at, row in rows:
        yield _example(file, at, _fields(row, header, at, file))


def _headless(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row is an example, not a header: two fields, the second a label that comes again."""
    first = rows[0]
    return len(first) == 2 and any(row[1] == first[1] for row in rows[1:] if len(row) == 2)


def _header(names: list[str], file: File) -> list[str]:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{file.name} has several columns named {listed(twice)}: give each a name of its own")
    return names


def _fields(row: list[str], header: list[str], line: int, file: File) -> dict[str, str]:
    if len(row) != len(header):
        hint = "a field that holds a tab or a line break needs JSON Lines"
        if file.name.lower().removesuffix(".gz").endswith(".csv"):
            hint = "a field that holds a comma, a quote or a line break stands in quotes"
        columns = f"there are {len(header)} columns ({listed(header)})"
        raise ValueError(f"line {line} of {file.name} has {len(row)} fields, and {columns}: {hint}")
    return dict(zip(header, row, strict=True))


# --- a token a line -------------------------------------------------------------------------------


def _conll(file: File) -> Iterator[Example]:
    """Sentences of lines `token ... tag`, as of CoNLL-2003 and WNUT-17: the first column and the last.

    A line of nothing but blanks stands between sentences; `-DOCSTART-` begins a document and is no token.
    """
    tokens: list[str] = []
    tags: list[str] = []
    start = 1
    for at, line in [*_numbered(file), (0, "")]:
        if line.strip() and not line.startswith("-DOCSTART-"):
            start = start if tokens else at
            columns = line.split("\t") if "\t" in line else line.split()
            if len(columns) < 2 or not columns[0] or not columns[-1].strip():
                raise ValueError(f"line {at} of {file.name} is not a token and its tag: {line[:60]!r}")
            tokens.append(columns[0])
            tags.append(columns[-1].strip())
        elif tokens:
            yield _example(file, start, {"tokens": tokens, "tags": tags})
            tokens, tags = [], []


def _numbered(file: File) -> Iterator[tuple[int, str]]:
    """Lines with their numbers from 1, without their ends."""
    for at, line in enumerate("".join(characters(file)).split("\n"), 1):
        yield at, line.removesuffix("\r")
