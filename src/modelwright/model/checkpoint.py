"""Model directories as Hugging Face lays them out: config.json, and weights as safetensors, in one file or in shards.

Reading: the header of every file is compared with the model that config.json describes before a single weight is
touched, and all that is wrong is said in one error. The weights are then mapped from the file, not copied, unless their
type or layout must change. Writing: into a directory beside the target, which takes its place when all is on the disk.

Nothing is ever unpickled, and no code from a model directory runs.
"""

import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from modelwright.model.families import family_of_config, family_of_model
from modelwright.model.family import Family, Name
from modelwright.model.transformer import Config, Transformer

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
FLOATS = ("F64", "F32", "F16", "BF16")  # as safetensors calls them
STALE = 3600  # seconds after which what a killed save was writing is swept away
EMBED, HEAD = "embed.tokens.weight", "head.proj.weight"


def load(directory: str | Path, dtype: torch.dtype = torch.float32) -> Transformer:
    """Open a model directory: the model in evaluation mode, its weights as `dtype`, on the CPU.

    Weights that are stored as `dtype` stay mapped to the file: they are read from the disk when first used, and written
    to by training without the file changing.

    Raises FileNotFoundError where a file is missing, and ValueError where one is damaged, pickled or of no known
    family, or where tensors are missing, extra or of another shape than config.json says (named in one sentence).
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"there is no directory {directory}")
    config = read_json(directory / CONFIG)
    family = family_of_config(config)
    stored = _stored(directory, family)
    cfg = _tie(family.read(config), family, stored)
    model = blank(cfg)
    places = {ours: family.place(ours, cfg) for ours, _ in model.named_parameters()}
    _compare(directory, model, places, family, stored)
    shapes = zip(places.values(), model.parameters(), strict=True)
    with ThreadPoolExecutor(4) as pool:  # most of the time is the system's, handing out pages
        for ours, tensor in zip(
            places, pool.map(lambda place: _fetch(place[0], place[1], stored, dtype), shapes), strict=True
        ):
            _put(model, ours, tensor)
    if cfg.tied:
        model.head.proj.weight = model.embed.tokens.weight
    return model.eval()


def shape(directory: str | Path) -> tuple[Config, str]:
    """The Config of a model directory and the name of its family, from config.json; no weights are read.

    Whether embedding and head are one is asked of the weights' files, where there are any. Raises as `load` does.
    """
    directory = Path(directory)
    config = read_json(directory / CONFIG)
    family = family_of_config(config)
    cfg = family.read(config)
    here = any((directory / name).exists() for name in (WEIGHTS, INDEX))
    return _tie(cfg, family, _stored(directory, family)) if here else cfg, family.model_type


def aside(directory: str | Path) -> list[str]:
    """The tensors of a model directory that `load` leaves aside: weights of parts that a Transformer has not."""
    directory = Path(directory)
    config = read_json(directory / CONFIG)
    family = family_of_config(config)
    found = sorted(name for name in _stored(directory, family) if _matches(family.aside, name))
    if not found:
        return []
    cfg = family.read(config)
    pieces = [piece for ours, p in blank(cfg).named_parameters() for piece, _ in family.place(ours, cfg).pieces(p)]
    read = {their for piece in pieces for their in piece.theirs}
    return [name for name in found if name not in read]  # a pooler is left aside only where there are no labels


def save(
    model: Transformer,
    directory: str | Path,
    *,
    extra: Mapping[str, Any] | None = None,
    shard_bytes: int = 5 * 2**30,
    overwrite: bool = False,
) -> None:
    """Write a model directory that transformers opens; `extra` goes into its config.json (ids of special tokens).

    Raises FileExistsError where `directory` exists and may not be replaced, and ValueError where no known family can
    hold such a model. A save that fails leaves what was there before.
    """
    with whole(directory, overwrite) as work:
        write(model, work, extra=extra, shard_bytes=shard_bytes)


def write(
    model: Transformer, directory: Path, *, extra: Mapping[str, Any] | None = None, shard_bytes: int = 5 * 2**30
) -> None:
    """Write config.json and the weights into an existing directory, as `save` does within a temporary one."""
    family = family_of_model(model.cfg)
    dtype = str(model.embed.tokens.weight.dtype).removeprefix("torch.")
    described = family.write(model.cfg) | {"dtype": dtype, "torch_dtype": dtype}
    write_json(directory / CONFIG, {**family.unsaid, **(extra or {}), **described})
    _write_weights(directory, _outgoing(model, family), shard_bytes)


# -- what a directory holds -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stored:
    """One tensor of a file: known by its header, not yet read. `piece`: of a stack of experts' matrices, which of them
    are several side by side, only the matrix of one expert, and of that the i-th of n.
    """

    file: Any  # an open safetensors file
    key: str
    piece: tuple[int, int, int] | None = None  # expert, i, n

    @property
    def shape(self) -> tuple[int, ...]:
        whole = tuple(self.file.get_slice(self.key).get_shape())
        return whole if self.piece is None else (whole[1] // self.piece[2], *whole[2:])

    @property
    def kind(self) -> str:
        return str(self.file.get_slice(self.key).get_dtype())

    def read(self) -> Tensor:
        tensor: Tensor = self.file.get_tensor(self.key)
        if self.piece is None:
            return tensor
        expert, i, n = self.piece
        return tensor[expert].chunk(n)[i]


def weight_files(names: Iterable[str], where: str) -> str:
    """Which of a directory's file names the weights begin with: the one file, or the index of the shards.

    Raises ValueError where there are only pickled weights, FileNotFoundError where there are none.
    """
    names = sorted(names)
    for name in (WEIGHTS, INDEX):
        if name in names:
            return name
    if pickles := [name for name in names if name.endswith(PICKLES)]:
        raise ValueError(
            f"{where} holds only pickled weights ({', '.join(pickles[:3])}), which can run code and are never opened: "
            "where you trust their author, convert them once with transformers, "
            "AutoModel.from_pretrained(...).save_pretrained(directory), and open that directory"
        )
    raise FileNotFoundError(f"{where} holds no weights: neither {WEIGHTS} nor {INDEX}")


def _stored(directory: Path, family: Family) -> dict[str, _Stored]:
    """Every tensor of the directory's weight files, by today's name."""
    files = [weight_files((path.name for path in directory.iterdir()), str(directory))]
    if files == [INDEX]:
        files = _shards(directory / INDEX)
    stored: dict[str, _Stored] = {}
    for name in files:
        file = _open(directory / name)
        for key in file.keys():  # noqa: SIM118, a safetensors file is no mapping
            today = family.today(key)
            if today in stored:
                raise ValueError(f"{directory / name} holds {today} a second time, as {key}")
            stored[today] = _Stored(file, key)
    for name, whole in list(stored.items()):
        if pieces := family.apart(name, whole.shape[0] if whole.shape else 0):
            del stored[name]
            stored |= {piece: _Stored(whole.file, whole.key, (e, i, n)) for piece, e, i, n in pieces}
    return stored


def _shards(index: Path) -> list[str]:
    """The files that an index names; all must lie beside it."""
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise ValueError(f"{index} has no weight_map: it does not say which file holds which tensor")
    files = sorted(set(map(str, named.values())))
    for file in files:
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise ValueError(f"{index} names {file!r}, which is no safetensors file beside it")
    return files


def _open(path: Path) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing, though {INDEX} names it")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or damaged ({error}): fetch or save it again") from error


# -- reading ----------------------------------------------------------------------------------------------


class _Undrawn(TorchFunctionMode):
    """Layers built under it draw no weights: on the meta device that would import torch's compiler, a second long."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def blank(cfg: Config) -> Transformer:
    """A model of shapes alone, on the meta device: its parameters have no memory until tensors are put in."""
    with torch.device("meta"), _Undrawn():
        return Transformer(cfg)


