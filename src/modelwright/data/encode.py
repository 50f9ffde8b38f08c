"""Texts -> token ids as raw bytes, in one process or several.

There are two ways, with the same result. The plain way hands whole texts to the `tokenizers` library. The way
by words cuts each text before every space that follows a non-space and remembers the ids of the pieces: words
repeat, so most pieces are looked up and never tokenised again. It is exact only where the tokenizer itself
never joins such a space to what stands before it, which `cuts_at_spaces` proves from the tokenizer's own
description; elsewhere the plain way is taken.
"""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from string import whitespace
from typing import IO, Any, NamedTuple

import numpy as np
import tokenizers
from numpy.typing import NDArray

CUT = re.compile(r" (?<=\S )")
LONGEST = 64  # characters of a piece worth remembering: longer ones hardly ever come again
REMEMBERED = 1 << 18  # pieces, about 60 MB
ALONE = 2  # batches tokenised before other processes are started, which costs about 0.3 s


class Piece(NamedTuple):
    """A text, its bytes in UTF-8, whether a document starts and ends with it (a long one comes in several pieces), and
    whether it is to be learned or only read.
    """

    text: str
    size: int
    starts: bool = True
    ends: bool = True
    learned: bool = True


class Encoded(NamedTuple):
    """The ids of a batch of pieces, one after the other, as raw little-endian integers; and ids per piece."""

    tokens: bytes
    lengths: NDArray[np.int64]  # (pieces,)


class Settings(NamedTuple):
    """How ids are written: numpy's name of the integer type; ids set before and after each document.

    In a signed type, an id that is only read is written as its complement, below 0.
    """

    dtype: str
    begin: Sequence[int] = ()
    end: Sequence[int] = ()


def cuts_at_spaces(description: dict[str, Any]) -> bool:
    """Whether encode(a + b) = encode(a) + encode(b) wherever a ends in a non-space and b begins with a space.

    True only for what is proved: the first pre-tokenizer always divides there, the normalizer changes each
    side without looking at the other, and no added token can lie across. `description` is the content of a
    tokenizer.json.
    """
    normal, model = description.get("normalizer"), description["model"]
    steps = _steps(description.get("pre_tokenizer"), "pretokenizers")
    if not steps or any(not token["special"] for token in description.get("added_tokens", ())):
        return False
    if model.get("dropout") or not _divides(steps[0]):
        return False
    allowed = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase"}
    if steps[0]["type"] not in ("ByteLevel", "Split"):  # these two treat a run of spaces as one
        allowed |= {"BertNormalizer", "StripAccents", "Replace"}
    return all(step["type"] in allowed and _within_words(step) for step in _steps(normal, "normalizers"))


def _within_words(step: dict[str, Any]) -> bool:
    """Whether a normalizer, if it replaces anything, replaces only what holds no space."""
    pattern = step.get("pattern", {"String": "a"})
    return pattern.get("Regex") in WORDS if "Regex" in pattern else not set(pattern["String"]) & set(whitespace)


