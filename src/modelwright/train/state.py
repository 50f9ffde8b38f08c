"""Saving a run so that it goes on to the bit, and so that no crash, full disk or flipped bit goes unnoticed.

    checkpoints/latest                    the name of the newest checkpoint, replaced in one stroke
    checkpoints/step-N/model.safetensors  and optimizer.safetensors: tensors, by the parameters' names
    checkpoints/step-N/state.json         step, random states, the loader's place: what else the recipe hands over
    checkpoints/step-N/manifest.json      format, step, and the size and sha256 of every other file

A checkpoint is written under another name and renamed when all of it is on the disk, so whatever is called
`step-N` is whole; that it still is, its manifest proves before a tensor is opened. Nothing is ever unpickled.
"""

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

Groups = Mapping[str, Mapping[str, Tensor]]  # file -> name -> tensor
FORMAT = 1
MANIFEST, STATE, POINTER = "manifest.json", "state.json", "latest"
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class Damaged(ValueError):
    """A checkpoint, or every one that there is, is not what was saved; the sentence names the file."""


class NotSaved(OSError):
    """A checkpoint could not be written, for want of room perhaps. The older ones stand."""


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: `tensors` by file and name, and `meta` as it was handed over.

    `passed_over`: for each checkpoint that should have come first but could not be used, a sentence that says
    why.
    """

    path: Path
    step: int
    tensors: dict[str, dict[str, Tensor]]
    meta: dict[str, Any]
    passed_over: tuple[str, ...] = ()


def save(directory: Path, step: int, tensors: Groups, meta: Mapping[str, Any], keep: int = 2) -> Path:
    """Write `directory/step-N`, make it the latest, then delete all but the `keep` newest -> its path.

    meta: whatever JSON holds. A checkpoint of a later step, left by a run that was taken back to an earlier
    one, counts as older than this one.

    Raises NotSaved where it cannot be written (the older ones stand), ValueError for a tensor of a type that
    safetensors has no name for.
    """
    if keep < 1:
        raise ValueError(f"keep ({keep}) must be 1 or more, or the checkpoint just written would go")
    path, temporary = directory / f"step-{step}", directory / f".tmp-{uuid4().hex}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        sweep(directory)
        _write(temporary, step, tensors, meta)
        _verify(temporary, step)
        _place(temporary, path)
    except (OSError, Damaged) as error:
        raise NotSaved(_lost(directory, step, tensors, error)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in _order(directory)[keep:]:
        _delete(old)
    return path


def load(directory: Path, step: int | None = None) -> Checkpoint:
    """The checkpoint of this step, or the latest, verified file by file before any tensor is opened.

    Raises FileNotFoundError where there is none, and Damaged, naming the file, where it is not what was
    saved.
    """
    paths = _order(directory)
    wanted = [path for path in paths if step in (None, _step(path))]
    if not wanted:
        there = ", ".join(path.name for path in paths) or "no checkpoint at all"
        raise FileNotFoundError(
            f"there is no {'checkpoint' if step is None else f'step-{step}'} in {directory}: {there}"
        )
    return _open(wanted[0])


def latest(directory: Path) -> Checkpoint | None:
    """The latest checkpoint that is whole, or None where none was ever saved.

    What had to be passed over is in `.passed_over`, for the caller to print. Raises Damaged where nothing is
    left.
    """
    passed_over, paths = [], _order(directory)
    if paths and _pointed(directory) is None:
        passed_over.append(f"{directory / POINTER} is missing or damaged, or the checkpoint that it names is")
    for path in paths:
        try:
            return replace(_open(path), passed_over=tuple(passed_over))
        except Damaged as error:
            passed_over.append(str(error))
    if paths:
        raise Damaged(f"no checkpoint in {directory} can be used: {'; '.join(passed_over)}")
    return None


def sweep(directory: Path) -> None:
    """Clear away what a killed run left: temporary files, and the old twin of a checkpoint it was replacing."""
    for leftover in directory.glob(".tmp-*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    for old in directory.glob("step-*.old"):
        if (new := old.with_suffix("")).exists():
            _delete(old)
        else:
            old.rename(new)


# ---- a model's and an optimizer's tensors, by name


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer that a model saves; one with several names (tied) comes once, under the first."""
    return {name: tensor.detach() for name, tensor in _once(model).items()}


