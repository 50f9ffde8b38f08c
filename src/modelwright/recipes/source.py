"""What to read, as the command line names it: files, folders, globs and URLs, or the embedded support desk."""

from collections.abc import Iterator, Sequence

from modelwright.data import desk, documents
from modelwright.data.documents import Document
from modelwright.plan.size import parse_count

DESK = 20_000  # dialogues, where the word stands without a number


def documents_of(data: Sequence[str], *, seed: int, column: str, separator: str) -> tuple[Iterator[Document], str]:
    """The documents, and a fingerprint that names them: the same only where the same texts come in the same order.

    Raises ValueError for a desk with a number that is none, or named beside other data; and what `documents.read` does.
    """
    if (count := desk_count(data)) is not None:
        return desk.documents(seed, "train", count=count), f"desk:{count}:{seed}"
    found = documents.read(list(data), column=column, separator=separator)
    return found, f"{documents.fingerprint(list(data))}:{column}:{separator}"


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
