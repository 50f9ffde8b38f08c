"""Files of any kind -> a stream of `Document`s, in memory that does not grow with the files.

A source is a path, a folder, a glob, any URL that fsspec knows (`s3://`, `memory://`), or a list of these.
What a file holds is read from its name: `.jsonl` and `.ndjson` are a JSON object a line, `.parquet` is a
table, everything else is UTF-8 text; text and JSON Lines may be gzipped (`.gz`). Every fault names its file
and place.
"""

import codecs
import difflib
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import fsspec
import pyarrow
import pyarrow.parquet

from modelwright.data.named import DESKS

SEPARATOR = "<|endoftext|>"
CHUNK = 1 << 20  # bytes read at a time, and the length in characters at which a long text is cut
LINE = 1 << 26  # bytes; a longer line of JSON is taken for a file that is not JSON Lines
ROWS = 64  # rows of Parquet in memory at a time

# Pictures, archives, weights, settings: passed over in a folder, where they stand beside the text; read, and so
# refused as not UTF-8, where they are named outright. JSON, which is UTF-8, is refused by its name.
NOT_TEXT = re.compile(
    r"\.(7z|arrow|avif|bin|bmp|bz2|db|exe|gif|ico|jpe?g|json(\.gz)?|mp[34]|np[yz]|onnx|pdf|pickle|pkl|png|pth?|pyc"
    r"|safetensors|so|tar(\.gz)?|tgz|tiff?|wav|webp|woff2?|xz|zip|zst)$",
    re.IGNORECASE,
)

JSON = re.compile(r"\.json(\.gz)?$", re.IGNORECASE)

Paths = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Document:
    """One text. `id` is `path:row`, rows counted from 0 within the file."""

    text: str
    id: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    """`meta["continues"]` is True where this is a later piece of the same long text."""


@dataclass(frozen=True)
class File:
    """A file that was found: where it lives, what to call it, and its size in bytes."""

    system: Any  # fsspec's file system
    path: str
    name: str  # as the user would write it, for ids and for faults
    relative: str  # below the folder that was asked for: the same on every machine
    size: int


def read(source: Paths, *, column: str = "text", separator: str = SEPARATOR) -> Iterator[Document]:
    """The documents of a source, in the order of the files' names, in bounded memory.

    A text file is split at `separator`, and a line break on either side of it belongs to the separator. A
    text of such a file that is longer than `CHUNK` characters comes in pieces, each but the first with
    `meta["continues"]`, which joined give the text exactly. A byte order mark is dropped, blank texts are
    skipped. `column` is the text's field in JSON Lines and Parquet.

    Raises FileNotFoundError, at once, for a path that does not exist or a glob without a match; ValueError
    for a folder without readable files, and, while reading, for what is not UTF-8, not JSON, not a table or
    not a text, and where there was no text at all.
    """
    return _some(_documents(text_files(source), column, separator), source)


def _documents(found: Iterable[File], column: str, separator: str) -> Iterator[Document]:
    for file in found:
        kind = _kind(file.name)
        if kind == "parquet":
            yield from _parquet(file, column)
        elif kind == "jsonl":
            yield from _jsonl(file, column)
        else:
            yield from _text(file, separator)


def _some(documents: Iterator[Document], source: Paths) -> Iterator[Document]:
    """The same documents, and a fault if there were none: an empty corpus is never what was meant."""
    empty = True
    for document in documents:
        empty = False
        yield document
    if empty:
        raise ValueError(f"{_said(source)} holds no text: every file or row of it is empty or blank")


def fingerprint(source: Paths) -> str:
    """A sha256 that names this data: every file's relative name, size and content.

    Content and not time of change: a copy on another machine is the same data, and a file edited within a
    second is not. Hashing runs at about 1 GB/s, a small part of what it takes to tokenize the same bytes.
    """
    digest = hashlib.sha256()
    for file in text_files(source):
        content = hashlib.sha256()
        with file.system.open(file.path, "rb") as stream:
            while chunk := stream.read(CHUNK):
                content.update(chunk)
        digest.update(json.dumps([file.relative, file.size, content.hexdigest()]).encode())
    return digest.hexdigest()


# --- finding the files ---


def files(source: Paths) -> list[File]:
    """The files of a source, in the order in which they are read. Raises FileNotFoundError or ValueError."""
    sources = [source] if isinstance(source, str | Path) else list(source)
    if not sources:
        raise ValueError("the list of data sources is empty: name at least one file, folder or glob")
    return [file for one in sources for file in _find(str(one))]


def text_files(source: Paths) -> list[File]:
    """The files that `read` would read, in its order. Raises what `read` raises at once."""
    found = files(source)
    if json_file := next((file.name for file in found if JSON.search(file.name)), None):
        raise ValueError(
            f"{json_file} is JSON, not JSON Lines: name it .jsonl if each line of it is an object, "
            "or write it so, one object a line"
        )
    return found


