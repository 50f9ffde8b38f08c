"""A run that can be stopped at any moment and goes on to the bit: what is saved, when, and what is taken back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modelwright.data.loader import Loader
from modelwright.train import state
from modelwright.train.interrupt import Interrupted, interruptible
from modelwright.train.loop import Loss, Precision, fit, loss_scaler


class Run:
    """A model, its optimizer and its rows, on their way through `fit`, with checkpoints in `directory`."""

    def __init__(
        self, directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer, loader: Loader, *, keep: int = 2
    ):
        self.checkpoints, self.keep = directory / "checkpoints", keep
        self.model, self.optimizer, self.loader = model, optimizer, loader
        self.start = 0
        self.tested: dict[str, float] = {}  # what the last test measured
        self.kept: dict[str, Any] = {}  # the loss scaler's state, from a checkpoint

    def save(self, step: int, scaler: dict[str, Any]) -> None:
        tensors = {
            "model": state.model_tensors(self.model),
            "optimizer": state.optimizer_tensors(self.model, self.optimizer),
        }
        meta = {
            "loader": self.loader.state_dict(),
            "random": state.rng_state(),
            "scaler": scaler,
            "tested": self.tested,
        }
        state.save(self.checkpoints, step, tensors, meta, keep=self.keep)

    def restore(self) -> tuple[str, ...]:
        """Go back to the latest whole checkpoint, if there is one; answers why newer ones were passed over."""
        found = state.latest(self.checkpoints)
        if found is None:
            return ()
        state.restore_model(self.model, found.tensors["model"])
        state.restore_optimizer(self.model, self.optimizer, found.tensors["optimizer"])
        state.restore_rng(found.meta["random"])
        self.loader.load_state_dict(found.meta["loader"])
        self.start, self.tested, self.kept = found.step, found.meta["tested"], found.meta["scaler"]
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
        watch: Callable[[int, dict[str, Any]], None],
    ) -> None:
        """Train from where the run stands to `steps`; test and save on the way, and save when a signal asks to stop.

        Raises Interrupted after such a save, Diverged, and NotSaved where a checkpoint could not be written.
        """
        scaler = loss_scaler(precision, next(self.model.parameters()).device)
        if self.kept:
            scaler.load_state_dict(self.kept)
        if self.start == 0:
            self.save(0, scaler.state_dict())  # from the first moment on there is something to go back to
        with interruptible() as interrupt:

            def after_step(step: int, metrics: dict[str, Any]) -> None:
                done, last = step + 1, step + 1 == steps
                if done % test_every == 0 or last:
                    self.tested = test()
                    metrics = metrics | self.tested
                watch(done, metrics)
                if done % save_every == 0 or last or interrupt.signal:
                    self.save(done, scaler.state_dict())
                if interrupt.signal and not last:
                    raise Interrupted(interrupt.signal)

            fit(
                self.model,
                self.loader,
                loss,
                self.optimizer,
                steps=steps,
                start=self.start,
                accumulate=accumulate,
                clip=clip,
                precision=precision,
                schedule=schedule,
                after_step=after_step,
                scaler=scaler,
            )
