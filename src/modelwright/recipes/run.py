"""A run that can be stopped at any moment and goes on to the bit: what is saved, when, and what is taken back."""

from __future__ import annotations

import fcntl
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from modelwright.adapt.swap import learned, restore_learned
from modelwright.train import state
from modelwright.train.interrupt import Interrupted, interruptible
from modelwright.train.loop import Diverged, Loss, Precision, Weigh, fit, loss_scaler

LOCK = ".lock"  # in a run directory
# What a run writes before its plan, with which it begins: what was killed until then leaves it.
EARLY = re.compile(r"tokenizer|shards|run\.yaml|\.(run\.yaml|plan\.json)\.[0-9a-f]{32}")


class Watcher(Protocol):
    """Who is told of every step; `tick` comes as it ends, `rest` after what was done between it and the next."""

    def tick(self) -> None: ...
    def step(self, done: int, metrics: dict[str, Any]) -> None: ...
    def rest(self) -> None: ...


class Rows(Protocol):
    """What a run is fed with, and can go back to a place in.

    One that cannot do so at all times has a property `resting`: the run is saved, and left, only where it is True.
    """

    def __iter__(self) -> Iterator[Any]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Run:
    """A model, its optimizer and its rows, on their way through `fit`, with checkpoints in `directory`.

    They hold the `whole` model, or only what is learned, where the rest stays as it was opened.
    """

    def __init__(
        self,
        directory: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loader: Rows,
        *,
        keep: int = 2,
        whole: bool = True,
    ):
        self.checkpoints, self.keep, self.whole = directory / "checkpoints", keep, whole
        self.model, self.optimizer, self.loader = model, optimizer, loader
        self.start = 0
        self.done = 0  # steps
        self.seconds = 0.0  # that earlier sittings took, testing and saving included
        self.tested: dict[str, float] = {}  # what the last test measured
        self.scaler: dict[str, Any] = {}  # the loss scaler's state, from a checkpoint

    def save(self, step: int, seconds: float, scaler: dict[str, Any]) -> None:
        tensors = {
            "model": state.model_tensors(self.model) if self.whole else learned(self.model),
            "optimizer": state.optimizer_tensors(self.model, self.optimizer),
        }
        meta = {
            "loader": self.loader.state_dict(),
            "random": state.rng_state(),
            "scaler": scaler,
            "tested": self.tested,
            "seconds": seconds,
        }
        state.save(self.checkpoints, step, tensors, meta, keep=self.keep)

    def restore(self) -> tuple[str, ...]:
        """Go back to the latest whole checkpoint, if there is one; answers why newer ones were passed over."""
        found = state.latest(self.checkpoints)
        if found is None:
            return ()
        (state.restore_model if self.whole else restore_learned)(self.model, found.tensors["model"])
        state.restore_optimizer(self.model, self.optimizer, found.tensors["optimizer"])
        state.restore_rng(found.meta["random"])
        self.loader.load_state_dict(found.meta["loader"])
        self.start = self.done = found.step
        self.seconds = found.meta["seconds"]
        self.tested, self.scaler = found.meta["tested"], found.meta["scaler"]
        return found.passed_over

    def fit(
        self,
        loss: Loss[Any],
        *,
        steps: int,
        accumulate: int,
        clip: float,
        precision: Precision,
        schedule: Callable[[int], float],
        test: Callable[[], dict[str, float]],
        test_every: int,
        save_every: int,
        watch: Watcher,
        weigh: Weigh[Any] | None = None,
    ) -> None:
        """Train from where the run stands to `steps`; test and save on the way, and save when a signal asks to stop.

        Where the loader does not rest, saving and stopping wait until it does. A step whose loss was no number is no
        occasion to save: the last good checkpoint stays the last. weigh: see `train.loop.fit`.
        Raises Interrupted after saving; Diverged, also where the last step was such a one; and NotSaved.
        """
        began = time.perf_counter() - self.seconds
        scaler = loss_scaler(precision, next(self.model.parameters()).device)
        if scaler.is_enabled() and self.scaler:
            scaler.load_state_dict(self.scaler)

        def save(done: int) -> None:
            self.seconds = time.perf_counter() - began
            self.save(done, self.seconds, scaler.state_dict())

        due = False  # to be saved, when the loader rests

        def after_step(step: int, metrics: dict[str, Any]) -> None:
            nonlocal due
            self.done = done = step + 1
            last = done == steps
            watch.tick()
            if last and not math.isfinite(metrics["loss"]):
                raise Diverged(f"the loss of the last step, {done}, is no finite number")
            if done % test_every == 0 or last:
                self.tested = test()
                metrics = metrics | self.tested
            watch.step(done, metrics)
            resting = getattr(self.loader, "resting", True)
            due = due or done % save_every == 0
            if last or (resting and ((due and not metrics["skipped"]) or interrupt.signal)):
                save(done)
            due = due and not resting
            if interrupt.signal and resting and not last:
                raise Interrupted(interrupt.signal)
            watch.rest()

        if self.start == 0:
            save(0)  # from the first moment on there is something to go back to
        with interruptible() as interrupt:
            fit(
                self.model, self.loader, loss, self.optimizer, steps=steps, start=self.start, accumulate=accumulate,
                clip=clip, precision=precision, schedule=schedule, after_step=after_step, scaler=scaler, weigh=weigh,
            )  # fmt: skip


def free(directory: Path) -> bool:
    """Whether a run may begin there: it is empty, or holds only what one left that was killed before it began."""
    names = {path.name for path in directory.iterdir()} if directory.exists() else set()
    return not names or (LOCK in names and all(map(EARLY.fullmatch, names - {LOCK})))


@contextmanager
def begun_in(directory: Path, sign: str) -> Iterator[None]:
    """A run directory for this process alone; made if need be, and as it was again where no run was begun, which the
    file `sign` in it would tell.

    What a killed run left there is not built on: its settings were others.
    """
    made = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    with alone_in(directory):
        clear(directory, sign)
        try:
            yield
        finally:
            clear(directory, sign)
            if not (directory / sign).exists():
                (directory / LOCK).unlink(missing_ok=True)
                if made:
                    shutil.rmtree(directory, ignore_errors=True)


def clear(directory: Path, sign: str) -> None:
    """Take away what comes before the run, where no run was begun."""
    if (directory / sign).exists():
        return
    for path in directory.iterdir():
        if EARLY.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Hold a run directory for this process. Raises ValueError where another one is at work in it."""
    with (directory / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is at work in {directory}: wait for it, or stop it") from None
        yield


class Ended(Exception):
    """A signal has stopped a command, and what there is to say of it was said; it exits with `code`."""

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


@contextmanager
def ending_well(command: str, directory: Path, sign: str, say: Callable[[str], None]) -> Iterator[None]:
    """Say how a run that is stopped, or finds no room, is gone on with by `command`; with a signal, raises Ended."""
    again = f"{command} --resume --output {directory}"
    try:
        yield
    except state.NotSaved as error:
        raise ValueError(f"{error}; make room, and go on with: {again}") from None
    except Interrupted as stop:
        say(f"{stop}; saved. Go on with: {again}")
        raise Ended(128 + stop.signal) from None
    except KeyboardInterrupt:  # not in training, which a signal leaves by way of a checkpoint
        kept = (directory / sign).exists()
        say(f"stopped. Go on with: {again}" if kept else "stopped before training began: nothing is kept")
        raise Ended(130) from None
