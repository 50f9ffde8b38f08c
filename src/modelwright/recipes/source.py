"""What to read, as the command line names it: files, folders, globs and URLs, or the embedded support desk."""

from collections.abc import Iterator, Sequence

from modelwright.data import desk, documents
from modelwright.data.documents import Document
from modelwright.plan.size import parse_count

DESK = 20_000  # dialogues, where the word stands without a number
HELD = 500  # dialogues to measure on, at most


def documents_of(data: Sequence[str], *, seed: int, column: str, separator: str) -> tuple[Iterator[Document], str]:
    """The documents, and a fingerprint that names them: the same only where the same texts come in the same order.

    Raises ValueError for a desk with a number that is none, or named beside other data; and what `documents.read` does.
    """
    if (count := desk_count(data)) is not None:
        return desk.documents(seed, "train", count=count), f"desk:{count}:{seed}"
    found = documents.read(list(data), column=column, separator=separator)
    return found, f"{documents.fingerprint(list(data))}:{column}:{separator}"


def texts_of(
    data: Sequence[str], *, seed: int, column: str = "text", separator: str = documents.SEPARATOR
) -> list[str]:
    """The texts to measure a model on, all in memory; of the desk, those that training never shows.

    Raises what `documents_of` does, and ValueError where there is no text.
    """
    count = desk_count(data)
    found = documents.read(list(data), column=column, separator=separator) if count is None else None
    some = desk.documents(seed, "valid", count=min(count or 0, HELD)) if found is None else found
    texts = [document.text for document in some]
    if not texts:
        raise ValueError(f"{', '.join(data)} holds no text")
    return texts


def desk_count(data: Sequence[str]) -> int | None:
    """How many dialogues `desk` or `desk:50k` asks for; None where the data are files.

    The word is never a folder, or what a command does would hang on where it is called: `./desk` is the folder.
    """
    named = [word for word in data if word.partition(":")[0] == "desk"]
    if not named:
        return None
    if len(data) > 1:
        raise ValueError(f"{named[0]} is the embedded desk and stands alone: a folder of that name is ./{named[0]}")
    _, colon, number = named[0].partition(":")
    return parse_count(number) if colon else DESK
