"""`modelwright tokenizer`: learn a vocabulary from text.

1. Stream the documents, holding the last few back.
2. Learn: byte-level BPE (Sennrich et al. 2016), WordPiece (Wu et al. 2016) or Unigram (Kudo 2018).
3. Measure on what was held back: bytes a token carries, tokens a word costs.
4. Write the directory whole, or not at all.

Left out: choosing the size of the vocabulary, and sampling a corpus that is larger than it needs to be: a
few hundred megabytes settle a vocabulary, and the words that were counted must fit into memory.
"""

import json
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from modelwright import __version__
from modelwright.data import documents
from modelwright.data.tokenizer import Kind, Objective, Tokenizer, train
from modelwright.model.checkpoint import replacing
from modelwright.recipes import flags
from modelwright.recipes.source import desk_of, documents_of

RECORD = "modelwright.json"
OURS = {"tokenizer.json", "tokenizer_config.json", RECORD}  # what a directory may hold and be overwritten
SHARE, MOST = 0.05, 1 << 20  # of the characters, and characters: held back to measure on, whichever is less
SMALL = 10_000  # characters; of less than this nothing is held back
LONGEST = 8  # tokens to show


@dataclass(frozen=True)
class Tokenize:
    """Learn a vocabulary from text and say how well it fits text it has not seen."""

    data: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DATA ...")]
    """Text, JSON Lines or Parquet: files, folders, globs or URLs; or `desk` (`desk:50k`), the embedded desk."""
    output: Annotated[Path, tyro.conf.arg(aliases=["--out"])]
    """The directory to write."""
    kind: Kind = "bpe"
    """bpe keeps every text to the letter, and so does unigram; wordpiece lower-cases, as BERT does."""
    vocab: int = 4096
    """How many ids at most, special tokens included."""
    objective: Objective = "causal"
    """What a model will learn with it; the special tokens follow from that."""
    column: str = "text"
    """The field or column that holds the text, in JSON Lines and Parquet."""
    separator: str = documents.SEPARATOR
    """What divides documents in text files."""
    seed: int = 0
    """With `desk`: which documents. Learning itself takes no chances: the same text gives the same ids."""
    overwrite: bool = False
    """Replace the tokenizer that is there."""
    dry_run: bool = False
    """Say what would be read, and stop."""
    json: bool = False
    """Print the report as JSON."""


def main(args: list[str]) -> int:
    """Run the command. Raises ValueError, FileNotFoundError or FileExistsError for the user's mistakes."""
    options = flags.parse(Tokenize, args, "modelwright tokenizer")
    options = replace(options, output=options.output.expanduser().resolve())  # "." has a name to write beside
    may_write(options.output, options.overwrite)
    size = bytes_to_read(options)
    if options.dry_run:
        say(options, {"data": list(options.data), "bytes": size, "output": str(options.output)}, "what would be read")
        return 0
    started, held = time.perf_counter(), Held()
    found, source, _ = documents_of(options.data, seed=options.seed, column=options.column, separator=options.separator)
    with progress() as bar:
        texts = watched((document.text for document in found), bar, size, options.vocab)
        tokenizer = train(held.back(texts), options.kind, options.vocab, objective=options.objective)
    report = {
        "kind": options.kind, "objective": options.objective, "vocabulary": tokenizer.vocab,
        **fit(tokenizer, held.texts), "held_out": held.unseen, "longest": longest(tokenizer),
        "seconds": round(time.perf_counter() - started, 2), "output": str(options.output),
    }  # fmt: skip
    publish(tokenizer, lineage(options, source, report), options.output)
    say(options, report, f"{options.kind} of {tokenizer.vocab} ids")
    return 0


# --- 1. the text ---


def bytes_to_read(options: Tokenize) -> int | None:
    """What there is to read, for the bar; None where sizes do not tell: packed files, and the desk."""
    if desk_of(options.data) is not None:
        return None
    found = documents.text_files(options.data)
    packed = any(file.name.lower().endswith((".gz", ".parquet")) for file in found)
    return None if packed else sum(file.size for file in found)


class Held:
    """The last texts of a stream, kept back to measure on: about 5%, at most 1 MB of characters."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.unseen = True  # False: there was so little text that all of it was learnt from and is here

    def back(self, texts: Iterable[str]) -> Iterator[str]:
        tail: deque[str] = deque()
        size = seen = 0
        for text in texts:
            tail.append(text)
            size, seen = size + len(text), seen + len(text)
            while seen >= SMALL and size - len(tail[0]) >= min(MOST, SHARE * seen):
                size -= len(tail[0])
                yield tail.popleft()
        self.unseen = seen >= SMALL
        if not self.unseen:
            self.texts = list(tail)
            yield from tail
        elif tail:
            first = tail.popleft()  # the excess: a text may be long, and the only one
            cut = max(first.rfind(" ", 0, size - int(min(MOST, SHARE * seen))), 0)
            self.texts = [first[cut:], *tail]
            yield first[:cut]


def progress() -> Progress:
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def watched(texts: Iterable[str], bar: Progress, size: int | None, vocab: int) -> Iterator[str]:
    task = bar.add_task("reading", total=size)
    for text in texts:
        yield text
        bar.advance(task, len(text.encode()))
    bar.update(task, description=f"learning {vocab} ids", total=None)


# --- 3. how well it fits ---


def fit(tokenizer: Tokenizer, texts: list[str]) -> dict[str, float]:
    """Bytes a token, tokens a word (fertility), and the share of unknown tokens, over some texts."""
    encoded = tokenizer.encode_batch(texts)
    tokens = sum(map(len, encoded)) or 1
    unknown = sum(ids.count(tokenizer.unk) for ids in encoded) if tokenizer.unk is not None else 0
    return {
        "bytes_per_token": round(sum(len(text.encode()) for text in texts) / tokens, 3),
        "fertility": round(tokens / max(sum(len(text.split()) for text in texts), 1), 3),
        "unknown": round(unknown / tokens, 5),
        "measured_on_bytes": sum(len(text.encode()) for text in texts),
    }


def longest(tokenizer: Tokenizer) -> list[str]:
    tokens = [tokenizer.decode([i]) for i in range(tokenizer.vocab) if i not in tokenizer.special]
    return sorted(tokens, key=lambda token: (-len(token), token))[:LONGEST]


# --- 4. the directory ---


def may_write(output: Path, overwrite: bool) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    other = sorted({path.name for path in output.iterdir()} - OURS) if output.is_dir() else [output.name]
    if other:
        raise FileExistsError(f"{output} holds more than a tokenizer ({other[0]}): name another --output")
    if not overwrite:
        raise FileExistsError(f"{output} exists: name another --output, or say --overwrite")


def lineage(options: Tokenize, source: str, report: dict[str, Any]) -> dict[str, Any]:
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(options).items()}
    return {"recipe": "tokenizer", "modelwright": __version__, "settings": settings, "data": source, "report": report}


def publish(tokenizer: Tokenizer, record: dict[str, Any], output: Path) -> None:
    with replacing(output) as work:
        tokenizer.save(work)
        (work / RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False), encoding="utf-8")


def say(options: Tokenize, report: dict[str, Any], title: str) -> None:
    if options.json:
        print(json.dumps(report, ensure_ascii=False))
        return
    table = Table(title=title, show_header=False, title_justify="left")
    for key, value in report.items():
        shown = "  ".join(map(repr, value)) if isinstance(value, list) else str(value)
        table.add_row(key.replace("_", " "), shown)
    Console().print(table)
