"""Text tokenised once, kept on disk, and read back in windows without ever being held in memory.

A directory of shards holds, for each shard k,
  tokens-0000k.bin     ids, little-endian uint16 (uint32 where the vocabulary is larger than 65,536); where some are only
                       read and not learned, int16 or int32, and those as their complement, below 0
  documents-0000k.bin  two rows of int64: where each document starts, in tokens; and in bytes of text
and `index.json`: counts, what the shards were made from and by, and size and SHA-256 of every file. No
document lies across two shards.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from modelwright.data.documents import Document
from modelwright.data.encode import Encoded, Piece, Settings, encode
from modelwright.data.pack import Objective, frame
from modelwright.data.tokenizer import Tokenizer

VERSION = 1
BATCH = 1 << 20  # characters tokenised at a time
BLOCKS = 1024  # runs of documents that a split chooses from
STALE = 24 * 3600  # seconds after which a directory that an interrupted run left behind is swept away

Progress = Callable[[int, int], None]  # (documents, bytes of text) so far


# --- writing --------------------------------------------------------------------------------------


def write(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    directory: str | Path,
    *,
    objective: Objective = "causal",
    source: str = "",
    processes: int | None = None,
    shard_tokens: int = 1 << 26,
    partly: bool = False,
    progress: Progress | None = None,
) -> Shards:
    """Tokenises documents into `directory`, or returns the shards already there if they are the same.

    Memory stays bounded however long the stream or a document in pieces (`meta["continues"]`). The directory
    appears complete or not at all. `source` is a fingerprint of the text (`documents.fingerprint`): shards
    are used again only where it, the tokenizer and the ids set round each document all match; without one
    they are never used again. Documents without a token are left out. The result does not depend on
    `processes` (None: one for each core). `partly`: some pieces are only read (`meta["learned"]` is False).

    Raises ValueError where nothing is left to write or the shards there are of something else,
    FileExistsError where the directory holds something that cannot be compared.
    """
    target = Path(directory)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save(Path(scratch))
        description = Path(scratch) / "tokenizer.json"
        begin, end = frame(objective, tokenizer)
        settings = Settings(narrowest(tokenizer.vocab, partly), begin, end)
        digest = hashlib.sha256(description.read_bytes()).hexdigest()
        about = {"tokenizer": digest, "source": source, "vocab": tokenizer.vocab, **settings._asdict()}
        if target.exists() and any(target.iterdir()):
            return _reuse(target, about)
        temporary = _temporary(target)
        try:
            workers = processes or _cores()
            shards = _fill(temporary, documents, description, settings, workers, shard_tokens, progress)
            _seal(temporary, {"version": VERSION, **about, "shards": shards})
            temporary.rename(target)
            _sync(target.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return Shards.open(target, verify=False)


def narrowest(vocab: int, partly: bool) -> str:
    """numpy's name of the smallest type that holds the ids, and their complements where some are only read."""
    small = vocab <= 1 << (15 if partly else 16)
    return f"<{'i' if partly else 'u'}{2 if small else 4}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reuse(target: Path, about: dict[str, Any]) -> Shards:
    if not (target / "index.json").exists():
        raise FileExistsError(f"{target} holds something that is not token shards: choose another directory")
    if not about["source"]:
        raise FileExistsError(f"{target} already holds token shards: choose another directory, or delete it")
    shards = Shards.open(target)
    names = {"source": "from another text", "tokenizer": "with another tokenizer"}
    for key, value in about.items():
        if shards.index[key] != value:
            made = f"were made {names.get(key, 'for another objective')}"
            raise ValueError(f"the token shards in {target} {made}: choose another directory, or delete it")
    return shards


