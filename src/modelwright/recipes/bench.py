"""`modelwright bench serve --url URL`: load for any server that speaks OpenAI's API, and how it bore it.

    1. ask the server for its model; 2. draw prompts and lengths from a seed; 3. a few requests that are not counted;
    4. send by a Poisson process or at a fixed concurrency, reading streams; 5. report, after Ctrl-C what there is.

Left out: prompts from data sets, many servers, closed connections on purpose.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import httpx2
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from modelwright.recipes.flags import parse
from modelwright.recipes.load import (
    PERCENTILES,
    Answer,
    Client,
    arrivals,
    arrive,
    asks,
    keep,
    look,
    memory,
    resident,
    summary,
)

AT_ONCE = 8  # requests under way where no load is said
ANSWER = 60.0  # seconds that a server may take to list its models
NAMES = {
    "ttft": "time to first token",
    "tpot": "time per token after it",
    "itl": "between two pieces of text",
    "e2e": "the whole request",
    "late": "sent later than planned",
}


@dataclass(frozen=True)
class Bench:
    """Load a server that speaks OpenAI's API, and report times, throughput, errors and memory."""

    what: Annotated[Literal["serve"], tyro.conf.Positional, tyro.conf.arg(metavar="serve")]
    """What is measured: a server."""
    url: str = "http://127.0.0.1:8000"
    """Where it listens."""
    model: str | None = None
    """The served model's name; left out, the first that the server lists."""
    key: str | None = None
    """Sent as the bearer token; better kept in the environment, as MODELWRIGHT_KEY."""
    route: Literal["completions", "chat"] = "completions"
    """Which of the two is asked."""
    rate: float | None = None
    """Requests that arrive in a second, by a Poisson process."""
    concurrency: int | None = None
    """Requests that are always under way, instead; 8 where neither is said."""
    requests: int = 64
    """How many are sent."""
    input: str = "32,512"
    """A prompt's length in words, least and most; the server counts its tokens."""
    output: str = "16,256"
    """Tokens that may follow (max_tokens), least and most; the model may end before."""
    ignore_eos: bool = False
    """Ask for all these tokens (`ignore_eos`), where the server knows how."""
    seed: int = 0
    """Of prompts, lengths and arrivals."""
    warm: int = 4
    """Requests that are sent before, and not counted."""
    ttft: str | None = None
    """Goodput counts requests whose first token comes within this: 0.5s, 200ms."""
    tpot: str | None = None
    """And whose further tokens come within this each."""
    timeout: float = 600.0
    """Seconds without a byte after which a request has failed."""
    pid: int | None = None
    """The server's process on this machine, to watch its memory."""
    json: bool = False
    """One JSON object in the place of the tables; times in seconds, memory in bytes."""


def main(args: list[str]) -> int:
    o = parse(Bench, args, "modelwright bench")
    check(o)
    limits = {"ttft": limit(o.ttft, "ttft"), "tpot": limit(o.tpot, "tpot")}
    answers: list[Answer] = []
    seen: list[int] = []
    interrupted = False
    try:
        asyncio.run(run(o, answers, seen))
    except KeyboardInterrupt:
        interrupted = True
    told = {**planned(o), **summary(answers, **limits), "memory": memory(seen), "interrupted": interrupted}
    print(json.dumps(told)) if o.json else show(told, Console(highlight=False))
    return 130 if interrupted else 0


def check(o: Bench) -> None:
    """Raises ValueError for a load that cannot be sent."""
    if o.rate is not None and o.concurrency is not None:
        raise ValueError(
            "say either --rate, requests that arrive by chance, or --concurrency, requests always under way"
        )
    for name, least in (("requests", 1), ("concurrency", 1), ("warm", 0), ("seed", 0)):
        if (value := getattr(o, name)) is not None and value < least:
            raise ValueError(f"--{name} must be at least {least}, not {value}")
    if (o.rate is not None and not 0 < o.rate < float("inf")) or not o.timeout > 0:
        raise ValueError("--rate and --timeout must be above 0")
    length(o.input, "input"), length(o.output, "output")
    if o.pid is not None:
        resident(o.pid)


def length(text: str, flag: str) -> tuple[int, int]:
    """'32,512' -> (32, 512), and '64' -> (64, 64)."""
    found = re.fullmatch(r"([0-9]+)(?:,([0-9]+))?", text)
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= least <= most:
        raise ValueError(f"--{flag} must be a length or a range of lengths of at least 1, as 32,512, not {text!r}")
    return least, most


