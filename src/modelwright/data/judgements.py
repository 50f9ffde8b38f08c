"""What labellers judged: one line of a file for each judgement, kept through a killed process.

    {"id": "9f..", "item": "3", "labeller": "Anna", "ranks": [2, 1, 1], "order": [1, 0, 2], "seconds": 8.1, "at": "..."}
    {"id": "c0..", "item": "4", "labeller": "Anna", "ranks": null, ...}     skipped
    {"takes_back": "9f..", "at": "..."}                                     undone

Lines are only ever added, and each is on the disk before whoever judged is told so. A process that is killed in the
midst of a line leaves a torn one, which nobody was told is kept: it is passed over, and said. One process writes at a
time (a lock that ends with the process), from as many threads as it likes.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Judgement:
    """What one labeller said of one item: a prompt and K completions.

    ranks: of each completion, in the item's order, 1 the best, equal for a tie; None where it was skipped.
    order: the completions' places in the item, as they stood before the labeller from first to last.
    seconds: from the item's being shown to its being judged.
    """

    id: str
    item: str
    labeller: str
    ranks: tuple[int, ...] | None
    order: tuple[int, ...]
    seconds: float
    at: str = ""  # UTC, ISO 8601


def dense(ranks: Sequence[float]) -> tuple[int, ...]:
    """The same ranking with no rank left out.

    >>> dense([7, 2, 7, 2.5])
    (3, 1, 3, 2)
    """
    places = {rank: at for at, rank in enumerate(sorted(set(ranks)), 1)}
    return tuple(places[rank] for rank in ranks)


def read_judgements(path: Path) -> tuple[list[Judgement], list[int]]:
    """The judgements that stand, in the order they were made, and the numbers of torn lines, counted from 1.

    Raises ValueError, naming file and line, for a line that is whole and no judgement.
    """
    data = path.read_bytes() if path.exists() else b""
    standing: dict[str, Judgement] = {}
    torn: list[int] = []
    for at, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            said = json.loads(line)
        except ValueError:  # of bytes that are no UTF-8, too
            torn.append(at)
            continue
        _take(standing, said, f"line {at} of {path}")
    return list(standing.values()), torn


def _take(standing: dict[str, Judgement], said: Any, where: str) -> None:
    if isinstance(said, Mapping) and isinstance(said.get("takes_back"), str):
        standing.pop(said["takes_back"], None)
        return
    try:
        ranks = None if said["ranks"] is None else tuple(said["ranks"])
        found = Judgement(**{**said, "ranks": ranks, "order": tuple(said["order"])})
    except (TypeError, KeyError):
        raise ValueError(f"{where} is no judgement: it has an id, item, labeller, ranks, order and seconds") from None
    standing[found.id] = found


class Journal:
    """The file of judgements, open for more of them.

    Raises ValueError where another process has it open. `torn`: the lines that a killed process left unfinished.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise ValueError(
                f"{path.parent} is being labelled by another process: stop that one, or name another --output"
            ) from None
        try:
            found, self.torn = read_judgements(path)
        except BaseException:
            os.close(self._file)
            raise
        self._standing = {one.id: one for one in found}
        self._cut = not _ends_in_newline(path)  # what is written next begins a line of its own
        _sync(path.parent)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Judgement]:
        """The judgements that stand, in the order they were made."""
        with self._lock:
            return iter(list(self._standing.values()))

    def close(self) -> None:
        os.close(self._file)

    def add(self, judgement: Judgement) -> bool:
        """Keep a judgement. False, and nothing is written, where its labeller has judged the item already.

        The same judgement, by its id, is kept once: whoever did not hear the answer may send it again.
        """
        with self._lock:
            for one in self._standing.values():
                if one.id == judgement.id or (one.item, one.labeller) == (judgement.item, judgement.labeller):
                    return (one.id, one.item, one.labeller) == (judgement.id, judgement.item, judgement.labeller)
            self._write(asdict(judgement))
            self._standing[judgement.id] = judgement
            return True

    def take_back(self, labeller: str, name: str) -> Judgement | None:
        """Take back the labeller's last judgement that stands, and answer with it; None where it is not `name`."""
        with self._lock:
            last = next((one for one in reversed(self._standing.values()) if one.labeller == labeller), None)
            if last is None or last.id != name:
                return None
            self._write({"takes_back": last.id, "at": now()})
            del self._standing[last.id]
            return last

    def _write(self, said: Mapping[str, Any]) -> None:
        line = json.dumps(said, ensure_ascii=False).encode() + b"\n"
        whole = b"\n" + line if self._cut else line
        self._cut = True  # until all of it is written
        done = 0
        while done < len(whole):
            done += os.write(self._file, whole[done:])
        os.fsync(self._file)
        self._cut = False


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def rankings(judgements: Iterable[Judgement]) -> list[Judgement]:
    """Those that rank: the skipped ones are left out."""
    return [one for one in judgements if one.ranks is not None]


def _ends_in_newline(path: Path) -> bool:
    data = path.read_bytes()
    return not data or data.endswith(b"\n")


def _sync(directory: Path) -> None:
    """Have the disk hold the file's name, too."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