def _find(source: str) -> list[File]:
    try:
        system, path = fsspec.core.url_to_fs(source)
    except ImportError as error:
        raise ValueError(f"{source} needs a package that is not installed: {error}") from error
    except ValueError as error:
        raise ValueError(f"{source} is not a path or URL that can be read: {error}") from error
    if system.isfile(path):
        return [File(system, path, source, PurePosixPath(path).name, _size(system.info(path)))]
    if system.isdir(path):
        return _folder(system, path, source)
    if re.search(r"[*?\[]", path):
        return _glob(system, path, source)
    word = difflib.get_close_matches(source.partition(":")[0], DESKS, n=1, cutoff=0.8)
    near = f" (did you mean {word[0]}, the embedded one?)" if word else _nearest(system, path)
    raise FileNotFoundError(f"no such file or folder: {source}{near}")


def _folder(system: Any, path: str, source: str) -> list[File]:
    found = []
    for inner, info in sorted(system.find(path, detail=True).items()):
        relative = PurePosixPath(inner).relative_to(PurePosixPath(path))
        if not any(part.startswith(".") for part in relative.parts) and not NOT_TEXT.search(relative.name):
            name = f"{source.rstrip('/')}/{relative}"
            found.append(File(system, inner, name, str(relative), _size(info)))
    if not found:
        raise ValueError(f"the folder {source} holds no file to read: text, .jsonl, .parquet or .gz")
    return found


def _glob(system: Any, path: str, source: str) -> list[File]:
    found = []
    for match, info in sorted(system.glob(path, detail=True).items()):
        if info["type"] == "file":
            name = system.unstrip_protocol(match) if "://" in source else match
            found.append(File(system, match, name, PurePosixPath(match).name, _size(info)))
    if not found:
        raise FileNotFoundError(f"no file matches {source}")
    return found


def _size(info: Mapping[str, Any]) -> int:
    return int(info["size"] or 0)  # a server may not tell


def _nearest(system: Any, path: str) -> str:
    """The existing name that is closest to the first part of the path that is missing, as a question."""
    missing, parent = PurePosixPath(path), PurePosixPath(path).parent
    while parent != missing and not system.isdir(str(parent)):
        missing, parent = parent, parent.parent
    try:
        names = [PurePosixPath(entry).name for entry in system.ls(str(parent), detail=False)]
    except (OSError, ValueError):  # a server that does not list: there is nothing to suggest
        return ""
    close = difflib.get_close_matches(missing.name, names, n=1)
    return f" (did you mean {parent / close[0]}?)" if close else ""


def _kind(name: str) -> str:
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    kinds = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
    return kinds.get(suffixes[-1] if suffixes else "", "text")


def _said(source: Paths) -> str:
    return str(source) if isinstance(source, str | Path) else ", ".join(map(str, source))


# --- text ---


def _text(file: File, separator: str) -> Iterator[Document]:
    row = 0
    for text, continues, last in split(characters(file), separator):
        if continues or not last or text.strip():
            yield Document(text, f"{file.name}:{row}", {"continues": True} if continues else {})
        row += last


def characters(file: File) -> Iterator[str]:
    """A text file in chunks of characters; a character that two chunks of bytes share stays whole."""
    decoder, fed = codecs.getincrementaldecoder("utf-8")(), 0
    with opened(file) as stream:
        while True:
            chunk = _chunk(stream, file)
            held = len(decoder.getstate()[0])
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                raise not_utf8(file, fed - held + error.start) from error
            yield text.removeprefix("\ufeff") if fed == 0 else text
            fed += len(chunk)
            if not chunk:
                return


def split(chunks: Iterable[str], separator: str, limit: int = CHUNK) -> Iterator[tuple[str, bool, bool]]:
    """Chunks of one long text -> (piece, it continues the one before, it is the last of its document)."""
    pattern = re.compile(rf"{re.escape(separator)}(?:\r?\n)?" if separator else "(?!)")
    reach = len(separator) + 4  # with the line breaks around it: so near the end it may be only half read
    rest, continues = "", False
    for chunk in chunks:
        rest, start = rest + chunk, 0
        for match in pattern.finditer(rest):
            if match.end() > len(rest) - 2:  # the line break after it may still come
                break
            for piece, last in _pieces(_without_break(rest[start : match.start()]), limit):
                yield piece, continues, last
                continues = not last
            start = match.end()
        rest = rest[start:]
        while len(rest) > limit + reach:
            cut = _border(rest, limit)
            yield rest[:cut], continues, False
            rest, continues = rest[cut:], True
    *ended, rest = pattern.split(rest)
    for text in [*map(_without_break, ended), rest]:
        for piece, last in _pieces(text, limit):
            yield piece, continues, last
            continues = not last


def _without_break(text: str) -> str:
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")


def _pieces(text: str, limit: int) -> Iterator[tuple[str, bool]]:
    while len(text) > limit:
        cut = _border(text, limit)
        yield text[:cut], False
        text = text[cut:]
    yield text, True


