"""Values as a project file says them: texts, numbers, limits with their units. ValueError names file and key."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from modelwright.data.named import known
from modelwright.plan.size import parse_count, parse_time
from modelwright.project.ladder import Limits

BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def mapping(said: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = said.get(key) or {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: {key} is {value!r}, and is to be a mapping, `key: value` each")
    return value


def text(said: Mapping[str, Any], key: str, where: str) -> str:
    value = said.get(key, "")
    if not isinstance(value, str):
        raise ValueError(f"{where}: {key} is {value!r}, and is to be a text")
    return value


def number(said: Mapping[str, Any], key: str, default: float, where: str) -> float:
    value = said.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int if isinstance(default, int) else int | float):
        raise ValueError(f"{where}: {key} is {value!r}, and is to be a {'whole ' * isinstance(default, int)}number")
    return value


def limits(said: Mapping[str, Any], where: str) -> Limits:
    readers = {"time": parse_time, "memory": parse_bytes, "parameters": parse_count, "latency": parse_latency}
    known(said, readers, f"{where}: limits")
    found = {}
    for key, value in said.items():
        try:
            found[key] = readers[key](str(value))
        except ValueError as error:
            raise ValueError(f"{where}: limits.{key}: {error}") from None
    return Limits(**found)  # type: ignore[arg-type]


def parse_bytes(said: str) -> int:
    """'8GB' -> 8_000_000_000; kB, MB, GB, TB, and with an i ('512MiB') powers of 1024. Raises ValueError."""
    found = re.fullmatch(r"([\d.]+)\s*([kmgt]?)(i?)b", said.strip().lower())
    trouble = f"cannot read {said!r} as an amount of memory: write 8GB, 512MB or 16GiB"
    if found is None or found[1].count(".") > 1 or not any(map(str.isdigit, found[1])):
        raise ValueError(trouble)
    unit = 1024 ** round(math.log(BYTES[found[2]], 1000)) if found[3] else BYTES[found[2]]
    if not (bytes_ := round(float(found[1]) * unit)):
        raise ValueError(trouble)
    return bytes_


def parse_latency(said: str) -> float:
    """'200ms' -> 0.2 seconds; or a time as '2s'. Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*ms", said.strip().lower())
    if found and float(found[1]) > 0:
        return float(found[1]) / 1000
    try:
        return parse_time(said)
    except ValueError:
        raise ValueError(f"cannot read {said!r} as a latency: write 200ms or 2s") from None
