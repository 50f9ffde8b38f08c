"""Entities in tags: B-TYPE begins one, I-TYPE goes on with it, O is outside (IOB2, Ramshaw and Marcus 1995)."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Entity = tuple[int, int, str]  # first word, the word after the last, type


def entities(tags: Sequence[str]) -> list[Entity]:
    """['B-LOC', 'I-LOC', 'O', 'I-PER'] -> [(0, 2, 'LOC'), (3, 4, 'PER')].

    An I-TYPE that goes on with nothing, or with another type, begins an entity, as in CoNLL-2003's conlleval and in
    seqeval. Raises ValueError for a tag of another form.
    """
    return list(_entities(tags))


def _entities(tags: Sequence[str]) -> Iterator[Entity]:
    start, kind = 0, ""  # "" while outside
    for at, tag in enumerate([*tags, "O"]):  # one more, which ends what is open
        place, _, here = tag.partition("-")
        if place not in ("B", "I", "O") or (place == "O") == bool(here):
            raise ValueError(
                f"{tag!r} is no tag of an entity (B-TYPE, I-TYPE or O): for other tags take the metric accuracy"
            )
        if kind and (place != "I" or here != kind):
            yield start, at, kind
            kind = ""
        if place != "O" and not kind:
            start, kind = at, here


def entity_counts(prediction: Sequence[str], reference: Sequence[str]) -> NDArray[np.float64]:
    """(entities right, entities written, entities wanted): right are those with the same words and the same type.

    Raises ValueError where there are not as many tags as words.
    """
    if len(prediction) != len(reference):
        raise ValueError(
            f"{len(prediction)} tags were predicted for {len(reference)} words: there must be one for each"
        )
    written, wanted = set(entities(prediction)), set(entities(reference))
    return np.array([len(written & wanted), len(written), len(wanted)], np.float64)  # (3,)
