"""Text on disk -> token shards on disk, against `datasets.map` with the same tokenizer and as many processes.

    MODELWRIGHT_DATA=... python bench/shards.py --mb 100

Both sides read the same JSON Lines file (documents of 1 to 5 KB) in a process of their own, and the clock
stands still while they import. The peer is measured twice: with the bare `tokenizers` library in the mapped
function, which is the fastest that it can do, and with `transformers`' tokenizer, which is how it is mostly
done.

The text is WikiText repeated. So that remembered words do not flatter us, in each repeat a share of the words
is changed to ones not seen before: 4%, which is what mixed real text (dialogues, encyclopaedia, web, law,
medicine) still brings at 20 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

NOVEL = 0.04
SIDES = ("ours", "tokenizers", "transformers")


def main() -> None:
    options = argparse.ArgumentParser(description="text to token shards against datasets.map")
    options.add_argument("--mb", type=float, default=100)
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--side", choices=SIDES, help="measure one side only, once, in this process")
    options.add_argument("--folder", type=Path, help="where the text and the tokenizer already are")
    given = options.parse_args()
    if given.side:
        print(globals()[given.side](given.folder, given.processes))
        return
    with tempfile.TemporaryDirectory() as folder:
        size, new = prepare(Path(folder), given.mb)
        print(f"{size / 1e6:.1f} MB, {new:.1%} of its words not seen before; {given.processes} processes")
        report(compare(Path(folder), given.runs, given.processes), size)


def compare(folder: Path, runs: int, processes: int) -> dict[str, list[float]]:
    """Seconds of each side, taken in turns."""
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(runs):
        for side in SIDES:
            command = [sys.executable, __file__, "--side", side, "--folder", str(folder)]
            done = subprocess.run([*command, "--processes", str(processes)], stdout=subprocess.PIPE, check=True)
            seconds[side].append(float(done.stdout.split()[-1]))
    return seconds


def report(seconds: dict[str, list[float]], size: int) -> None:
    ours = statistics.median(seconds["ours"])
    for side, taken in seconds.items():
        median = statistics.median(taken)
        runs = " ".join(f"{one:.1f}" for one in taken)
        print(f"{side:14}{median:8.2f} s {size / median / 1e6:8.1f} MB/s {median / ours:6.2f}x ours   [{runs}]")


# --- what both read -------------------------------------------------------------------------------


def prepare(folder: Path, megabytes: float) -> tuple[int, float]:
    """Writes text.jsonl and tokenizer/; returns bytes of text and the share of words that came up first."""
    data = Path(os.environ["MODELWRIGHT_DATA"])
    _tokenizer(data / "tokenizers" / "gpt2", folder / "tokenizer")
    words = (data / "wikitext-2" / "valid.txt").read_text("utf-8").split(" ")
    size, count, seen = 0, 0, set[str]()
    with (folder / "text.jsonl").open("w", encoding="utf-8") as file:
        for document in _documents(words, random.Random(0)):
            file.write(json.dumps({"text": " ".join(document)}, ensure_ascii=False) + "\n")
            size += len(" ".join(document).encode())
            count += len(document)
            seen.update(document)
            if size >= megabytes * 1e6:
                return size, len(seen) / count
    raise AssertionError("the text never ends")


def _documents(words: list[str], draw: random.Random) -> Iterator[list[str]]:
    while True:
        at = 0
        while at < len(words):
            length = draw.randint(200, 900)
            yield [_changed(word, draw) if draw.random() < NOVEL else word for word in words[at : at + length]]
            at += length


def _changed(word: str, draw: random.Random) -> str:
    letters = [*word, *draw.choices("abcdefghijklmnopqrstuvwxyz", k=3)]
    draw.shuffle(letters)
    return "".join(letters)


def _tokenizer(source: Path, target: Path) -> None:
    """GPT-2's real vocabulary as a tokenizer directory, which both sides load."""
    from modelwright.data.tokenizer import Tokenizer

    Tokenizer.load(source).save(target)


# --- the two sides: each returns its seconds ------------------------------------------------------


def ours(folder: Path, processes: int) -> float:
    from modelwright.data import documents, shards
    from modelwright.data.tokenizer import Tokenizer

    tokenizer, target = Tokenizer.load(folder / "tokenizer"), folder / "shards"
    shutil.rmtree(target, ignore_errors=True)
    start = time.perf_counter()
    shards.write(documents.read(folder / "text.jsonl"), tokenizer, target, processes=processes)
    return time.perf_counter() - start


def tokenizers(folder: Path, processes: int) -> float:
    import tokenizers

    bare = tokenizers.Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    return _map(folder, processes, lambda texts: [found.ids for found in bare.encode_batch_fast(texts)])


def transformers(folder: Path, processes: int) -> float:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    return _map(folder, processes, lambda texts: tokenizer(texts)["input_ids"])


def _map(folder: Path, processes: int, encode) -> float:  # type: ignore[no-untyped-def]
    import datasets

    cache = folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    datasets.disable_progress_bars()
    start = time.perf_counter()
    text = datasets.load_dataset("json", data_files=str(folder / "text.jsonl"), split="train", cache_dir=str(cache))
    text.map(lambda rows: {"ids": encode(rows["text"])}, batched=True, num_proc=processes, remove_columns=["text"])
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
