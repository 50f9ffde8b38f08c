"""Requests sent to a server by a plan, what came back when, and what that says of the server.

Open: requests arrive by a Poisson process, its gaps exponential, whether or not earlier ones are answered.
Closed: so many are always under way, and an answer makes room for the next. Times are in seconds, of one clock.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

WORDS = """time year people way day man thing woman life child world school state family student group country problem
hand part place case week company system program question work government number night point home water room mother area
money story fact month lot right study book eye job word business issue side kind head house service friend father power
hour game line end member law car city community name team minute idea body back parent face others level office door
health person art war history party result change morning reason research girl guy moment air teacher force"""
PERCENTILES = (50, 95, 99)
PAGE = os.sysconf("SC_PAGE_SIZE")
EVERY = 0.5  # seconds between two looks at the server's memory


@dataclass(frozen=True)
class Ask:
    """A request to send: a prompt, and how many tokens may follow it."""

    prompt: str
    max_tokens: int


@dataclass
class Answer:
    """What came of a request. `pieces` are the times at which new text came; `error` is what kind of failure it was."""

    due: float  # when it was to be sent
    sent: float
    pieces: list[float] = field(default_factory=list)
    end: float = 0.0
    prompt_tokens: int = 0
    tokens: int = 0  # as the server counts them, or else the pieces
    error: str | None = None
    said: str = ""  # what the server said of a failure

    @property
    def first(self) -> float | None:
        """Time to first token."""
        return self.pieces[0] - self.sent if self.pieces else None

    @property
    def each(self) -> float | None:
        """Time per output token after the first."""
        return (self.pieces[-1] - self.pieces[0]) / (self.tokens - 1) if self.pieces and self.tokens > 1 else None


def asks(number: int, words: tuple[int, int], tokens: tuple[int, int], seed: int) -> list[Ask]:
    """Prompts of random words, so that none begins as another does; lengths are uniform, the ends included."""
    known = WORDS.split()
    draw = np.random.default_rng([seed, 0])
    lengths = draw.integers(*words, size=number, endpoint=True)
    wanted = draw.integers(*tokens, size=number, endpoint=True)
    return [
        Ask(" ".join(known[at] for at in draw.integers(len(known), size=length)), int(new))
        for length, new in zip(lengths, wanted, strict=True)
    ]


def arrivals(number: int, rate: float, seed: int) -> list[float]:
    """When each request arrives, by a Poisson process of `rate` a second."""
    times: list[float] = np.random.default_rng([seed, 1]).exponential(1 / rate, number).cumsum().tolist()
    return times


# -- sending -------------------------------------------------------------------------------------


@dataclass
class Client:
    """One way to ask a server: its address, the model, and which of the two routes."""

    http: httpx2.AsyncClient
    model: str
    chat: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)  # other fields of the body

    def body(self, ask: Ask) -> dict[str, Any]:
        said: dict[str, Any] = {"messages": [{"role": "user", "content": ask.prompt}]}
        asked = {"model": self.model, "max_tokens": ask.max_tokens, "temperature": 0, "stream": True}
        counted = {"stream_options": {"include_usage": True}}
        return {**asked, **counted, **(said if self.chat else {"prompt": ask.prompt}), **self.more}

    async def send(self, ask: Ask, due: float) -> Answer:
        """Send it, and read the stream to its end. What goes wrong is said in the answer, never raised."""
        answer = Answer(due, time.perf_counter())
        route = "/v1/chat/completions" if self.chat else "/v1/completions"
        try:
            async with self.http.stream("POST", route, json=self.body(ask)) as response:
                if response.status_code != 200:
                    answer.error, answer.said = str(response.status_code), (await response.aread()).decode()
                else:
                    await self.read(response, answer)
        except httpx2.TimeoutException:
            answer.error = "timeout"
        except httpx2.HTTPError as error:
            answer.error = type(error).__name__
        except (ValueError, LookupError, TypeError, AttributeError):
            answer.error = "unreadable answer"
        answer.end = time.perf_counter()
        return answer

    async def read(self, response: httpx2.Response, answer: Answer) -> None:
        answer.error = "cut off"
        async for line in response.aiter_lines():
            name, _, data = line.partition(":")
            if name == "data" and data.strip() == "[DONE]":
                answer.error = None  # read on to the end, or the connection could not be used again
            elif name == "data":
                event = json.loads(data)
                if event.get("error"):
                    answer.error = "error in the stream"
                    return
                self.note(event, answer)
        answer.tokens = answer.tokens or len(answer.pieces)

    def note(self, event: Mapping[str, Any], answer: Answer) -> None:
        for choice in event.get("choices") or []:
            if choice["delta"].get("content") if self.chat else choice["text"]:
                answer.pieces.append(time.perf_counter())
        if usage := event.get("usage"):
            answer.prompt_tokens, answer.tokens = usage["prompt_tokens"], usage["completion_tokens"]


Send = Callable[[Ask, float], Awaitable[Answer]]


async def arrive(send: Send, todo: Sequence[Ask], times: Sequence[float], done: Callable[[Answer], None]) -> None:
    """Send each at its time from now, whatever has become of the others."""
    start = time.perf_counter()

    async def one(ask: Ask, due: float) -> None:
        await asyncio.sleep(due - time.perf_counter())
        done(await send(ask, due))

    async with asyncio.TaskGroup() as group:
        for ask, at in zip(todo, times, strict=True):
            group.create_task(one(ask, start + at))


async def keep(send: Send, todo: Sequence[Ask], concurrency: int, done: Callable[[Answer], None]) -> None:
    """Keep so many under way until all are answered."""
    waiting = iter(todo)

    async def work() -> None:
        for ask in waiting:
            done(await send(ask, time.perf_counter()))

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(todo))):
            group.create_task(work())


# -- the server's memory -------------------------------------------------------------------------


def resident(pid: int) -> int:
    """Bytes of a process that are in memory. Raises ValueError where there is no such process, or no /proc."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        pages = 0
    if not pages:  # as one has that ended, and was not yet asked how
        raise ValueError(f"the memory of process {pid} cannot be read: is it the server's, on this machine?")
    return pages * PAGE


