"""A project written out again: every default said, every path absolute, so that it reads as the same from anywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic

from modelwright.data.named import absolute
from modelwright.data.task import FOUND, Task
from modelwright.project.ladder import RUNGS
from modelwright.project.spec import INPUTS, NOT_OF_A_BASE, SEAL, Project, seal
from modelwright.recipes.options import Pretrain


def resolved(project: Project) -> dict[str, Any]:
    """The project as a mapping that `parse_project` reads from anywhere: paths absolute, every default written out."""
    base = project.base and {
        key: value
        for key, value in pydantic.TypeAdapter(Pretrain).dump_python(project.base, mode="json").items()
        if key not in NOT_OF_A_BASE and value is not None
    }
    limits = {
        "time": project.limits.time and f"{project.limits.time}s",
        "memory": project.limits.memory and f"{project.limits.memory}B",
        "parameters": project.limits.parameters and str(project.limits.parameters),
        "latency": project.limits.latency and f"{project.limits.latency}s",
    }
    said: dict[str, Any] = {
        "name": project.name,
        "task": task_said(project.task),
        "metric": project.metric,
        "target": project.target,
        "limits": {key: value for key, value in limits.items() if value is not None},
        "candidates": [str(Path(name).resolve()) if Path(name).is_dir() else name for name in project.candidates],
        "ladder": list(project.ladder),
        "prompt": project.prompt,
        "tune": tuning_said(project.tune),
        "curve": list(project.curve),
        "confidence": project.confidence,
        "seed": project.seed,
    }
    said |= {"shots": project.shots} if "few-shot" in project.ladder else {}
    said |= {"choose": project.choose} if any(RUNGS[name].shots != "none" for name in project.ladder) else {}
    said |= {"align": project.align.said()} if project.align else {}
    if base:
        places = {"tokenizer": absolute(base["tokenizer"])} if base.get("tokenizer") else {}
        said["base"] = base | {"data": [d if d == INPUTS else absolute(d) for d in base["data"]]} | places
    return said


def replayable(project: Project, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The same with what a run recorded, sealed: run again, it makes the same bits, and edited it is refused."""
    said = resolved(project)
    return said | {"recorded": {**recorded, SEAL: seal(said, recorded)} if recorded else {}}


def tuning_said(tune: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: tuning_said(value) if isinstance(value, Mapping) else value for key, value in tune.items()}
    return found | ({"general": [absolute(d) for d in found["general"]]} if found.get("general") else {})


def task_said(task: Task) -> dict[str, Any]:
    """A task as `parse_task` reads it."""
    said = dataclasses.asdict(task) | {"decoding": task.decoding.said()}
    for name in FOUND:
        del said[name]
    for part in ("train", "select", "decide", "test"):
        if said["data"][part] is not None:
            said["data"][part] = absolute(said["data"][part])
    for place in (said, said["data"], said["decoding"]):
        for key in [key for key, value in place.items() if value is None]:
            del place[key]
    return {key: _plain(value) for key, value in said.items()}


def _plain(value: Any) -> Any:
    """Lists and dicts, which YAML can write."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
