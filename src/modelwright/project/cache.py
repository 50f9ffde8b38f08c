"""Finished steps, each in a directory named by a hash of what it depends on: one that is there whole is not repeated.

    steps/lora-3f2a90c1d7e4/
      result.json     what it depends on, what came of it, a sha256 of every other file: written last
      ...             whatever the step wrote: a model, an adapter, a run's metrics

What a step depends on is its settings, data and model, and what made it: FORMAT and the versions of modelwright and of
torch, in which bits may differ. Not the source of the whole package: a mended word in a sentence would train every
model again. The desk's text is made by its source, so that this counts as data (`desk_digest`).

A directory without result.json is a step that was stopped: it is given to the step again, which goes on from its own
checkpoints. One whose files are not as result.json says is damaged: it is said, removed, and made anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from modelwright.adapt.open import versions
from modelwright.data import desk, documents
from modelwright.model.checkpoint import replacing
from modelwright.recipes.watch import write_whole

FORMAT = 2  # of what steps leave behind; raised where a change of the program makes other bits of the same inputs
DESK = Path(desk.__file__).parent
STEPS, RESULT = "steps", "result.json"
CHUNK = 1 << 20


@dataclass(frozen=True)
class Done:
    """A finished step."""

    directory: Path
    value: Mapping[str, Any]
    cached: bool  # whether it was there already


class Cache:
    """The finished steps of one run directory."""

    def __init__(
        self,
        directory: Path,
        warn: Callable[[str], None],
        unchanged: Callable[[], None] = lambda: None,
        others: Sequence[Path] = (),
    ):
        """warn: is told of what was damaged. unchanged: raises ValueError where what steps read is not as it was.
        others: run directories whose finished steps are taken over where they are the same."""
        self.directory, self.warn, self.unchanged = directory / STEPS, warn, unchanged
        self.others = [other / STEPS for other in others]
        self.whole: dict[Path, Whole] = {}  # what was found whole by this process

    def place(self, kind: str, depends: Mapping[str, Any]) -> Path:
        return self.directory / f"{kind}-{key(kind, depends)[:12]}"

    def find(self, kind: str, depends: Mapping[str, Any]) -> Done | None:
        """The step where it is there whole. A damaged one is removed, and said."""
        directory = self.place(kind, depends)
        if not (directory / RESULT).exists():
            self.take_over(directory)
        if not (directory / RESULT).exists():
            return None
        now, seen = touched(directory), self.whole.get(directory)
        if seen is None or seen.touched != now:
            try:
                seen = self.whole[directory] = Whole(_whole(directory, key(kind, depends)), now)
            except Damaged as error:
                self.warn(f"{directory} is damaged ({error}): it is made anew")
                shutil.rmtree(directory)
                return None
        return Done(directory, seen.value, cached=True)

    def take_over(self, directory: Path) -> None:
        """A copy of the same step, where another run has finished it."""
        for other in self.others:
            if (other / directory.name / RESULT).exists():
                with replacing(directory) as work:
                    shutil.copytree(other / directory.name, work, dirs_exist_ok=True)
                return

    def step(self, kind: str, depends: Mapping[str, Any], work: Callable[[Path], Mapping[str, Any]]) -> Done:
        """The step as it was done before, or `work` done in its directory. `work` answers with what JSON can hold.

        Where the data have changed meanwhile, nothing is kept: ValueError.
        """
        if found := self.find(kind, depends):
            return found
        self.unchanged()
        directory = self.place(kind, depends)
        directory.mkdir(parents=True, exist_ok=True)
        try:
            value = work(directory)
        except Exception:
            if not any(directory.iterdir()):
                directory.rmdir()
            raise
        try:
            self.unchanged()
        except ValueError:
            shutil.rmtree(directory)
            raise
        said = {
            "key": key(kind, depends),
            "depends": plain(depends),
            "value": plain(value),
            "files": _digests(directory),
        }
        write_whole(directory / RESULT, json.dumps(said | {"sha256": sha256(said)}, indent=1) + "\n")
        return Done(directory, json.loads(json.dumps(plain(value))), cached=False)


class Whole(NamedTuple):
    """A finished step whose every file was read and found as it was written, and when each was last changed."""

    value: Mapping[str, Any]
    touched: Sequence[tuple[str, int, int]]


def touched(directory: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of each file of a step."""
    found = [(path, path.stat()) for path in _files(directory)]
    return [(path.name, stat.st_size, stat.st_mtime_ns) for path, stat in found]


