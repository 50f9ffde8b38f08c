"""What clocks said of a run, by rung and candidate: what decided, and so an input of every replay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelwright.project.cache import Done
from modelwright.project.ladder import Cost


class Record:
    """What an earlier run recorded, and what this one does."""

    def __init__(self, earlier: Mapping[str, Any]):
        self.earlier = earlier
        self.said: dict[str, Any] = {}

    def of(self, rung: str, candidate: str) -> Mapping[str, Any]:
        """What the earlier run recorded of a step."""
        found: Mapping[str, Any] = self.earlier.get(f"{rung} {candidate}", {})
        return found

    def note(self, rung: str, candidate: str, what: str, value: Any) -> None:
        self.said.setdefault(f"{rung} {candidate}", {})[what] = value

    def settled(self, rung: str, candidate: str, limit: int | None = None) -> Mapping[str, Any]:
        """The settings that a clock decided."""
        found: Mapping[str, Any] = self.of(rung, limited(candidate, limit)).get("settled", {})
        return found

    def settle(self, rung: str, candidate: str, limit: int | None, settled: Mapping[str, Any]) -> None:
        self.note(rung, limited(candidate, limit), "settled", settled)

    def planned(self, rung: str, candidate: str) -> Mapping[str, Any] | None:
        said = self.of(rung, candidate)
        return {"cost": said["planned"], "seconds": said.get("planning", 0.0)} if "planned" in said else None

    def spent(self, rung: str, candidate: str, *done: Done | None) -> Cost:
        """What the steps of a rung took together; or what was recorded of them, which is what decided."""
        said = self.of(rung, candidate).get("actual")
        cost = Cost(said[0], int(said[1])) if said else together(*done)
        self.note(rung, candidate, "actual", list(cost))
        return cost


def together(*done: Done | None) -> Cost:
    """Seconds of all, and the most memory of any."""
    values = [one.value for one in done if one is not None]
    return Cost(sum(value["seconds"] for value in values), max(int(value["memory"]) for value in values))


def limited(candidate: str, limit: int | None) -> str:
    """What a candidate that was trained on a part of the examples is recorded under."""
    return candidate if limit is None else f"{candidate}/{limit}"
