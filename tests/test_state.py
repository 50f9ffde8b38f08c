"""Saving and going on: to the bit, from whatever a killed process left, and never from a damaged file."""

import errno
import json
import os
import random
import resource
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from modelwright.train import state
from modelwright.train.loop import Terms, fit, loss_scaler
from modelwright.train.optim import cosine, make
from modelwright.train.state import Damaged, NotSaved, latest, load, restore_model, restore_optimizer, save, sweep

V, C = 13, 8


class Toy(nn.Module):
    def __init__(self, seed: int = 0, dropout: float = 0.0, head_first: bool = False):
        super().__init__()
        torch.manual_seed(seed)
        hidden, embed, head = nn.Linear(C, C), nn.Embedding(V, C), nn.Linear(C, V, bias=False)
        head.weight = embed.weight
        for name, module in (("head", head), ("embed", embed)) if head_first else (("embed", embed), ("head", head)):
            setattr(self, name, module)
        self.hidden, self.dropout = hidden, nn.Dropout(dropout)
        self.register_buffer("scale", torch.full((), 0.5))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.dropout(torch.tanh(self.hidden(self.embed(tokens)))) * self.scale)


class Loader:
    """Eight batches an epoch, in an order of the epoch's own: its place is two numbers."""

    def __init__(self, epoch: int = 0, index: int = 0):
        self.epoch, self.index = epoch, index

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            order = torch.randperm(8, generator=torch.Generator().manual_seed(self.epoch))
            row = int(order[self.index])
            self.index += 1
            if self.index == 8:
                self.epoch, self.index = self.epoch + 1, 0
            yield torch.randint(V, (3, 5), generator=torch.Generator().manual_seed(100 + row))


def language(model: nn.Module, tokens: Tensor) -> tuple[Terms, dict[str, Any]]:
    logps = model(tokens).float().log_softmax(-1).gather(-1, tokens.roll(-1, 1)[..., None]).squeeze(-1)
    weight = (tokens > 3).float()
    return {"language": (-(logps * weight).sum(), weight.sum(), 1.0)}, {"noise": (random.random(), np.random.rand())}


