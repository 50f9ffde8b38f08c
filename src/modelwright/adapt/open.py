"""Open what a model's name may mean: a directory, a model of the hub, or an adapter with the base that it belongs to.

An adapter directory is PEFT's, and beside its two files `modelwright.json` says which base it was trained on, by
digest: an adapter on another base computes something, and nobody would notice.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from modelwright import __version__
from modelwright.adapt import peft
from modelwright.adapt.lora import LoRA, LoRALinear
from modelwright.adapt.prompt import SoftPrompt, soft_ids
from modelwright.data.kind import Task
from modelwright.data.prompt import Prompter, starts
from modelwright.hub import open as hub
from modelwright.hub.open import LanguageModel
from modelwright.model.checkpoint import read_json, replacing, write_json
from modelwright.model.config import SPAN
from modelwright.model.heads import Scored, relabel
from modelwright.model.transformer import Config, Labels, Transformer

RECORD = "modelwright.json"
REWARD = "reward.safetensors"  # the head of a reward model, beside its body
DIGESTED = ("model*.safetensors", "tokenizer.json", "config.json", peft.WEIGHTS, peft.CONFIG, REWARD)
HABITS = (
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
)  # how it is asked, and where it ends
CHUNK = 1 << 20  # bytes read at once


def digest(directory: str | Path, also: tuple[str, ...] = ()) -> str:
    """sha256 of what makes a model directory the model it is: weights, tokenizer and config; of an adapter directory
    its two files and the base's digest in its record; and of the files named in `also`, such as `HABITS`.

    Raises FileNotFoundError where none of those files is there.
    """
    directory = Path(directory)
    files = sorted(path for pattern in (*DIGESTED, *also) for path in directory.glob(pattern) if path.is_file())
    if not files:
        raise FileNotFoundError(f"{directory} holds neither a model nor an adapter")
    found = hashlib.sha256()
    for path in files:
        found.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                found.update(chunk)
    if is_adapter(directory):
        found.update(str(read_record(directory).get("base", {}).get("digest")).encode())
    return found.hexdigest()


def is_adapter(path: str | Path) -> bool:
    """Whether a path is an adapter directory."""
    return (Path(path).expanduser() / peft.CONFIG).is_file()


def versions() -> dict[str, str]:
    """What a file was made with."""
    return {"modelwright": __version__, "torch": version("torch"), "python": platform.python_version()}


# -- opening ----------------------------------------------------------------------------------------------


def open_model(path: str | Path, *, dtype: torch.dtype | None = None, base: str | Path | None = None) -> LanguageModel:
    """Open a model directory, a model of the hub, or an adapter directory: then the model is its base, adapted.

    An adapter's base is found by the name in its files: as it stands there, from the adapter's own directory, or on the
    hub; `base` names another place for it. Its digest must be the recorded one; an adapter without a record, as PEFT
    writes them, is compared by its shapes alone.

    Raises what `hub.open.load` raises, and ValueError for an adapter that is not for this base.
    """
    if not is_adapter(path):
        return hub.load(path, dtype=dtype)
    directory = Path(path).expanduser()
    adapter, record = peft.read(directory), read_record(directory)
    lm = hub.load(_base(adapter, record, base), dtype=dtype)
    _compare(directory, record, lm)
    model = peft.put_on(_labelled(lm.model, record, adapter), adapter)
    return replace(lm, model=model.eval(), path=directory)


class Shape(NamedTuple):
    """What `open_model` would open, without its weights."""

    config: Config
    family: str
    added: int = 0  # numbers that an adapter brings beside its base's
    source: str | None = None  # of a preset: who published it, and how many parameters it was said to have


def shape(path: str | Path) -> Shape:
    """The shape of a model directory, a model of the hub, or an adapter's base. Raises as `open_model` does."""
    if not is_adapter(path):
        return Shape(*hub.shape(path))
    directory = Path(path).expanduser()
    adapter = peft.read(directory)
    base = hub.shape(_base(adapter, read_record(directory), None))
    return Shape(*base, added=sum(tensor.numel() for tensor in adapter.tensors.values()))


def open_reward(path: str | Path) -> tuple[LanguageModel, Scored]:
    """A reward model as `modelwright align reward` wrote it: its body, adapted or not, and the body under its head.

    Raises what `open_model` raises, and ValueError where there is no such head.
    """
    directory = Path(path).expanduser()
    if not (directory / REWARD).is_file():
        raise ValueError(f"{directory} has no {REWARD}, so it is no reward model: make one (modelwright align reward)")
    lm, head = open_model(directory), load_file(directory / REWARD)
    scored = Scored(lm.model, torch.Generator())
    with torch.no_grad():
        scored.score.weight.copy_(head["weight"][None])
        scored.score.bias.copy_(head["bias"])
    return lm, scored.eval().requires_grad_(False)


