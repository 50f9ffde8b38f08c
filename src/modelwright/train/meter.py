"""How fast a run goes, how much of the machine it uses, and how much memory it took."""

import resource
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import torch

# (m, k, n) of products such as small models make; a GPU needs larger ones to be kept busy
SHAPES = ((2048, 768, 3072), (8192, 320, 1280))
GPU_SHAPES = ((8192, 8192, 8192),)


class Meter:
    """Tokens a second, and model FLOPs utilisation: the FLOPs that the model needs for them, over the machine's peak.

    (Chowdhery et al. 2022, appendix B: recomputed work does not count.) flops: of one token, forward and
    backward. peak: FLOP/s, from `measure_peak`. Rates are of the last `window` steps, evaluation and saving
    left out.
    """

    def __init__(self, flops: float, peak: float, *, window: int = 20, clock: Callable[[], float] = time.perf_counter):
        self.flops, self.peak, self.clock = flops, peak, clock
        self.tokens = 0
        self.seconds = 0.0
        self._spans: deque[tuple[int, float]] = deque(maxlen=window)  # (tokens, seconds) of a step
        self._since = clock()

    def step(self, tokens: int) -> dict[str, float]:
        """A step over so many tokens, padding included, has ended -> the rates, and all tokens so far."""
        now = self.clock()
        self._spans.append((tokens, now - self._since))
        self.tokens, self.seconds = self.tokens + tokens, self.seconds + now - self._since
        self._since = now
        rate = sum(count for count, _ in self._spans) / max(1e-9, sum(seconds for _, seconds in self._spans))
        return {"tokens": self.tokens, "tokens_per_second": rate, "mfu": rate * self.flops / self.peak}

    def resume(self) -> None:
        """Leave out the time since the last step: call it after evaluating or saving."""
        self._since = self.clock()


def measure_peak(dtype: torch.dtype, device: torch.device | str = "cpu", seconds: float = 0.3) -> float:
    """The most FLOP/s that a matrix product of this type reaches here, tried for about `seconds`.

    A product of (m, k) and (k, n) is 2 m k n FLOPs. The fastest of all counts, since whatever else the
    machine does meanwhile can only lower the figure.
    """
    device = torch.device(device)
    shapes = GPU_SHAPES if device.type == "cuda" else SHAPES
    return max(2 * m * k * n / _fastest(m, k, n, dtype, device, seconds / len(shapes)) for m, k, n in shapes)


def _fastest(m: int, k: int, n: int, dtype: torch.dtype, device: torch.device, seconds: float) -> float:
    """The least time of one product, in seconds."""
    x, weight = torch.randn(m, k, device=device).to(dtype), torch.randn(n, k, device=device).to(dtype)
    out = torch.empty(m, n, dtype=dtype, device=device)  # kept: touching fresh pages takes time
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        torch.mm(x, weight.T, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def peak_memory(device: torch.device | str = "cpu") -> int:
    """The most bytes that this process has held so far: resident memory, or what torch allocated on a GPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would also count the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