def _steps(part: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [part]
    return [step for inner in part[name] for step in _steps(inner, name)]


WORDS = {"<(?=0x[0-9A-F]{2}>)"}  # patterns that match no space: the name of a byte, written in a text
# Those of Llama 3 and Qwen 2: a space stands only at the start of a match, or in a match of white space.
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
PATTERNS = {_HEAD + "{1,3}" + _TAIL, _HEAD + _TAIL}


def _divides(step: dict[str, Any]) -> bool:
    match step["type"]:
        case "BertPreTokenizer" | "Whitespace" | "WhitespaceSplit":
            return True
        case "ByteLevel":
            return bool(step.get("use_regex", True))
        case "Metaspace":
            return bool(step.get("split", True))
        case "Split":
            isolates = step["behavior"] == "Isolated" and not step["invert"]
            return isolates and step["pattern"].get("Regex") in PATTERNS
    return False


class _Memory(dict[str, bytes]):
    """Piece -> its ids; a piece not yet known is encoded with `space` before it."""

    def __init__(self, encode: Callable[[str], bytes], space: str) -> None:
        super().__init__()
        self.encode, self.space = encode, space

    def __missing__(self, piece: str) -> bytes:
        ids = self.encode(self.space + piece)
        if len(piece) <= LONGEST:
            if len(self) >= REMEMBERED:
                self.clear()  # the common words are back within a few texts
            self[piece] = ids
        return ids


class Encoder:
    """Batches of pieces -> ids, by the tokenizer.json given."""

    def __init__(self, description: str, settings: Settings) -> None:
        self.raw = tokenizers.Tokenizer.from_str(description)
        self.raw.no_truncation()
        self.raw.no_padding()
        self.raw.encode_special_tokens = True  # "</s>" in a user's text is text, not a command
        self.dtype = np.dtype(settings.dtype)
        self.begin, self.end = (self._bytes(ids) for ids in (settings.begin, settings.end))
        self.first, self.inner = (_Memory(self._encode, space) for space in ("", " "))
        self.texts = self._by_words if cuts_at_spaces(json.loads(description)) else self._plain

    def __call__(self, pieces: Sequence[Piece]) -> Encoded:
        found = self.texts([piece.text for piece in pieces])
        framed = [self._frame(piece, ids) for piece, ids in zip(pieces, found, strict=True)]
        lengths = np.array([len(ids) for ids in framed], np.int64) // self.dtype.itemsize
        return Encoded(b"".join(framed), lengths)

    def _frame(self, piece: Piece, ids: bytes) -> bytes:
        if not ids and piece.starts and piece.ends:
            return ids  # a document without a token is no document
        framed = (self.begin if piece.starts else b"") + ids + (self.end if piece.ends else b"")
        return framed if piece.learned else (~np.frombuffer(framed, self.dtype)).tobytes()

    def _plain(self, texts: list[str]) -> list[bytes]:
        found = self.raw.encode_batch_fast(texts, add_special_tokens=False)
        return [self._bytes(encoding.ids) for encoding in found]

    def _by_words(self, texts: list[str]) -> list[bytes]:
        inner = self.inner.__getitem__
        cut = map(CUT.split, texts)
        return [self.first[pieces[0]] + b"".join(map(inner, pieces[1:])) for pieces in cut]

    def _encode(self, text: str) -> bytes:
        return self._bytes(self.raw.encode(text, add_special_tokens=False).ids)

    def _bytes(self, ids: Sequence[int]) -> bytes:
        return np.array(ids, self.dtype).tobytes()


def encode(batches: Iterable[list[Piece]], description: Path, settings: Settings, processes: int) -> Iterator[Encoded]:
    """Encodes batches in order; `description` is a tokenizer.json. What comes out does not depend on
    `processes`.
    """
    batches = iter(batches)
    alone = batches if processes <= 1 else islice(batches, ALONE)
    yield from map(Encoder(description.read_text("utf-8"), settings), alone)
    following = next(batches, None)
    if following is not None:
        yield from _together(following, batches, _command(description, settings), processes)


def _together(first: list[Piece], rest: Iterator[list[Piece]], command: list[str], processes: int) -> Iterator[Encoded]:
    # Child processes at the end of a pipe, not multiprocessing: they end with this process however it ends,
    # and a caller's script needs no `if __name__ == "__main__"`.
    idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
    waiting: deque[Future[Encoded]] = deque()
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(processes))
        for _ in range(processes):
            idle.put(stack.enter_context(_child(command)))
        batch: list[Piece] | None = first
        while batch is not None:
            waiting.append(threads.submit(_ask, idle, batch))
            if len(waiting) > 2 * processes:  # enough to keep all busy, few enough to bound memory
                yield waiting.popleft().result()
            batch = next(rest, None)
        while waiting:
            yield waiting.popleft().result()


def _command(description: Path, settings: Settings) -> list[str]:
    return [sys.executable, "-P", "-m", "modelwright.data.encode", str(description), json.dumps(settings)]


@contextmanager
def _child(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    # one thread in each child, so that they do not fight for cores
    env = {**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # a request cut short by an error elsewhere
                pipe.close()


def _ask(idle: SimpleQueue[subprocess.Popen[bytes]], batch: list[Piece]) -> Encoded:
    child = idle.get()
    try:
        assert child.stdin is not None
        assert child.stdout is not None
        _send(child.stdin, json.dumps(batch, ensure_ascii=False).encode())
        tokens, lengths = _receive(child.stdout), _receive(child.stdout)
    except (BrokenPipeError, EOFError):
        raise RuntimeError(f"a tokenising process ended early, with exit code {child.wait()}") from None
    finally:
        idle.put(child)
    return Encoded(tokens, np.frombuffer(lengths, np.int64))


def _send(stream: IO[bytes], *messages: bytes) -> None:
    for message in messages:
        stream.write(struct.pack("<q", len(message)))
        stream.write(message)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes:
    header = stream.read(8)
    size = struct.unpack("<q", header)[0] if len(header) == 8 else -1
    message = stream.read(size) if size >= 0 else b""
    if len(message) != size:
        raise EOFError
    return message


def answer(description: str, settings: str) -> None:
    """What a child process does: batches from standard input, ids to standard output, until no more come."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    encoder = Encoder(Path(description).read_text("utf-8"), Settings(*json.loads(settings)))
    while True:
        try:
            batch = json.loads(_receive(sys.stdin.buffer))
        except EOFError:
            return
        found = encoder([Piece(*piece) for piece in batch])
        _send(sys.stdout.buffer, found.tokens, found.lengths.tobytes())


if __name__ == "__main__":
    answer(*sys.argv[1:])