def _tie(cfg: Config, family: Family, stored: dict[str, _Stored]) -> Config:
    """`cfg`, with tied or not as the files have it; the second of two equal tensors is taken out of `stored`.

    A head that differs from the embedding is a head of its own, whatever config.json says: T5 v1.1 saved by
    transformers 5 says that it is tied.
    """
    if not cfg.tied:
        return cfg
    embed, head = (family.place(ours, cfg).theirs[0] for ours in (EMBED, HEAD))
    if head in stored and embed not in stored:
        stored[embed] = stored.pop(head)
    if head in stored and not torch.equal(stored[head].read(), stored[embed].read()):
        return replace(cfg, tied=False)
    stored.pop(head, None)
    return cfg


def _compare(
    directory: Path, model: Transformer, places: Mapping[str, Name], family: Family, stored: Mapping[str, _Stored]
) -> None:
    """One ValueError for all that is missing, too many, or other than the model's parameters."""
    missing, other, twice, wanted = [], [], [], set[str]()
    pieces = [piece for ours, p in model.named_parameters() for piece in places[ours].pieces(p)]
    for name, parameter in pieces:
        wanted.update(name.theirs)
        held = [stored[their] for their in name.theirs if their in stored]
        found = held[0] if held else None
        shape = _stored_shape(parameter.shape, name)
        copies = held[1:] if model.cfg.tied else []  # untied, the second of BERT's two biases is not used
        twice += [f"{held[0].key} and {copy.key}" for copy in copies if not torch.equal(held[0].read(), copy.read())]
        if found is None:
            missing.append(name.theirs[0])
        elif found.shape != shape:
            other.append(f"{found.key} is {found.shape}, not {shape}")
        elif found.kind not in FLOATS:
            other.append(f"{found.key} is {found.kind}, not floating-point")
    extra = [name for name in stored if name not in wanted and not _known(family, name, stored)]
    biased = [name for name in family.zeros if name in stored and stored[name].read().any()]
    faults = [_several(missing, "missing"), _several(extra, "extra"), _several(other, "unlike config.json"),
              _several(twice, "held twice and not alike"), _several(biased, "not 0 throughout")]  # fmt: skip
    if any(faults):
        raise ValueError(f"the weights in {directory} do not fit its {CONFIG}: {'; '.join(filter(None, faults))}")