def _temporary(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.writing-"
    for left in target.parent.glob(f"{prefix}*"):  # a live one is never old: each new shard touches it
        if time.time() - left.stat().st_mtime > STALE:
            shutil.rmtree(left, ignore_errors=True)
    temporary = target.with_name(f"{prefix}{secrets.token_hex(4)}")
    temporary.mkdir()  # with the modes of any directory; tempfile's is for its owner alone
    return temporary


def _fill(
    directory: Path,
    documents: Iterable[Document],
    description: Path,
    settings: Settings,
    processes: int,
    shard_tokens: int,
    progress: Progress | None,
) -> list[dict[str, Any]]:
    sent: list[list[Piece]] = []  # batches on their way; `encode` bounds how many

    def kept() -> Iterator[list[Piece]]:
        for batch in _batches(_pieces(documents), min(BATCH, 4 * shard_tokens)):
            sent.append(batch)
            yield batch

    dtype, shards, done, size = np.dtype(settings.dtype), [_Shard(directory, 0)], 0, 0
    try:
        for encoded in encode(kept(), description, settings, processes):
            batch = sent.pop(0)
            if shards[-1].tokens >= shard_tokens and batch[0].starts:
                shards[-1].close()
                shards.append(_Shard(directory, len(shards)))
            shards[-1].add(batch, encoded, dtype)
            done += sum(piece.starts for piece in batch)
            size += sum(piece.size for piece in batch)
            if progress:
                progress(done, size)
    finally:
        shards[-1].close()
    if not shards[0].tokens:
        raise ValueError("the text is empty: there is nothing to tokenise")
    return [shard.described() for shard in shards]


def _pieces(documents: Iterable[Document]) -> Iterator[Piece]:
    """Each text, knowing whether the next one continues it."""
    last: Piece | None = None
    for document in documents:
        starts = last is None or not document.meta.get("continues", False)
        if last is not None:
            yield last._replace(ends=starts)
        last = Piece(document.text, _size(document), starts, learned=document.meta.get("learned", True))
    if last is not None:
        yield last


def _size(document: Document) -> int:
    try:
        return len(document.text.encode())
    except UnicodeEncodeError as error:
        where = f"character {error.start} of document {document.id}"
        raise ValueError(f"{where} is half a surrogate pair, which is no text: repair or remove it") from None


def _batches(pieces: Iterable[Piece], characters: int) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Shard:
    """One shard while it is written."""

    def __init__(self, directory: Path, number: int) -> None:
        self.paths = [directory / f"{name}-{number:05d}.bin" for name in ("tokens", "documents")]
        self.file = self.paths[0].open("wb")
        self.hash = hashlib.sha256()
        self.starts, self.byte_starts = array("q"), array("q")
        self.tokens = self.bytes = self.documents = 0

    def add(self, batch: Sequence[Piece], encoded: Encoded, dtype: np.dtype[Any]) -> None:
        self.file.write(encoded.tokens)
        self.hash.update(encoded.tokens)
        for piece, length in zip(batch, encoded.lengths.tolist(), strict=True):
            if piece.starts and (length or not piece.ends):  # else: a document without a token
                self.starts.append(self.tokens)
                self.byte_starts.append(self.bytes)
            self.tokens += length
            self.bytes += piece.size
        assert len(encoded.tokens) == int(encoded.lengths.sum()) * dtype.itemsize

    def close(self) -> None:
        if self.file.closed:
            return
        _flush(self.file)
        self.file.close()
        with self.paths[1].open("wb") as file:
            np.array([self.starts, self.byte_starts], "<i8").tofile(file)
            _flush(file)
        self.documents = len(self.starts)
        self.starts, self.byte_starts = array("q"), array("q")  # or all shards' would add up

    def described(self) -> dict[str, Any]:
        sums = [self.hash.hexdigest(), _sha256(self.paths[1])]
        files = {path.name: [path.stat().st_size, sha] for path, sha in zip(self.paths, sums, strict=True)}
        return {"tokens": self.tokens, "documents": self.documents, "bytes": self.bytes, "files": files}


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(directory: Path, index: dict[str, Any]) -> None:
    with (directory / "index.json").open("wb") as file:
        file.write(json.dumps({**index, "sha256": _seal_of(index)}, indent=1).encode())
        _flush(file)
    _sync(directory)


def _seal_of(index: dict[str, Any]) -> str:
    body = {key: value for key, value in index.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A run of tokens within one shard, from the start of a document (or where a split had to cut one)."""

    shard: int
    start: int
    stop: int


class Shards:
    """A directory of token shards."""

    def __init__(self, directory: Path, index: dict[str, Any]) -> None:
        self.directory, self.index = directory, index
        self.dtype: np.dtype[Any] = np.dtype(index["dtype"])
        self.vocab: int = index["vocab"]
        self.sizes: list[int] = [shard["tokens"] for shard in index["shards"]]
        self.tokens = sum(self.sizes)
        self.documents: int = sum(shard["documents"] for shard in index["shards"])
        self.bytes: int = sum(shard["bytes"] for shard in index["shards"])

    @classmethod
    def open(cls, directory: str | Path, *, verify: bool = True) -> Shards:
        """Raises FileNotFoundError where there are none, and ValueError naming the file that is not as it was
        written.

        `verify` reads every file once to compare its SHA-256 (1 to 2 GB/s); without it only sizes are
        compared.
        """
        directory = Path(directory)
        index = _read_index(directory)
        for shard in index["shards"]:
            for name, (size, sha) in shard["files"].items():
                path = directory / name
                if not path.exists():
                    raise ValueError(f"{path} is missing: delete {directory} and tokenise again")
                if path.stat().st_size != size:
                    said = f"{path.stat().st_size} bytes instead of {size}"
                    raise ValueError(f"{path} has {said}: delete {directory} and tokenise again")
                if verify and _sha256(path) != sha:
                    raise ValueError(f"{path} is not as written: delete {directory} and tokenise again")
        return cls(directory, index)

    def whole(self) -> Part:
        return Part(self, [Run(shard, 0, size) for shard, size in enumerate(self.sizes)])

    def split(self, share: float, seed: int = 0) -> tuple[Part, Part]:
        """(training part, held-out part) with about `share` of the tokens held out, in whole documents.

        Runs of neighbouring documents (up to 1,024 in all) are drawn by `seed`, so every source in the text
        is held out in proportion. Where all documents are too large for that, the last `share` of the tokens
        is held out: then one document lies in both parts, but no row does.
        """
        if not 0 < share < 1:
            raise ValueError(f"the held-out share must lie between 0 and 1, not {share}")
        blocks = self._blocks()
        wanted, held, chosen = share * self.tokens, 0, set[int]()
        for block in np.random.default_rng(seed).permutation(len(blocks)).tolist():
            size = blocks[block].stop - blocks[block].start
            if held < wanted and held + size <= 2 * wanted:
                held, chosen = held + size, chosen | {block}
        if chosen:
            train = [block for number, block in enumerate(blocks) if number not in chosen]
            return Part(self, train), Part(self, [blocks[number] for number in sorted(chosen)])
        return self._cut(min(max(round(self.tokens - wanted), 1), self.tokens - 1))

    def _blocks(self) -> list[Run]:
        """Runs of whole documents of about equal size."""
        blocks = []
        for shard, size in enumerate(self.sizes):
            edges = np.arange(0, size, max(self.tokens // BLOCKS, 1))  # at most one block more for each shard
            starts = self.starts(shard)
            found = np.searchsorted(starts, edges)
            bounds = np.unique(np.append(starts[found[found < len(starts)]], size)).tolist()
            blocks += [Run(shard, *pair) for pair in pairwise(bounds)]
        return blocks

    def _cut(self, at: int) -> tuple[Part, Part]:
        before, after, passed = [], [], 0
        for shard, size in enumerate(self.sizes):
            edge = min(max(at - passed, 0), size)
            before += [Run(shard, 0, edge)] if edge else []
            after += [Run(shard, edge, size)] if edge < size else []
            passed += size
        return Part(self, before), Part(self, after)

    def starts(self, shard: int) -> NDArray[np.int64]:
        """Where each document of a shard starts: (documents,), in tokens."""
        starts: NDArray[np.int64] = self._documents(shard)[0]
        return starts

    def byte_starts(self, shard: int) -> NDArray[np.int64]:
        """The same in bytes of text."""
        starts: NDArray[np.int64] = self._documents(shard)[1]
        return starts

    def _documents(self, shard: int) -> NDArray[np.int64]:
        if shard not in self._maps:
            path = self.directory / f"documents-{shard:05d}.bin"
            self._maps[shard] = np.memmap(path, "<i8", "r").reshape(2, -1)
        return self._maps[shard]

    @cached_property
    def _maps(self) -> dict[int, NDArray[np.int64]]:
        return {}

    def read(self, run: Run) -> NDArray[np.int64]:
        """The tokens of a run: (N,)."""
        # Read, not mapped: mapped pages count as this process's memory until the kernel wants them back.
        path = self.directory / f"tokens-{run.shard:05d}.bin"
        size = run.stop - run.start
        found = np.fromfile(path, self.dtype, size, offset=run.start * self.dtype.itemsize)
        if len(found) != size:
            raise ValueError(f"{path} has become shorter: delete {self.directory} and tokenise again")
        return found.astype(np.int64)


def _read_index(directory: Path) -> dict[str, Any]:
    path = directory / "index.json"
    if not path.exists():
        raise FileNotFoundError(f"there are no token shards in {directory}: it has no index.json")
    try:
        index = json.loads(path.read_bytes())
        version, sealed = index["version"], index["sha256"] == _seal_of(index)
    except (ValueError, KeyError, TypeError):
        version, sealed = VERSION, False
    if version != VERSION:
        raise ValueError(f"{path} has version {version}, not {VERSION}: delete {directory} and tokenise again")
    if not sealed:
        raise ValueError(f"{path} is not as written: delete {directory} and tokenise again")
    return dict(index)


class Part:
    """Some of the tokens of shards, numbered 0, 1, 2 ... without gaps: what one set of rows is cut from."""

    def __init__(self, shards: Shards, runs: Sequence[Run]) -> None:
        self.shards, self.runs = shards, list(runs)
        sizes = [run.stop - run.start for run in self.runs]
        self.ends = np.cumsum(np.array(sizes, np.int64))  # (runs,)
        self.tokens = int(self.ends[-1]) if sizes else 0

    @cached_property
    def documents(self) -> int:
        """Documents that lie here, in whole or in part."""
        return sum(len(starts) for starts in self.starts())

    @cached_property
    def bytes(self) -> float:
        """Bytes of text, for bits per byte; exact unless `split` had to cut a document (then in proportion to
        tokens).
        """
        return sum(self._byte(run.shard, run.stop) - self._byte(run.shard, run.start) for run in self.runs)

    def _byte(self, shard: int, token: int) -> float:
        starts, sizes = self.shards.starts(shard), self.shards.byte_starts(shard)
        after = int(np.searchsorted(starts, token))
        last = after == len(starts)
        stop = self.shards.sizes[shard] if last else int(starts[after])
        size = self.shards.index["shards"][shard]["bytes"] if last else int(sizes[after])
        if stop == token:
            return float(size)
        return float(np.interp(token, [starts[after - 1], stop], [sizes[after - 1], size]))

    def starts(self) -> Iterator[NDArray[np.int64]]:
        """Where documents start, in this part's numbering, run by run; a run's own start always counts."""
        for run, end in zip(self.runs, self.ends.tolist(), strict=True):
            yield self._starts(run) - run.stop + end

    def _starts(self, run: Run) -> NDArray[np.int64]:
        starts = self.shards.starts(run.shard)
        low, high = np.searchsorted(starts, [run.start, run.stop])
        inner = np.asarray(starts[low:high])
        return inner if len(inner) and inner[0] == run.start else np.insert(inner, 0, run.start)

    def read(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Tokens start..stop-1, and which of them are the first of a document: both (stop - start,)."""
        tokens, first = [], []
        number = int(np.searchsorted(self.ends, start, side="right"))
        while start < stop:
            whole, end = self.runs[number], int(self.ends[number])
            shift = whole.stop - end  # this part's numbering -> the shard's
            run = Run(whole.shard, start + shift, min(stop, end) + shift)
            tokens.append(self.shards.read(run))
            first.append(self._first(run, whole.start))
            start, number = min(stop, end), number + 1
        if not tokens:
            return np.empty(0, np.int64), np.empty(0, np.bool_)
        return np.concatenate(tokens), np.concatenate(first)

    def _first(self, run: Run, fresh: int) -> NDArray[np.bool_]:
        starts = self.shards.starts(run.shard)
        low, high = np.searchsorted(starts, [run.start, run.stop])
        first = np.zeros(run.stop - run.start, np.bool_)
        first[starts[low:high] - run.start] = True
        first[0] |= run.start == fresh
        return first