def _base(adapter: peft.Adapter, record: Mapping[str, Any], said: str | Path | None) -> str | Path:
    """Where the base is: a directory that exists, or else a name for the hub."""
    if said is not None:
        return said
    beside = record.get("base", {}).get("beside")  # survives a move of both
    places = [adapter.directory / name for name in (adapter.base, beside) if name]  # an absolute name stays itself
    if found := next((place for place in places if place.is_dir() and not is_adapter(place)), None):
        return found
    if not adapter.base:
        raise ValueError(
            f"{adapter.directory / peft.CONFIG} does not name the adapter's base: set base_model_name_or_path"
        )
    if Path(adapter.base).is_absolute():
        raise FileNotFoundError(f"the base of the adapter in {adapter.directory} is gone: there is no {adapter.base}; "
                                f"set base_model_name_or_path in its {peft.CONFIG} to where it is now")  # fmt: skip
    return adapter.base


def _compare(directory: Path, record: Mapping[str, Any], lm: LanguageModel) -> None:
    wanted = record.get("base", {}).get("digest")
    if wanted is None:
        return
    assert lm.path is not None
    if (found := digest(lm.path)) != wanted:
        raise ValueError(
            f"the adapter in {directory} was trained on another base than {lm.path}: its record says sha256 "
            f"{wanted[:12]}…, and that model has {found[:12]}…; open it with the base it was trained on"
        )


def _labelled(model: Transformer, record: Mapping[str, Any], adapter: peft.Adapter) -> Transformer:
    """The base with the head over labels that the adapter was trained with, whose weights the adapter itself brings."""
    said, task = record.get("labels"), adapter.config.get("task_type")
    if said is None and task == peft.LABELLED["span"] and model.cfg.shape == "encoder":
        said = asdict(SPAN)
    if said is None and model.cfg.labels is None and task in peft.LABELLED.values():
        raise _unnamed(model, adapter)
    if said is None or model.cfg.labels is not None:
        return model
    labelled = relabel(model, Labels(tuple(said["names"]), said["each"]), torch.Generator())
    if lacking := peft.lacking(labelled, "head.", adapter):
        raise ValueError(f"{adapter.directory / peft.WEIGHTS} lacks {lacking[0]}, a weight of the head over its labels")
    return labelled


def _unnamed(model: Transformer, adapter: peft.Adapter) -> ValueError:
    """PEFT's files hold the weights of a head over labels, and neither the labels nor the layers below that are new."""
    why = f"the adapter in {adapter.directory} is for a head over labels (task_type {adapter.config['task_type']})"
    if model.cfg.shape != "encoder":
        return ValueError(f"{why}, which a {model.cfg.shape} has not here: tune it to answer with the label as text")
    return ValueError(
        f"{why}, and its files do not name the labels: merge it by peft (merge_and_unload, save_pretrained) into a "
        "model directory whose config.json does (id2label), and open that"
    )


def read_record(directory: Path) -> dict[str, Any]:
    """What modelwright.json says of an adapter; empty where there is none."""
    path = directory / RECORD
    found = read_json(path) if path.is_file() else {}
    if not isinstance(found.get("base", {}), dict):
        raise ValueError(f"{path}: base must be an object with a name and a digest")
    return found


# -- saving -----------------------------------------------------------------------------------------------


def save_adapter(
    lm: LanguageModel,
    cfg: LoRA | SoftPrompt,
    directory: str | Path,
    *,
    base: str,
    base_digest: str,
    lineage: Mapping[str, Any] | None = None,
    also: Callable[[Path], None] = lambda work: None,
) -> None:
    """Write the adapter that `lm.model` has, in the files of PEFT, and what it was trained on.

    base: the directory or the hub's name of the model that was adapted; base_digest: its `digest`, taken before.
    lineage: what else is to be kept (contract, seeds, data). also: writes further files beside them. An adapter that
    stands there is replaced.

    Raises FileExistsError where `directory` holds anything else, ValueError where the model has no such adapter.
    """
    directory = Path(directory).expanduser().resolve()
    if directory.exists() and not is_adapter(directory) and any(directory.iterdir()):
        raise FileExistsError(f"{directory} exists and is no adapter directory: choose another")
    local = Path(base).expanduser()
    name = str(local.resolve()) if local.is_dir() else base  # PEFT would look from wherever it is started
    said: dict[str, Any] = {"name": name, "digest": base_digest}
    if local.is_dir():
        said["beside"] = os.path.relpath(local.resolve(), directory)
    with replacing(directory) as work:
        peft.write(lm.model, cfg, work, name)
        method = "lora" if isinstance(cfg, LoRA) else "prompt"
        record = {"base": said, "method": {"name": method, **asdict(cfg)}, "versions": versions(), **(lineage or {})}
        if (labels := lm.model.cfg.labels) is not None:
            record["labels"] = {"names": list(labels.names), "each": labels.each}
        write_json(work / RECORD, record)
        also(work)


def method(lm: LanguageModel) -> str:
    """What an open model was adapted by: "lora", "prompt", or "" for a plain one."""
    if soft_ids(lm.model):
        return "prompt"
    return "lora" if any(isinstance(module, LoRALinear) for module in lm.model.modules()) else ""


def prompter_of(task: Task, lm: LanguageModel) -> Prompter:
    """What makes the prompts of a task for an open model."""
    cfg = lm.model.cfg
    return Prompter(
        task, lm.tokenizer, cfg.shape, (cfg.encoder or cfg).context, soft=soft_ids(lm.model),
        start=starts(lm.generation), longest=None if cfg.unbounded else cfg.context, types=cfg.types,
    )  # fmt: skip
