"""The text that models here read: public, of several kinds, without a task's label, summary or answer.

python text.py OUT        reads $MODELWRIGHT_DATA; writes OUT/train.jsonl, and OUT/test.jsonl, parts of articles
python text.py OUT long   keeps whole articles apart, and cuts them into pieces of one length, so that the same texts
                          stand behind each place of a context
python text.py OUT desk   of the embedded support desk: dialogues, and what is asked of each; the test part's are of
                          products, problems and resolutions that never come together in the other
python text.py OUT questions    no text to learn from but a task's: questions on the desk's dialogues
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from modelwright.data.desk import Part, cases, documents

DESK: dict[Part, int] = {"train": 40_000, "test": 500}
QUESTIONS: dict[Part, int] = {"train": 2_000, "test": 150}  # dialogues with some four each
APART = 12  # of parts of articles and pages, each so-and-so-many-th is tested on; of whole ones twice as many
LINES = 40  # of an article that are read as one document
SCENES = 16_000  # characters of the plays that are as good as an article
PIECE = 1300  # characters of a test document that is as long as any other: 400 to 500 tokens


def dialogues(data: Path) -> Iterator[str]:
    for line in (data / "dialogsum/train.jsonl").read_text("utf-8").splitlines():
        yield json.loads(line)["dialogue"]


def sentences(data: Path) -> Iterator[str]:
    for line in (data / "sst2/train.tsv").read_text("utf-8").splitlines():
        yield line.split("\t")[0]
    words: list[str] = []
    for line in [*(data / "wnut17/train.conll").read_text("utf-8").splitlines(), ""]:
        if word := line.split("\t")[0].strip():
            words.append(word)
        elif words:
            yield " ".join(words)
            words = []


def stories(data: Path) -> Iterator[str]:
    yield from (data / "tinystories-sample/train.txt").read_text("utf-8").split("<|endoftext|>")


def long_ones(data: Path) -> Iterator[str]:
    for name in ("wikitext-2/valid.txt", "web-c4-demo/wiki.txt", "tinyshakespeare/train.txt"):
        if (data / name).exists():
            lines = (data / name).read_text("utf-8").split("\n")
            yield from ("\n".join(lines[i : i + LINES]) for i in range(0, len(lines), LINES))
    for line in (data / "web-c4-demo/c4.jsonl").read_text("utf-8").splitlines():
        yield json.loads(line)["text"]


def whole_articles(data: Path) -> Iterator[str]:
    """Articles and pages as they are; of the plays as much as an article."""
    text = (data / "wikitext-2/valid.txt").read_text("utf-8")
    yield from re.split(r"\n(?= = [^=\n]+ = \n)", text)
    text = (data / "tinyshakespeare/train.txt").read_text("utf-8")
    yield from (text[i : i + SCENES] for i in range(0, len(text), SCENES))
    for line in (data / "web-c4-demo/c4.jsonl").read_text("utf-8").splitlines():
        yield json.loads(line)["text"]


def pieces(texts: list[str]) -> list[str]:
    """All of one length; what is left over is dropped."""
    return [text[i : i + PIECE] for text in texts for i in range(0, len(text) - PIECE + 1, PIECE)]


def public(whole: bool) -> tuple[list[str], list[str]]:
    """What is learned from, and what is tested on."""
    data = Path(os.environ["MODELWRIGHT_DATA"])
    articles = [text for text in (whole_articles if whole else long_ones)(data) if text.strip()]
    apart = APART // 2 if whole else APART
    kept = pieces(articles[::apart]) if whole else articles[::apart]
    read = [text for text in [*dialogues(data), *sentences(data), *stories(data)] if text.strip()]
    read += [text for i, text in enumerate(articles) if i % apart]
    return read, kept


def questions(part: Part, count: int) -> Iterator[dict[str, str]]:
    """Those that the dialogue answers, as rows of a task."""
    for case in cases(0, part, count=count):
        for asked, answer in case.questions:
            if answer is not None:
                yield {"context": case.text, "question": asked, "answer": answer}


def main() -> None:
    out, kind = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    out.mkdir(parents=True, exist_ok=True)
    if kind == "questions":
        for part, count in QUESTIONS.items():
            rows = "".join(json.dumps(row) + "\n" for row in questions(part, count))
            (out / f"{part}.jsonl").write_text(rows, "utf-8")
        return
    if kind == "desk":
        read, kept = ([one.text for one in documents(0, part, count=n)] for part, n in DESK.items())
    else:
        read, kept = public(whole=kind == "long")
    for name, texts in (("train", read), ("test", kept)):
        (out / f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": text.strip()}) + "\n" for text in texts), "utf-8"
        )
        print(f"{name}: {len(texts):,} documents, {sum(map(len, texts)) / 1e6:.1f} million characters")


main()