async def look(pid: int, seen: list[int]) -> None:
    """Note a process's memory again and again, until it has gone."""
    with suppress(ValueError):
        while True:
            seen.append(resident(pid))
            await asyncio.sleep(EVERY)


# -- what it says --------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Mean and percentiles (between two values, the straight line between them); None of nothing."""
    if not values:
        return None
    found = np.percentile(values, PERCENTILES).tolist()
    return {"mean": float(np.mean(values)), **{f"p{p}": value for p, value in zip(PERCENTILES, found, strict=True)}}


def summary(answers: Sequence[Answer], ttft: float | None = None, tpot: float | None = None) -> dict[str, Any]:
    """All that is reported. Throughput is over the time from the first sent to the last end.

    ttft, tpot: limits in seconds. Goodput counts only the requests that kept to those that are given.
    """
    good = [answer for answer in answers if answer.error is None]
    seconds = max((a.end for a in answers), default=0.0) - min((a.sent for a in answers), default=0.0)
    per = 1 / seconds if seconds else 0.0
    kept = [a for a in good if within(a.first, ttft) and within(a.each, tpot)]
    gaps = [b - a for answer in good for a, b in zip(answer.pieces, answer.pieces[1:], strict=False)]
    tokens, read = sum(a.tokens for a in good), sum(a.prompt_tokens for a in good)
    return {
        "requests": len(answers),
        "completed": len(good),
        "errors": dict(sorted(Counter(a.error for a in answers if a.error is not None).items())),
        "seconds": seconds,
        "prompt_tokens": read,
        "output_tokens": tokens,
        "requests_per_second": per * len(good),
        "output_tokens_per_second": per * tokens,
        "total_tokens_per_second": per * (tokens + read),
        "ttft": spread([a.first for a in good if a.first is not None]),
        "tpot": spread([a.each for a in good if a.each is not None]),
        "itl": spread(gaps),
        "e2e": spread([a.end - a.sent for a in good]),
        "late": spread([a.sent - a.due for a in answers]),
        "goodput": {"ttft": ttft, "tpot": tpot, "requests_per_second": per * len(kept), "share": share(kept, answers)},
    }


def within(value: float | None, limit: float | None) -> bool:
    """A limit that is not given is kept, and one of a time that there is not: one token has no time per token."""
    return limit is None or value is None or value <= limit


def share(kept: Sequence[Answer], answers: Sequence[Answer]) -> float:
    return len(kept) / len(answers) if answers else 0.0


def memory(seen: Sequence[int]) -> dict[str, float] | None:
    """Bytes at the start, at most and at the end, and how much more the end is than the start, in percent."""
    if not seen:
        return None
    drift = 100 * (seen[-1] - seen[0]) / seen[0]
    return {"start": seen[0], "max": max(seen), "end": seen[-1], "drift_percent": drift}