class Damaged(Exception):
    """A finished step whose files are not what they were."""


def _whole(directory: Path, wanted: str) -> Mapping[str, Any]:
    """What came of the step in this directory. Raises Damaged, with the reason."""
    try:
        said = json.loads((directory / RESULT).read_text("utf-8"))
        digest, files, value = said.pop("sha256"), said["files"], said["value"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Damaged(f"{RESULT} cannot be read") from None
    if digest != sha256(said) or said["key"] != wanted:
        raise Damaged(f"{RESULT} is not as it was written")
    for name, digest in files.items():
        if not (directory / name).is_file():
            raise Damaged(f"{name} is missing")
        if digest != file_digest(directory / name):
            raise Damaged(f"{name} is not as it was written")
    found: Mapping[str, Any] = value
    return found


def _digests(directory: Path) -> dict[str, str]:
    """Every file of a step but its result."""
    kept = [path for path in _files(directory) if path != directory / RESULT]
    return {path.relative_to(directory).as_posix(): file_digest(path) for path in kept}


def _files(directory: Path) -> list[Path]:
    """Every file of a step but what is hidden: locks, what a killed save left."""
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(directory).parts)]


# -- digests -----------------------------------------------------------------------------------------------------


def key(kind: str, depends: Mapping[str, Any]) -> str:
    """A sha256 of the kind of a step and of all that it depends on, whatever the order this is said in."""
    made = {name: version for name, version in versions().items() if name in ("modelwright", "torch")}
    return sha256({"format": FORMAT, "made": made, "kind": kind, "depends": plain(depends)})


def desk_digest() -> str:
    """A sha256 of the source that makes the desk's text."""
    return sha256({path.name: file_digest(path) for path in sorted(DESK.glob("*.py"))})


def sha256(said: Any) -> str:
    return hashlib.sha256(
        json.dumps(said, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
    ).hexdigest()


def plain(value: Any) -> Any:
    """What JSON can hold. Raises TypeError for what it cannot, so that nothing gets into a key by its address."""
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a {type(value).__name__} has no place in a result: {value!r}")


def file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


# -- data that change ----------------------------------------------------------------------------------------------


class Watched:
    """The files that a project reads: as they were when it began."""

    def __init__(self, sources: Iterable[str]):
        self.sources = tuple(dict.fromkeys(sources))
        self.stamps = {source: stamps(source) for source in self.sources}
        self.digests = {source: documents.fingerprint(source) for source in self.sources}

    def unchanged(self) -> None:
        """Raises ValueError where one of them is not as it was. A file that was only touched is read, and passes."""
        for source in self.sources:
            try:
                now = stamps(source)
                same = now == self.stamps[source] or documents.fingerprint(source) == self.digests[source]
            except FileNotFoundError:
                same = False
            if not same:
                raise ValueError(
                    f"{source} changed while the project ran, and nothing is kept of what was made of it: run again"
                )
            self.stamps[source] = now


def stamps(source: str) -> Sequence[tuple[str, int, int]]:
    """Name, size and time of change of each file of a source; of what is not on a disk here, the size alone."""
    found = []
    for file in documents.files(source):
        local = Path(file.path)
        changed = local.stat().st_mtime_ns if local.is_file() else 0
        found.append((file.path, file.size, changed))
    return found
