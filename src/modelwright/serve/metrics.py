"""What /metrics tells, in Prometheus' text format: counts, levels and histograms since the server began."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


@dataclass
class Histogram:
    """How many observations were at most so large, for each bound; the last counts what is beyond all of them."""

    bounds: tuple[float, ...] = SECONDS
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str) -> Iterator[str]:
        below = 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            below += count
            yield f'{name}_bucket{{le="{bound}"}} {below}'
        yield f"{name}_sum {self.total:.6f}"
        yield f"{name}_count {below}"


@dataclass
class Metrics:
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)  # by route and status
    prompt: int = 0  # tokens
    written: int = 0
    left: int = 0  # requests whose client went before the end
    first: Histogram = field(default_factory=Histogram)  # seconds to the first token
    each: Histogram = field(default_factory=Histogram)  # seconds to each token after it
    whole: Histogram = field(default_factory=Histogram)  # seconds of a request

    def text(self, levels: Mapping[str, float]) -> str:
        """levels: what is so now, by name."""
        return "\n".join([*self._lines(levels), ""])

    def _lines(self, levels: Mapping[str, float]) -> Iterator[str]:
        yield from described("requests_total", "counter", "requests, by route and status")
        for (route, status), count in sorted(self.requests.items()):
            yield f'modelwright_requests_total{{route="{route}",status="{status}"}} {count}'
        counts = {"prompt_tokens": (self.prompt, "tokens of prompts"),
                  "generated_tokens": (self.written, "tokens written"),
                  "abandoned_requests": (self.left, "requests whose client left before the end")}  # fmt: skip
        for name, (count, what) in counts.items():
            yield from described(f"{name}_total", "counter", what)
            yield f"modelwright_{name}_total {count}"
        for name, level in levels.items():
            yield from described(name, "gauge", name.replace("_", " "))
            yield f"modelwright_{name} {level}"
        times = {"time_to_first_token": (self.first, "from the request to its first token"),
                 "time_per_token": (self.each, "between two tokens of a choice"),
                 "request": (self.whole, "from the request to its end")}  # fmt: skip
        for name, (histogram, what) in times.items():
            yield from described(f"{name}_seconds", "histogram", what)
            yield from histogram.lines(f"modelwright_{name}_seconds")


def described(name: str, kind: str, what: str) -> Iterator[str]:
    yield f"# HELP modelwright_{name} {what}"
    yield f"# TYPE modelwright_{name} {kind}"