@torch.no_grad()
def restore_model(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy saved tensors into a model. Raises ValueError naming all that is missing, unknown or misshapen."""
    own = model.state_dict(keep_vars=True)
    covered = {id(own[name]) for name in tensors if name in own}
    wrong = [f"{name} is missing" for name, tensor in _once(model).items() if id(tensor) not in covered]
    wrong += [f"{name} is unknown" for name in tensors if name not in own]
    wrong += _misshapen(own, tensors)
    if wrong:
        raise ValueError(f"the checkpoint does not fit the model: {', '.join(wrong)}")
    for name, saved in tensors.items():
        own[name].copy_(saved)


def optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `<parameter>.<key>` -> tensor: the parameters' order does not matter."""
    return {
        f"{name}.{key}": torch.as_tensor(value)
        for name, p in model.named_parameters()
        for key, value in optimizer.state.get(p, {}).items()
    }


def restore_optimizer(model: nn.Module, optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Take saved state over, as copies. The rates are not among it: they come from how the optimizer was made.

    Raises ValueError that names what belongs to no parameter that the optimizer trains, or has another shape.
    """
    own = dict(model.named_parameters(remove_duplicate=False))
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    owners = {name: own.get(name.rpartition(".")[0]) for name in tensors}
    wrong = [f"{name} is of nothing that is trained" for name, p in owners.items() if id(p) not in groups]
    moments = {name: p for name, p in owners.items() if p is not None and tensors[name].ndim}
    wrong += _misshapen(moments, tensors)
    if wrong:
        raise ValueError(f"the checkpoint does not fit the optimizer: {', '.join(wrong)}")
    optimizer.state.clear()
    for name, p in owners.items():
        assert p is not None
        group, saved = groups[id(p)], tensors[name]
        counted_on_cpu = saved.ndim == 0 and not group.get("fused") and not group.get("capturable")
        optimizer.state[p][name.rpartition(".")[2]] = saved.to("cpu" if counted_on_cpu else p.device, copy=True)


def rng_state() -> dict[str, Any]:
    """The random states that nobody passes by hand, fit for JSON: torch (dropout), CUDA, numpy, Python."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "torch": _hex(torch.get_rng_state()),
        "cuda": [_hex(state) for state in cuda],
        "numpy": [str(kind), np.asarray(keys).tolist(), *rest],
        "python": [version, list(words), gauss],
    }


def restore_rng(state: Mapping[str, Any]) -> None:
    """Set the random states to what `rng_state` gave, those of GPUs where there are any."""
    torch.set_rng_state(_unhex(state["torch"]))
    for device in range(min(len(state["cuda"]), torch.cuda.device_count())):
        torch.cuda.set_rng_state(_unhex(state["cuda"][device]), device)
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))


def _once(model: nn.Module) -> dict[str, Tensor]:
    seen: dict[int, str] = {}
    own = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in own.items() if seen.setdefault(id(tensor), name) == name}


