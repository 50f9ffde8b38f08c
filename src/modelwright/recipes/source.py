"""What to read, as the command line names it: files, folders, globs and URLs, or the embedded support desk."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from modelwright.data import desk, documents
from modelwright.data.desk import tickets
from modelwright.data.documents import Document
from modelwright.data.named import DESK, EPISODES, GAPS, is_desk
from modelwright.plan.size import parse_count

HELD = 500  # dialogues to measure on, at most
MANY = {DESK: 20_000, EPISODES: 60_000, GAPS: 60_000}  # documents, where the word stands without a number


class Text(NamedTuple):
    documents: Iterator[Document]
    fingerprint: str  # the same only where the same texts come in the same order
    partly: bool = False  # some of it is only read, not learned


def documents_of(data: Sequence[str], *, seed: int, column: str, separator: str) -> Text:
    """The text that is named.

    Raises ValueError for a desk with a number that is none, or named beside other data; and what `documents.read` does.
    """
    if (found := desk_of(data)) is not None:
        word, count = found
        if word == DESK:
            return Text(desk.documents(seed, "train", count=count), f"{word}:{count}:{seed}")
        gaps = tickets.GAPS if word == GAPS else 0.0
        return Text(tickets.documents(seed, "train", count=count, gaps=gaps), f"{word}:{count}:{seed}", partly=True)
    texts = documents.read(list(data), column=column, separator=separator)
    return Text(texts, f"{documents.fingerprint(list(data))}:{column}:{separator}")


def texts_of(
    data: Sequence[str], *, seed: int, column: str = "text", separator: str = documents.SEPARATOR
) -> list[str]:
    """The texts to measure a model on, all in memory; of the desk, dialogues that training never shows.

    Raises what `documents_of` does, and ValueError where there is no text.
    """
    if (named := desk_of(data)) is not None:
        found = desk.documents(seed, "valid", count=min(named[1], HELD))
    else:
        found = documents.read(list(data), column=column, separator=separator)
    texts = [document.text for document in found]
    if not texts:
        raise ValueError(f"{', '.join(data)} holds no text")
    return texts


def desk_of(data: Sequence[str]) -> tuple[str, int] | None:
    """The word, such as `desk` or `desk+episodes`, and how many documents are asked for (`desk:50k`); None for files.

    The word is never a folder, or what a command does would hang on where it is called: `./desk` is the folder.
    """
    named = [word for word in data if is_desk(word)]
    if not named:
        return None
    if len(data) > 1:
        raise ValueError(f"{named[0]} is the embedded desk and stands alone: a folder of that name is ./{named[0]}")
    word, colon, number = named[0].partition(":")
    return word, parse_count(number) if colon else MANY[word]