def _stored_shape(shape: torch.Size, name: Name) -> tuple[int, ...]:
    whole = (*[1] * name.row, shape[0] * name.parts, *shape[1:])
    return whole[::-1] if name.turned else whole


def _known(family: Family, name: str, stored: Mapping[str, _Stored]) -> bool:
    """Whether a tensor may be passed over: computed, left aside, all 0, or the copy of another that it must equal."""
    if _matches(family.buffers + family.aside, name) or name in family.zeros:
        return True
    original = dict(family.copies).get(name, "")
    return original in stored and torch.equal(stored[name].read(), stored[original].read())


def _matches(patterns: Iterable[str], name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _several(names: list[str], fault: str) -> str:
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return f"{len(names)} {fault} ({shown})" if names else ""


def _fetch(name: Name, parameter: Tensor, stored: Mapping[str, _Stored], dtype: torch.dtype) -> Tensor:
    """Our tensor, put together where a file holds it in pieces."""
    pieces = [_fetch_piece(piece, stored, dtype) for piece, _ in name.pieces(parameter)]
    return torch.stack(pieces) if name.stacked else pieces[0]


def _fetch_piece(name: Name, stored: Mapping[str, _Stored], dtype: torch.dtype) -> Tensor:
    """Our tensor: only our part, as `dtype`, the right way round; the file's own memory where nothing had to change.

    Contiguous, since a fused optimiser would step through a strided view as if it were, and write into its neighbours.
    """
    tensor = next(stored[their] for their in name.theirs if their in stored).read()
    tensor = tensor[0] if name.row else tensor
    tensor = tensor.t() if name.turned and tensor.dim() == 2 else tensor
    each = len(tensor) // (name.groups * name.parts)
    part = tensor.reshape(name.groups, name.parts, each, *tensor.shape[1:])[:, name.part]  # (groups, each, ...)
    return part.flatten(0, 1).to(dtype).contiguous()


def _put(model: nn.Module, ours: str, tensor: Tensor) -> None:
    module, _, leaf = ours.rpartition(".")
    setattr(model.get_submodule(module), leaf, nn.Parameter(tensor))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; FileNotFoundError where there is none, ValueError where it holds anything else."""
    if not path.exists():
        inside = path.parent / "model"  # where a run keeps its model
        there = f"; say {inside}" if (inside / path.name).exists() else ""
        raise FileNotFoundError(f"{path} is missing: a model directory holds {CONFIG} and {WEIGHTS}{there}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not an object of settings")
    return value


# -- writing ----------------------------------------------------------------------------------------------


def _outgoing(model: Transformer, family: Family) -> dict[str, list[tuple[Name, Tensor]]]:
    """The pieces of each tensor to be written, under its name in a file. A tied head is written once, as embedding."""
    outgoing: dict[str, list[tuple[Name, Tensor]]] = {}
    for ours, parameter in model.named_parameters():
        for name, piece in family.place(ours, model.cfg).pieces(parameter):
            for their in name.theirs:
                outgoing.setdefault(their, []).append((name, piece))
    nothing = model.embed.tokens.weight.new_zeros(1, model.cfg.vocab)
    return outgoing | {their: [(Name(their, (their,)), nothing)] for their in family.zeros}


def _join(pieces: list[tuple[Name, Tensor]]) -> Tensor:
    """One tensor of the file, made of its parts in order. A copy where it is written under several names."""
    name = pieces[0][0]
    parts = [parameter.detach().cpu() for _, parameter in sorted(pieces, key=lambda piece: piece[0].part)]
    tensor = parts[0]
    if len(parts) > 1:
        rows = (part.reshape(name.groups, -1, *part.shape[1:]) for part in parts)
        tensor = torch.cat(list(rows), dim=1).flatten(0, 1)
    tensor = (tensor.t() if name.turned else tensor[None] if name.row else tensor).contiguous()
    return tensor.clone() if len(name.theirs) > 1 else tensor


def _write_weights(directory: Path, outgoing: Mapping[str, list[tuple[Name, Tensor]]], shard_bytes: int) -> None:
    """One file, or shards of at most `shard_bytes` and their index; never more than one shard in memory."""
    sizes = {their: sum(p.numel() * p.element_size() for _, p in pieces) for their, pieces in outgoing.items()}
    shards = _cut(sizes, shard_bytes)
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    names = names if len(shards) > 1 else [WEIGHTS]
    mode = stat.S_IMODE((directory / CONFIG).stat().st_mode)
    for name, shard in zip(names, shards, strict=True):
        save_file({their: _join(outgoing[their]) for their in shard}, directory / name, metadata={"format": "pt"})
        (directory / name).chmod(mode)  # the library's file is for its owner alone, whatever the umask
    if len(shards) > 1:
        where = {their: name for name, shard in zip(names, shards, strict=True) for their in shard}
        write_json(directory / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": where})


def _cut(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Names in order, cut into runs of at most `limit` bytes; a larger tensor stands alone."""
    shards: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if size > room or not shards:
            shards.append([])
            room = limit
        shards[-1].append(name)
        room -= size
    return shards


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def whole(directory: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary directory beside `directory`, which takes its place once the block has ended and all is on disk.

    Raises FileExistsError where `directory` exists: without `overwrite`, and always where it holds anything but a
    model, which is never deleted. Where the block fails, nothing is left behind and nothing is changed.
    """
    directory = Path(directory).resolve()
    _sweep(directory)
    _refuse_existing(directory, overwrite)
    with replacing(directory) as work:
        yield work


@contextmanager
def replacing(directory: Path) -> Iterator[Path]:
    """The same, whatever stands at `directory`: for callers who have looked at what it is."""
    directory = directory.resolve()
    directory.parent.mkdir(parents=True, exist_ok=True)
    _sweep(directory)
    work = directory.with_name(f".{directory.name}-{secrets.token_hex(4)}")
    work.mkdir()
    try:
        yield work
        for path in (*work.rglob("*"), work):
            _sync(path)
        _replace(directory, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _sweep(directory: Path) -> None:
    """Set right what a killed save left beside `directory`: half a new one goes, and what it had set aside comes back.

    Half a new one may be of a save that still runs: only one that nothing was added to for an hour is stale.
    """
    ours = re.compile(rf"\.{re.escape(directory.name)}-[0-9a-f]{{8}}(-old)?")
    for left in directory.parent.glob(".*"):
        if not (found := ours.fullmatch(left.name)):
            continue
        if found[1] and not _holds(directory):
            left.rename(directory)  # over an empty directory too
        elif found[1] or time.time() - left.stat().st_mtime > STALE:
            shutil.rmtree(left, ignore_errors=True)


def _holds(directory: Path) -> bool:
    return directory.exists() and not (directory.is_dir() and not any(directory.iterdir()))


def _refuse_existing(directory: Path, overwrite: bool) -> None:
    if not _holds(directory):
        return
    if fault := _unlike_a_model(directory):
        raise FileExistsError(f"{directory} exists and is no model directory ({fault}): choose another")
    if not overwrite:
        raise FileExistsError(f"{directory} already holds a model: choose another directory, or ask for overwriting")


def _unlike_a_model(directory: Path) -> str:
    """Why a directory must not be deleted as if it were a model, or nothing."""
    if not (directory / CONFIG).exists():
        return f"it has no {CONFIG}"
    try:
        named = "model_type" in read_json(directory / CONFIG)
    except ValueError:
        named = False
    if not named:
        return f"its {CONFIG} names no model_type"
    entries = sorted(directory.iterdir())
    if inner := next((path.name for path in entries if path.is_dir()), None):
        return f"it holds the directory {inner}"
    weights = any(path.name.endswith((".safetensors", *PICKLES)) for path in entries)
    return "" if weights else "it holds no weights"


def _replace(directory: Path, work: Path) -> None:
    """Put `work` where `directory` is; what was there goes once the new one stands."""
    old = work.with_name(f"{work.name}-old")
    if directory.exists():
        directory.rename(old)
    try:
        work.rename(directory)
    except OSError:
        if old.exists():
            old.rename(directory)
        raise
    _sync(directory.parent)  # or a power cut could keep the deletion and lose the renaming
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