def limit(text: str | None, flag: str) -> float | None:
    """'0.5s' -> 0.5, and '200ms' -> 0.2."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)(ms|s)", text)
    if not found or not (seconds := float(found[1]) / (1000 if found[2] == "ms" else 1)):
        raise ValueError(f"--{flag} must be a time such as 0.5s or 200ms, not {text!r}")
    return seconds


def planned(o: Bench) -> dict[str, Any]:
    """The load, as it was asked for."""
    load = {"rate": o.rate} if o.rate is not None else {"concurrency": o.concurrency or AT_ONCE}
    said = {name: getattr(o, name) for name in ("url", "route", "input", "output", "seed")}
    return {**said, **load, "planned": o.requests}


# -- the run -------------------------------------------------------------------------------------


async def run(o: Bench, answers: list[Answer], seen: list[int]) -> None:
    """Send everything; what is answered is in `answers`, and the server's memory in `seen`, whenever this ends."""
    key = o.key or os.environ.get("MODELWRIGHT_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    base, unbounded = re.sub(r"(/v1)?/?$", "", o.url), httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=base, headers=headers, timeout=o.timeout, limits=unbounded) as http:
        more = {"ignore_eos": True} if o.ignore_eos else {}
        client = Client(http, await served(http, o), o.route == "chat", more)
        await warm_up(o, client)
        async with watching(o.pid, seen):
            with progress(o.requests, answers) as done:
                await send_all(o, client, done)


async def served(http: httpx2.AsyncClient, o: Bench) -> str:
    """The model's name. Raises ValueError where no server answers, or it has no models."""
    try:
        response = await http.get("/v1/models", timeout=ANSWER)
        response.raise_for_status()
        names = [str(model["id"]) for model in response.json()["data"]]
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise ValueError(f"{o.url} lists no models (GET /v1/models): {str(error) or type(error).__name__}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{o.url} does not list its models as OpenAI's API does (GET /v1/models)") from error
    if o.model is None and not names:
        raise ValueError(f"{o.url} serves no model")
    if o.model is not None and o.model not in names:
        raise ValueError(f"{o.url} serves no model {o.model!r}: it has {', '.join(names)}")
    return o.model or names[0]


async def warm_up(o: Bench, client: Client) -> None:
    """Requests that are not counted. Raises ValueError where none of them is answered: then nothing would be."""
    todo = asks(o.warm, length(o.input, "input"), length(o.output, "output"), seed=o.seed + 2**32)
    found: list[Answer] = []
    await keep(client.send, todo, AT_ONCE, found.append)
    if found and all(answer.error for answer in found):
        raise ValueError(
            f"{o.url} answers no request: {' '.join([found[0].error or '', *found[0].said.split()])[:500]}"
        )


async def send_all(o: Bench, client: Client, done: Callable[[Answer], None]) -> None:
    todo = asks(o.requests, length(o.input, "input"), length(o.output, "output"), o.seed)
    if o.rate is not None:
        await arrive(client.send, todo, arrivals(o.requests, o.rate, o.seed), done)
    else:
        await keep(client.send, todo, o.concurrency or AT_ONCE, done)


@asynccontextmanager
async def watching(pid: int | None, seen: list[int]) -> AsyncIterator[None]:
    """Look at the server's memory until the end, and then once more."""
    if pid is None:
        yield
        return
    task = asyncio.create_task(look(pid, seen))
    try:
        yield
    finally:
        task.cancel()
        with suppress(ValueError):  # it may be gone
            seen.append(resident(pid))


@contextmanager
def progress(total: int, answers: list[Answer]) -> Iterator[Callable[[Answer], None]]:
    """A bar on standard error; what is yielded takes each answer into `answers`."""
    shown = (
        TextColumn("requests"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[bad]}"),
    )
    with Progress(*shown, console=Console(stderr=True)) as bar:
        task, bad = bar.add_task("", total=total, bad=""), 0

        def done(answer: Answer) -> None:
            nonlocal bad
            answers.append(answer)
            bad += answer.error is not None
            bar.update(task, advance=1, bad=f"{bad} failed" if bad else "")

        yield done


# -- the report ----------------------------------------------------------------------------------


def show(told: Mapping[str, Any], console: Console) -> None:
    for line in lines(told):
        console.print(line, markup=False, soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("milliseconds")
    for heading in ("mean", *(f"p{p}" for p in PERCENTILES)):
        table.add_column(heading, justify="right")
    for name, said in NAMES.items():
        if found := told[name]:
            table.add_row(said, *(f"{1000 * value:,.1f}" for value in found.values()))
    console.print(table)


def lines(told: Mapping[str, Any]) -> list[str]:
    """What is told beside the table of times."""
    load = f"{told['rate']:g} requests/s arriving" if "rate" in told else f"{told['concurrency']} under way"
    errors = ", ".join(f"{count} x {kind}" for kind, count in told["errors"].items()) or "none"
    found = [
        f"{told['url']}: {load}, prompts of {told['input']} words, {told['output']} tokens asked, seed {told['seed']}",
        f"requests: {told['completed']} of {told['planned']} completed in {told['seconds']:.1f} s; errors: {errors}"
        + "; interrupted" * told["interrupted"],
        f"throughput: {told['requests_per_second']:.2f} requests/s, {told['output_tokens_per_second']:.1f} tokens/s"
        f" written, {told['total_tokens_per_second']:.1f} with {told['prompt_tokens']:,} tokens of prompts",
    ]
    good, seen = told["goodput"], told["memory"]
    limits = [f"{NAMES[name]} {good[name]:g} s" for name in ("ttft", "tpot") if good[name] is not None]
    if limits:
        within = f"{good['requests_per_second']:.2f} requests/s, {good['share']:.1%} of those sent"
        found.append(f"goodput: {within}, kept to {', '.join(limits)}")
    if seen:
        start, most, end = (f"{seen[name] / 2**20:,.1f} MiB" for name in ("start", "max", "end"))
        found.append(
            f"server's memory: {start} at the start, {most} at most, {end} at the end: {seen['drift_percent']:+.2f}%"
        )
    return found