def _border(text: str, limit: int) -> int:
    """Where to cut, in the second half: after a paragraph, after a line, or else before a space.

    Before the space, because byte-level vocabularies join a space to the word that follows it.
    """
    for mark, after in (("\n\n", 2), ("\n", 1), (" ", 0)):
        at = text.rfind(mark, limit // 2, limit)
        if at > 0:
            return at + after
    return limit


# --- JSON Lines ---


def _jsonl(file: File, column: str) -> Iterator[Document]:
    offset = 0
    with opened(file) as stream:
        for row, line in enumerate(lines(stream, file)):
            text = _row(line, column, file, row, offset)
            if text.strip():
                yield Document(text, f"{file.name}:{row}")
            offset += len(line)


def lines(stream: IO[bytes], file: File) -> Iterator[bytes]:
    row = 0
    while line := _chunk(stream, file, whole_line=True):
        if len(line) >= LINE and not line.endswith(b"\n"):
            raise ValueError(f"line {row + 1} of {file.name} is over {LINE >> 20} MiB: is it JSON Lines?")
        yield line
        row += 1


def _row(line: bytes, column: str, file: File, row: int, offset: int) -> str:
    """The text of one line; a blank line and a null are blank texts."""
    found = record(line, file, row, offset)
    if found is None:
        return ""
    if column not in found:
        raise ValueError(f"line {row + 1} of {file.name} has no field {column!r}: it has {listed(found)}")
    return _string(found[column], f"the field {column!r} on line {row + 1} of {file.name}")


def record(line: bytes, file: File, row: int, offset: int) -> dict[str, Any] | None:
    """The JSON object on a line that begins at byte `offset` of the file; None for a blank line."""
    where = f"line {row + 1} of {file.name}"
    try:
        content = line.decode("utf-8").removeprefix("\ufeff")
        found = json.loads(content.rstrip()) if content.strip() else None
    except UnicodeDecodeError as error:
        raise not_utf8(file, offset + error.start, f", on line {row + 1}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        row += getattr(error, "lineno", 1) - 1  # of a file that is one object on many lines
        raise ValueError(f"line {row + 1} of {file.name} is not valid JSON: {_why(error)}") from error
    if not isinstance(found, dict) and content.strip():
        raise ValueError(f"{where} holds a JSON {json_type(found)}, not an object")
    return found


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg[0].lower()}{error.msg[1:]} at column {error.colno}"
    return "it is nested too deeply"


def _string(value: object, what: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{what} holds a {json_type(value)}, not a text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} holds half a character (a lone surrogate) at {error.start}") from error
    return value


def json_type(value: object) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "number")


# --- Parquet ---


def _parquet(file: File, column: str) -> Iterator[Document]:
    if file.name.lower().endswith(".gz"):
        raise ValueError(f"{file.name} is a gzipped Parquet file: unpack it first")
    row = 0
    try:
        # buffer_size: pages are then read as they are needed, not a row group's whole column at once
        with file.system.open(file.path, "rb") as stream, _table(stream, file, column) as table:
            for batch in table.iter_batches(batch_size=ROWS, columns=[column], use_threads=False):
                for value in batch.column(0):
                    text = _string(value.as_py(), f"row {row} of the column {column!r} in {file.name}")
                    if text.strip():
                        yield Document(text, f"{file.name}:{row}")
                    row += 1
    except UnicodeDecodeError as error:
        raise ValueError(f"row {row} of the column {column!r} in {file.name} is not UTF-8") from error
    except pyarrow.ArrowException as error:
        raise ValueError(f"{file.name} cannot be read as Parquet: {first_line(error)}") from error


def _table(stream: IO[bytes], file: File, column: str) -> pyarrow.parquet.ParquetFile:
    table = pyarrow.parquet.ParquetFile(stream, buffer_size=CHUNK, pre_buffer=False)
    schema = table.schema_arrow
    if column not in schema.names:
        raise ValueError(f"{file.name} has no column {column!r}: it has {listed(schema.names)}")
    kind = schema.field(column).type
    plain = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    if plain not in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
        raise ValueError(f"the column {column!r} of {file.name} holds {kind}, not text")
    return table


# --- bytes and faults ---


def opened(file: File) -> IO[bytes]:
    stream = file.system.open(file.path, "rb")
    return cast(IO[bytes], gzip.open(stream) if file.name.lower().endswith(".gz") else stream)


def _chunk(stream: IO[bytes], file: File, whole_line: bool = False) -> bytes:
    try:
        return stream.readline(LINE) if whole_line else stream.read(CHUNK)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{file.name} is not a whole gzip file: {first_line(error)}") from error


def not_utf8(file: File, offset: int, where: str = "") -> ValueError:
    unpacked = " of the unpacked text" if file.name.lower().endswith(".gz") else ""
    return ValueError(f"{file.name} is not UTF-8: byte {offset}{unpacked}{where} belongs to no character")


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