def _misshapen(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> list[str]:
    return [
        f"{name} is {tuple(saved[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in saved and saved[name].shape != tensor.shape
    ]


def _hex(state: Tensor) -> str:
    return bytes(state.tolist()).hex()


def _unhex(text: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)


# ---- which checkpoints there are


def _step(path: Path) -> int:
    return int(path.name.removesuffix(".old").removeprefix("step-"))


def _order(directory: Path) -> list[Path]:
    """The checkpoints, newest first: down from the one that `latest` names, then those of steps beyond it."""
    paths = [path for path in directory.glob("step-*") if re.fullmatch(r"step-\d+(\.old)?", path.name)]
    found = {_step(path): path for path in sorted(paths, reverse=True)}  # a twin `.old` gives way
    newest = _pointed(directory)
    steps = sorted(found, key=lambda step: (newest is not None and step > newest, -step))
    return [found[step] for step in steps]


def _pointed(directory: Path) -> int | None:
    """The step that `latest` names, if the manifest there is the one that it was written for."""
    if not (directory / POINTER).is_file():
        return None
    name, _, digest = (directory / POINTER).read_text(errors="replace").partition(" ")
    manifest = directory / name / MANIFEST
    if not re.fullmatch(r"step-\d+", name) or not manifest.is_file():
        return None
    return _step(manifest.parent) if f"{_digest(manifest.read_bytes())}\n" == digest else None


# ---- writing


def _write(path: Path, step: int, tensors: Groups, meta: Mapping[str, Any]) -> None:
    path.mkdir()
    files = {f"{name}.safetensors": _safetensors(group) for name, group in tensors.items()}
    files[STATE] = iter([json.dumps({"step": step, "meta": meta}).encode()])
    written = {name: _write_file(path / name, chunks) for name, chunks in files.items()}
    manifest = _manifest({"format": FORMAT, "step": step, "files": written})
    _write_file(path / MANIFEST, iter([manifest]))
    _write_file(path / POINTER, iter([f"step-{step} {_digest(manifest)}\n".encode()]))  # moved out by `_place`
    _sync(path)


def _safetensors(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The safetensors format, a tensor at a time, so that neither a GPU's nor the host's memory holds it twice.

    A JSON header behind its own length (8 bytes), then the tensors; the widest types first, so that each
    begins at a multiple of its width, as readers that map the file expect.
    """
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    header, end = {}, 0
    for name, tensor in ordered:
        if tensor.dtype not in DTYPES:
            raise ValueError(f"{name} has the type {tensor.dtype}, which a checkpoint cannot hold")
        begin, end = end, end + tensor.numel() * tensor.element_size()
        place = {"shape": list(tensor.shape), "data_offsets": [begin, end]}
        header[name] = {"dtype": DTYPES[tensor.dtype], **place}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in ordered:
        if tensor.numel():
            yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _write_file(path: Path, chunks: Iterator[bytes | memoryview]) -> dict[str, int | str]:
    """Write and sync a file -> its size and sha256, of what was meant, not of what the disk made of it."""
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return {"size": size, "sha256": digest.hexdigest()}


def _manifest(fields: Mapping[str, Any]) -> bytes:
    """The manifest's bytes; it holds its own digest too, so that no other file is blamed for a bit flipped in it."""
    body = json.dumps(fields, sort_keys=True)
    return json.dumps({**fields, "sha256": _digest(body.encode())}, indent=1, sort_keys=True).encode()


def _place(temporary: Path, path: Path) -> None:
    """Give a whole checkpoint its name, then `latest` to it. One of the same step stands aside meanwhile."""
    aside = path.with_name(f"{path.name}.old")
    if path.exists():
        path.rename(aside)
    temporary.rename(path)
    _sync(path.parent)
    os.replace(path / POINTER, path.parent / POINTER)
    _sync(path.parent)
    if aside.exists():
        _delete(aside)


def _delete(path: Path) -> None:
    """Take the name away first, so that a run killed meanwhile leaves no half checkpoint under it."""
    doomed = path.with_name(f".tmp-{uuid4().hex}")
    path.rename(doomed)
    shutil.rmtree(doomed)


def _sync(directory: Path) -> None:
    """Have the disk hold the names in a directory; fsync of a file only promises its contents."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _lost(directory: Path, step: int, tensors: Groups, error: Exception) -> str:
    size = sum(tensor.nbytes for group in tensors.values() for tensor in group.values())
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    left = _order(directory)
    stands = f"{left[0].name} still stands" if left else "no older one stands"
    what = f"the checkpoint of step {step} ({size / 1e6:.1f} MB)"
    return f"{what} could not be saved in {directory}: {reason}; {stands}"


# ---- reading


def _open(path: Path) -> Checkpoint:
    names = _verify(path, _step(path))
    state = json.loads((path / STATE).read_bytes())
    tensors = {name.removesuffix(".safetensors"): load_file(path / name) for name in names if name != STATE}
    return Checkpoint(path, state["step"], tensors, state["meta"])


def _verify(path: Path, step: int) -> list[str]:
    """Read every file and hold it against the manifest -> the files' names. Raises Damaged."""
    files = _read_manifest(path, step)["files"]
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            raise Damaged(f"{file} is missing")
        if file.stat().st_size != expected["size"]:
            raise Damaged(f"{file} is damaged: {file.stat().st_size} bytes instead of {expected['size']}")
        if _file_digest(file) != expected["sha256"]:
            raise Damaged(f"{file} is damaged: its sha256 is not the one that was saved")
    return list(files)


def _read_manifest(path: Path, step: int) -> dict[str, Any]:
    file = path / MANIFEST
    if not file.is_file():
        raise Damaged(f"{file} is missing")
    raw = file.read_bytes()
    try:
        fields: dict[str, Any] = json.loads(raw)
        whole = _manifest({key: value for key, value in fields.items() if key != "sha256"}) == raw
    except (ValueError, AttributeError):
        whole = False
    if not whole:
        raise Damaged(f"{file} is damaged: it does not agree with its own sha256")
    if fields["format"] != FORMAT:
        raise Damaged(f"{file} has the format {fields['format']}, and this version reads format {FORMAT}")
    if fields["step"] != step:
        raise Damaged(f"{file} belongs to step {fields['step']}, not to step {step}")
    return fields


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
