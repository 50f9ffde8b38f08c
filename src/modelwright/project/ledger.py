"""What was asked of the parts that decide, kept in the run directory: the same examples asked again are no new ones.

    compared.json    each comparison with a target on a part `decide`, and its share of the error
    opened.json      each model that a part `test` was opened for, by the digest of its files and how it was asked

What stands there costs nothing when it is asked again: a run that goes on, is replayed, or has another target.

The comparisons of the first run on a part share 3/4 of the error; those that the g-th run adds share 1/4 of it over
g (g - 1), so that all that are ever made share 1 (alpha spending: Lan and DeMets 1983). To count all and give each an
equal share would not do: the first run has spent the whole error by then, and three runs would err 1 + 1/2 + 1/3 times
as often as they say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelwright.evaluate.statistics import error_shares
from modelwright.recipes.watch import write_whole

COMPARED, OPENED = "compared.json", "opened.json"
FIRST = 0.75  # of the error, for what the first run compares


def allot(directory: Path, part: str, pairs: Sequence[str]) -> list[float]:
    """Of each comparison its share of the error, from 0 to 1: as it was allotted before, or of what this run has.

    part: digest of the part `decide`. pairs: what is compared, a digest each. New ones are written down at once.
    """
    kept = read(directory / COMPARED)
    here = [one for one in kept if one["decide"] == part]
    known = {one["pair"]: one["share"] for one in here}
    if new := [pair for pair in dict.fromkeys(pairs) if pair not in known]:
        run = 1 + max((one["run"] for one in here), default=0)
        known |= dict(zip(new, error_shares(len(new), allowance(run)), strict=True))
        kept += [{"decide": part, "run": run, "pair": pair, "share": known[pair]} for pair in new]
        write(directory / COMPARED, kept)
    return [known[pair] for pair in pairs]


def allowance(run: int) -> float:
    """What the comparisons that the run adds may spend of the error, from 1 on."""
    return FIRST if run == 1 else (1 - FIRST) / (run * (run - 1))


def earlier(directory: Path, part: str, pairs: Sequence[str]) -> int:
    """How many comparisons were allotted on this part that are not among these."""
    return sum(one["decide"] == part and one["pair"] not in pairs for one in read(directory / COMPARED))


def open_part(directory: Path, opening: Mapping[str, str]) -> int:
    """Write down, before it is measured, what a test part is opened for -> for how many it has been, this one too."""
    kept = read(directory / OPENED)
    if opening not in kept:
        kept.append(dict(opening))
        write(directory / OPENED, kept)
    return sum(one["test"] == opening["test"] for one in kept)


def read(path: Path) -> list[dict[str, Any]]:
    """Raises ValueError for a file that is not as it was written: what it said cannot be guessed."""
    wanted = {COMPARED: {"decide", "run", "pair", "share"}, OPENED: {"test", "model", "task"}}[path.name]
    if not path.exists():
        return []
    try:
        found: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))
        right = all(wanted <= one.keys() for one in found)
    except (ValueError, TypeError, AttributeError):
        right = False
    if not right:
        raise ValueError(f"{path} cannot be read, and says what was asked of the data before: name another --output")
    return found


def write(path: Path, said: Sequence[Mapping[str, Any]]) -> None:
    write_whole(path, json.dumps(said, indent=1) + "\n")