class Run:
    """What a recipe is, as far as saving and going on are concerned."""

    def __init__(self, directory: Path, kind: Any, precision: Any, accumulate: int, dropout: float, seed: int):
        self.directory, self.precision, self.accumulate = directory, precision, accumulate
        self.model, self.loader = Toy(seed, dropout), Loader()
        self.optimizer = make(self.model, kind, 0.02)
        self.scaler = loss_scaler(precision, "cpu")
        if precision == "fp16":
            self.scaler.load_state_dict({**self.scaler.state_dict(), "scale": 2.0**21, "growth_interval": 3})
        self.log: list[dict[str, Any]] = []

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        optimizer = state.optimizer_tensors(self.model, self.optimizer)
        return {"model": state.model_tensors(self.model), "optimizer": optimizer}

    def go(self, start: int, steps: int, save_after: int = -1) -> None:
        def after(step: int, metrics: dict[str, Any]) -> None:
            self.log.append(metrics)
            if step + 1 == save_after:
                meta = {"loader": vars(self.loader), "rng": state.rng_state(), "scaler": self.scaler.state_dict()}
                save(self.directory, step + 1, self.tensors(), meta)

        fit(self.model, self.loader, language, self.optimizer, start=start, steps=steps, accumulate=self.accumulate,
            precision=self.precision, schedule=cosine(12, 2), scaler=self.scaler, after_step=after)  # fmt: skip

    def restore(self) -> int:
        checkpoint = load(self.directory)
        restore_model(self.model, checkpoint.tensors["model"])
        restore_optimizer(self.model, self.optimizer, checkpoint.tensors["optimizer"])
        self.loader = Loader(**checkpoint.meta["loader"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(checkpoint.meta["scaler"])
        state.restore_rng(checkpoint.meta["rng"])
        return checkpoint.step


@pytest.mark.parametrize("edge", [False, True], ids=["mid-epoch", "epoch-edge"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize(
    ("kind", "precision"), [("adamw", "fp32"), ("adamw", "bf16"), ("muon", "bf16"), ("adamw", "fp16")]
)
def test_resumed_is_uninterrupted_to_the_bit(
    tmp_path: Path, kind: Any, precision: Any, accumulate: int, dropout: float, edge: bool
) -> None:
    cut = {(1, False): 5, (1, True): 8, (4, False): 3, (4, True): 4}[accumulate, edge]
    whole = Run(tmp_path, kind, precision, accumulate, dropout, seed=1)
    whole.go(0, 12, save_after=cut)
    resumed = Run(tmp_path, kind, precision, accumulate, dropout, seed=2)
    torch.manual_seed(99)
    start = resumed.restore()
    assert start == cut
    assert (resumed.loader.index == 0) is edge
    resumed.go(start, 12)
    assert repr(resumed.log) == repr(whole.log[cut:])  # losses, norms, rates, random draws: equal, not close; NaN too
    assert len({metrics["loss"] for metrics in whole.log}) == 12
    assert {metrics["skipped"] for metrics in whole.log} == ({True, False} if precision == "fp16" else {False})
    for name, group in whole.tensors().items():
        assert group.keys() == resumed.tensors()[name].keys()
        assert all(torch.equal(tensor, resumed.tensors()[name][key]) for key, tensor in group.items())
    assert vars(whole.loader) == vars(resumed.loader)
    assert whole.scaler.state_dict() == resumed.scaler.state_dict()


def test_random_states_come_back(tmp_path: Path) -> None:
    def draw() -> tuple[Any, ...]:
        return torch.rand(3).tolist(), np.random.randn(3).tolist(), random.gauss(0, 1), random.random()

    random.gauss(0, 1), np.random.randn()  # both keep the second of a pair of normal draws for later
    save(tmp_path, 1, {}, state.rng_state())
    first = draw()
    assert draw() != first
    state.restore_rng(load(tmp_path).meta)
    assert draw() == first


# ---- tensors and their names


def test_files_are_safetensors(tmp_path: Path) -> None:
    tensors = {
        "flag": torch.tensor([True, False, True]),
        "half": torch.randn(3, 5).bfloat16(),
        "count": torch.tensor(7.0),
        "turned": torch.randn(4, 6).T,
        "empty": torch.zeros(0, 3),
        "wide": torch.randn(3, dtype=torch.float64),
        "ids": torch.arange(5),
    }
    path = save(tmp_path, 3, {"model": tensors, "optimizer": {}}, {"loader": {"row": 4}})
    read = load_file(path / "model.safetensors")
    checkpoint = load(tmp_path)
    assert (checkpoint.step, checkpoint.meta, checkpoint.tensors["optimizer"]) == (3, {"loader": {"row": 4}}, {})
    for name, tensor in tensors.items():
        for copy in (read[name], checkpoint.tensors["model"][name]):
            assert copy.dtype == tensor.dtype
            assert torch.equal(copy, tensor)
    raw = (path / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert length % 8 == 0
    for name, place in json.loads(raw[8 : 8 + length]).items():
        assert place["data_offsets"][0] % tensors[name].element_size() == 0
    with pytest.raises(ValueError, match=r"x has the type torch\.complex64"):
        save(tmp_path, 4, {"model": {"x": torch.zeros(1, dtype=torch.complex64)}}, {})


def test_tied_weights_are_saved_once_and_found_under_either_name() -> None:
    model, other = Toy(1), Toy(2, head_first=True)
    tensors = state.model_tensors(model)
    assert tensors.keys() == {"embed.weight", "hidden.weight", "hidden.bias", "scale"}
    assert state.model_tensors(other).keys() == {"head.weight", "hidden.weight", "hidden.bias", "scale"}
    restore_model(other, tensors)
    assert torch.equal(other.head.weight, model.embed.weight)
    assert other.head.weight is other.embed.weight


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_optimizer_state_goes_by_name(kind: Any) -> None:
    """A model that lists its parameters in another order continues as the first does."""
    model, other = Toy(1), Toy(2, head_first=True)
    optimizers = make(model, kind), make(other, kind)
    fit(model, Loader(), language, optimizers[0], steps=3)
    restore_model(other, state.model_tensors(model))
    restore_optimizer(other, optimizers[1], state.optimizer_tensors(model, optimizers[0]))
    for m, optimizer in zip((model, other), optimizers, strict=True):
        fit(m, Loader(), language, optimizer, steps=2)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


def test_what_does_not_fit_is_named() -> None:
    model = Toy()
    tensors = state.model_tensors(model)
    wrong = {"hidden.weight": torch.zeros(2), "more": torch.zeros(1), "embed.weight": tensors["embed.weight"]}
    before = model.hidden.weight.clone()
    with pytest.raises(ValueError, match="does not fit the model") as caught:
        restore_model(model, wrong)
    for part in ("hidden.bias is missing", "scale is missing", "more is unknown", "hidden.weight is (2,), not (8, 8)"):
        assert part in str(caught.value)
    assert torch.equal(model.hidden.weight, before)
    with pytest.raises(ValueError, match=r"more\.exp_avg is of nothing .*embed\.weight\.exp_avg is \(3,\)"):
        restore_optimizer(model, make(model), {"more.exp_avg": torch.zeros(1), "embed.weight.exp_avg": torch.zeros(3)})


# ---- which one is loaded, which are kept


def filled(step: int) -> dict[str, dict[str, Tensor]]:
    return {name: {"x": torch.full((300,), float(step)), "n": torch.tensor(step)} for name in ("model", "optimizer")}


def whole(checkpoint: state.Checkpoint) -> bool:
    """Every tensor and the rest are of one step, so no file is of another checkpoint, or half written."""
    groups = [group for group in checkpoint.tensors.values() if len(group["x"]) == 300]
    values = {float(value) for group in groups for value in (*group["x"], group["n"])}
    return len(groups) == 2 and values == {float(checkpoint.step)} == {float(checkpoint.meta["step"])}


def put(directory: Path, *steps: int, keep: int = 2) -> None:
    for step in steps:
        save(directory, step, filled(step), {"step": step}, keep=keep)


def there(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_the_newest_are_kept(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    with pytest.raises(FileNotFoundError, match="no checkpoint at all"):
        load(tmp_path)
    put(tmp_path, 5, 10, 100)
    assert there(tmp_path) == {"step-10", "step-100", "latest"}
    assert load(tmp_path).step == 100
    assert load(tmp_path, 10).step == 10
    with pytest.raises(FileNotFoundError, match=r"no step-5 in .*step-100, step-10"):
        load(tmp_path, 5)
    with pytest.raises(ValueError, match="keep"):
        put(tmp_path, 101, keep=0)


def test_a_run_taken_back_outdates_what_lay_ahead(tmp_path: Path) -> None:
    put(tmp_path, 10, 20, 30, keep=3)
    put(tmp_path, 15, keep=3)
    assert load(tmp_path).step == 15
    assert there(tmp_path) == {"step-10", "step-15", "step-30", "latest"}
    put(tmp_path, 15, 20)
    assert there(tmp_path) == {"step-15", "step-20", "latest"}


def test_the_order_of_the_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is on the disk before it has its name, and has its name before anything older goes."""
    put(tmp_path, 1)
    log: list[str] = []

    def spy(name: str, describe: Callable[..., str]) -> None:
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args: (log.append(f"{name} {describe(*args)}"), real(*args))[1])

    def plain(path: Any) -> str:
        return "temporary" if Path(path).name.startswith(".tmp-") else Path(path).name

    spy("fsync", lambda handle: plain(os.readlink(f"/proc/self/fd/{handle}")))
    spy("rename", lambda old, new: f"{plain(old)} {plain(new)}")
    spy("replace", lambda old, new: f"{plain(old)} {plain(new)}")
    put(tmp_path, 2, keep=1)
    files = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json", "latest", "temporary"]
    assert log == [
        *(f"fsync {file}" for file in files), "rename temporary step-2", f"fsync {tmp_path.name}",
        "replace latest latest", f"fsync {tmp_path.name}", "rename step-1 temporary",
    ]  # fmt: skip


# ---- damage

FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


def flip(path: Path, older: Path) -> None:
    data = bytearray(path.read_bytes())
    data[random.Random(path.name).randrange(len(data))] ^= 1 << 3
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path, Path], Any]] = {
    "truncated": lambda path, older: os.truncate(path, path.stat().st_size - 1),
    "emptied": lambda path, older: os.truncate(path, 0),
    "longer": lambda path, older: path.write_bytes(path.read_bytes() + b"\0"),
    "flipped": flip,
    "deleted": lambda path, older: path.unlink(),
    "zeroed": lambda path, older: path.write_bytes(bytes(path.stat().st_size)),
    "swapped": lambda path, older: shutil.copy(older, path),
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_before_a_tensor_is_opened(
    tmp_path: Path, file: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, 1, 2)
    DAMAGES[damage](tmp_path / "step-2" / file, tmp_path / "step-1" / file)
    opened: list[Path] = []
    monkeypatch.setattr(state, "load_file", lambda path: opened.append(path) or load_file(path))
    with pytest.raises(Damaged, match=f"step-2/{file} (is|belongs)"):
        load(tmp_path, 2)
    assert opened == []
    checkpoint = latest(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 1
    assert whole(checkpoint)
    assert f"step-2/{file}" in checkpoint.passed_over[-1]
    assert all("step-2" not in str(path) for path in opened)


def test_every_bit_of_a_manifest_counts(tmp_path: Path) -> None:
    put(tmp_path, 1)
    file = tmp_path / "step-1" / "manifest.json"
    raw = file.read_bytes()
    for index in range(0, len(raw) * 8, 7):
        data = bytearray(raw)
        data[index // 8] ^= 1 << index % 8
        file.write_bytes(data)
        with pytest.raises(Damaged, match=r"manifest\.json is damaged"):
            load(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "emptied", "flipped", "deleted", "zeroed"])
def test_a_damaged_pointer_is_said_and_the_newest_taken(tmp_path: Path, damage: str) -> None:
    put(tmp_path, 9, 10)
    assert latest(tmp_path).passed_over == ()  # type: ignore[union-attr]
    DAMAGES[damage](tmp_path / "latest", tmp_path / "latest")
    checkpoint = latest(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 10
    assert "latest is missing or damaged" in checkpoint.passed_over[0]


def test_nothing_left_is_an_error_that_names_every_file(tmp_path: Path) -> None:
    put(tmp_path, 1, 2)
    (tmp_path / "step-1" / "state.json").unlink()
    flip(tmp_path / "step-2" / "model.safetensors", tmp_path)
    with pytest.raises(Damaged, match=r"no checkpoint in .*step-2/model\.safetensors.*step-1/state\.json is missing"):
        latest(tmp_path)


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "FORMAT", 2)
    put(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(Damaged, match="has the format 2, and this version reads format 1"):
        load(tmp_path)


# ---- full disks and disks that lie


class Full:
    """A file on a disk with room for so many bytes."""

    def __init__(self, file: Any, room: int):
        self.file, self.room = file, room

    def write(self, data: Any) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "Full":
        return self

    def __exit__(self, *error: Any) -> None:
        self.file.close()


@pytest.mark.parametrize("room", [0, 500])
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, 1)
    before, open_file = there(tmp_path), Path.open

    def open_full(self: Path, mode: str = "r", **options: Any) -> Any:
        file = open_file(self, mode, **options)
        return Full(file, room) if "x" in mode else file

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(NotSaved, match=r"step 2 \(0\.0 MB\) could not .*No space left on device; step-1 still stands"):
        put(tmp_path, 2)
    monkeypatch.undo()
    assert there(tmp_path) == before
    assert whole(load(tmp_path))
    put(tmp_path, 2)
    assert load(tmp_path).step == 2


def test_a_limit_of_the_system_is_told_alike(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(NotSaved, match="File too large; no older one stands"):
            put(tmp_path, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert there(tmp_path) == set()


def test_a_disk_that_lies_is_found_out_before_the_old_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, 1)
    write = state._write_file

    def lie(path: Path, chunks: Any) -> Any:
        written = write(path, chunks)
        if path.name == "optimizer.safetensors":
            flip(path, path)
        return written

    monkeypatch.setattr(state, "_write_file", lie)
    with pytest.raises(NotSaved, match=r"optimizer\.safetensors is damaged.*step-1 still stands"):
        put(tmp_path, 2, keep=1)
    assert there(tmp_path) == {"step-1", "latest"}


# ---- death at any moment


def fork(child: Callable[[], None]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child touches no lock that another thread may hold
        pid = os.fork()
    if pid == 0:
        try:
            child()
        finally:
            os._exit(1)
    return pid


CALLS = ("fsync", "mkdir", "rename", "replace", "unlink", "rmdir")


def die_at(call: int, step: int, directory: Path) -> bool:
    """Save in a child that ends without a word before the call of this number -> whether it got that far."""

    def child() -> None:
        count = 0
        for name in CALLS:
            real = getattr(os, name)

            def counted(*args: Any, real: Any = real, **options: Any) -> Any:
                nonlocal count
                count += 1
                if count == call:
                    os._exit(9)
                return real(*args, **options)

            setattr(os, name, counted)
        save(directory, step, filled(step), {"step": step})
        os._exit(0)

    _, status = os.waitpid(fork(child), 0)
    assert os.waitstatus_to_exitcode(status) in (0, 9)
    return os.waitstatus_to_exitcode(status) == 9


@pytest.mark.parametrize("step", [2, 3])
def test_death_before_any_system_call(tmp_path: Path, step: int) -> None:
    """Step 3 is new and pushes step 1 out; step 2 is there already and is replaced."""
    call, seen = 1, set()
    while True:
        directory = tmp_path / str(call)
        put(directory, 1, 2)
        died = die_at(call, step, directory)
        checkpoint = latest(directory)
        assert checkpoint is not None
        assert whole(checkpoint)
        seen.add(checkpoint.step)
        assert all(whole(load(directory, int(name[5:]))) for name in there(directory) if name[5:].isdecimal())
        put(directory, 4)
        assert there(directory) <= {"step-2", "step-3", "step-4", "latest"}
        assert latest(directory).step == 4  # type: ignore[union-attr]
        if not died:
            break
        call += 1
    assert call > 10
    assert seen == {2, step}


@pytest.mark.slow
def test_fifty_kills_at_random_moments(tmp_path: Path) -> None:
    chance, reached = random.Random(0), 0
    put(tmp_path, 0)
    for _ in range(50):

        def child(first: int = reached + 1) -> None:
            for step in range(first, first + 1000):
                save(tmp_path, step, filled(step), {"step": step})

        pid, before = fork(child), there(tmp_path)
        while there(tmp_path) == before and chance.random() < 0.99:  # on a busy machine few children get far
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        checkpoint = latest(tmp_path)
        assert checkpoint is not None
        assert whole(checkpoint)
        assert checkpoint.step >= reached
        reached = checkpoint.step
    assert reached > 10
    sweep(tmp_path)
    assert all(name == "latest" or name.startswith("step-") for name in there(tmp_path))
