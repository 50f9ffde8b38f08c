"""`modelwright bench serve`: the figures by hand, the load as it arrives at a server whose delays are known."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from rich.console import Console
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from modelwright.recipes.bench import length, limit, main, show
from modelwright.recipes.load import Answer, Ask, arrivals, arrive, asks, look, memory, resident, spread, summary

ROOT = Path(__file__).parents[1]
FIRST, GAP = 0.05, 0.01  # seconds that the stub waits before its first piece, and between two


class Stub:
    """A server that speaks just enough of OpenAI's API, notes what it is asked, and can be told to fail."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.came: list[float] = []
        self.keys: set[str | None] = set()
        self.clients: set[Any] = set()
        self.now = self.most = 0
        self.faults: dict[int, str] = {}  # of the request with this number, what goes wrong
        self.usage = True

    async def models(self, request: Request) -> Response:
        self.keys.add(request.headers.get("authorization"))
        return JSONResponse({"object": "list", "data": [{"id": "stub"}, {"id": "other"}]})

    async def complete(self, request: Request) -> Response:
        self.came.append(time.perf_counter())
        self.clients.add(request.client)
        self.keys.add(request.headers.get("authorization"))
        asked = {**await request.json(), "path": request.url.path}
        fault = self.faults.get(len(self.asked))
        self.asked.append(asked)
        if fault in ("429", "500"):
            return PlainTextResponse("no", int(fault))
        return StreamingResponse(self.stream(asked, fault), media_type="text/event-stream")

    async def stream(self, asked: dict[str, Any], fault: str | None) -> AsyncIterator[str]:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(FIRST)
            chat = "messages" in asked
            for at in range(asked["max_tokens"]):
                if at:
                    await asyncio.sleep(GAP)
                yield event({"choices": [{"delta": {"content": "a"}} if chat else {"text": "a"}]})
                if fault == "error":
                    yield event({"error": {"message": "broken"}})
                if fault == "unreadable":
                    yield "data: {\n\n"
                if fault == "cut":
                    return
            if self.usage:
                words = len((asked["messages"][0]["content"] if chat else asked["prompt"]).split())
                yield event(
                    {"choices": [], "usage": {"prompt_tokens": words, "completion_tokens": asked["max_tokens"]}}
                )
            yield "data: [DONE]\n\n"
        finally:
            self.now -= 1


def event(said: dict[str, Any]) -> str:
    return f"data: {json.dumps(said)}\n\n"


@pytest.fixture
def stub() -> Iterator[Stub]:
    made = Stub()
    routes = [Route("/v1/models", made.models)]
    routes += [Route(path, made.complete, methods=["POST"]) for path in ("/v1/completions", "/v1/chat/completions")]
    config = uvicorn.Config(
        Starlette(routes=routes), port=0, log_level="error", ws="none", lifespan="off", log_config=None
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    made.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
    yield made
    server.should_exit = True
    thread.join()


def told(stub: Any, capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    assert main(["serve", "--url", stub.url, "--json", *flags]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


# -- by hand -------------------------------------------------------------------------------------


def test_percentiles_by_hand() -> None:
    assert spread([]) is None
    assert spread([3.0]) == {"mean": 3.0, "p50": 3.0, "p95": 3.0, "p99": 3.0}
    found = spread([float(value) for value in range(101)][::-1])  # 0 to 100: the percentile is the value
    assert found == pytest.approx({"mean": 50, "p50": 50, "p95": 95, "p99": 99})
    assert spread([1.0, 2.0, 3.0, 10.0]) == pytest.approx({"mean": 4, "p50": 2.5, "p95": 8.95, "p99": 9.79})


ANSWERS = [
    Answer(due=0.0, sent=0.0, pieces=[1.0, 1.5, 3.0], end=3.5, prompt_tokens=10, tokens=5),  # each: 2.0 / 4
    Answer(due=1.0, sent=1.5, pieces=[2.0, 3.0], end=4.0, prompt_tokens=20, tokens=2),  # each: 1.0
    Answer(due=2.0, sent=2.0, pieces=[2.25], end=2.5, prompt_tokens=30, tokens=1),  # one token has no time per token
    Answer(due=3.0, sent=3.0, end=10.0, error="429"),
    Answer(due=3.0, sent=3.0, pieces=[4.0], end=5.0, prompt_tokens=5, tokens=1, error="cut off"),
]


def test_a_summary_by_hand() -> None:
    found = summary(ANSWERS, ttft=0.6, tpot=0.9)
    assert (found["requests"], found["completed"], found["errors"]) == (5, 3, {"429": 1, "cut off": 1})
    assert (found["seconds"], found["prompt_tokens"], found["output_tokens"]) == (10.0, 60, 8)
    assert found["requests_per_second"] == pytest.approx(0.3)
    assert found["output_tokens_per_second"] == pytest.approx(0.8)
    assert found["total_tokens_per_second"] == pytest.approx(6.8)
    assert (found["ttft"]["mean"], found["ttft"]["p50"]) == (pytest.approx((1 + 0.5 + 0.25) / 3), 0.5)
    assert (found["tpot"]["mean"], found["itl"]["mean"]) == (0.75, 1.0)  # (0.5 + 1) / 2, (0.5 + 1.5 + 1) / 3
    assert found["e2e"]["p50"] == 2.5
    assert found["late"]["mean"] == pytest.approx(0.1)
    assert found["goodput"] == {"ttft": 0.6, "tpot": 0.9, "requests_per_second": pytest.approx(0.1), "share": 0.2}


@pytest.mark.parametrize(
    ("ttft", "tpot", "kept"), [(None, None, 3), (1.0, None, 3), (0.5, None, 2), (None, 0.5, 2), (0.1, 9.0, 0)]
)
def test_goodput_keeps_to_each_limit(ttft: float | None, tpot: float | None, kept: int) -> None:
    assert summary(ANSWERS, ttft, tpot)["goodput"]["share"] == kept / 5


def test_nothing_is_summed_up_too() -> None:
    found = summary([])
    assert (found["requests"], found["seconds"], found["requests_per_second"], found["ttft"]) == (0, 0.0, 0.0, None)
    assert found["goodput"]["share"] == 0.0
    assert memory([]) is None


def test_memory_by_hand() -> None:
    assert memory([200, 260, 250]) == {"start": 200, "max": 260, "end": 250, "drift_percent": 25.0}
    assert memory([200]) == {"start": 200, "max": 200, "end": 200, "drift_percent": 0.0}


def test_arrivals_are_the_seeds_and_a_poisson_process() -> None:
    assert arrivals(3, 2.0, 0) == pytest.approx(np.random.default_rng([0, 1]).exponential(0.5, 3).cumsum().tolist())
    assert arrivals(5, 2.0, 1) == arrivals(9, 2.0, 1)[:5] != arrivals(5, 2.0, 2)
    gaps = np.diff(arrivals(20_000, 4.0, 7), prepend=0.0)
    assert gaps.mean() == pytest.approx(0.25, rel=0.03)
    assert gaps.std() == pytest.approx(0.25, rel=0.03)  # as large as the mean, where the gaps are exponential
    assert (gaps > 0.25).mean() == pytest.approx(np.exp(-1), abs=0.015)


def test_asks_are_the_seeds_and_in_their_ranges() -> None:
    found = asks(400, (3, 9), (2, 4), seed=5)
    assert {len(ask.prompt.split()) for ask in found} == set(range(3, 10))
    assert {ask.max_tokens for ask in found} == {2, 3, 4}
    assert found == asks(400, (3, 9), (2, 4), seed=5)
    assert found != asks(400, (3, 9), (2, 4), seed=6)
    assert len({ask.prompt for ask in found}) > 395


# -- on a server ---------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["completions", "chat"])
def test_times_and_counts_of_a_server_whose_delays_are_known(stub: Any, capsys: Any, route: str) -> None:
    flags = ["--requests", "12", "--concurrency", "3", "--input", "5,9", "--output", "4,6", "--warm", "2"]
    found = told(stub, capsys, *flags, "--route", route, "--seed", "3")
    planned = asks(12, (5, 9), (4, 6), seed=3)
    assert len(stub.asked) == 14  # with those that are not counted
    counted = stub.asked[2:]
    said = [body["messages"][0]["content"] if route == "chat" else body["prompt"] for body in counted]
    assert Counter(said) == Counter(ask.prompt for ask in planned)
    assert {body["path"] for body in counted} == {"/v1/chat/completions" if route == "chat" else "/v1/completions"}
    for body in counted:
        assert (body["model"], body["stream"], body["temperature"]) == ("stub", True, 0)
        assert body["stream_options"] == {"include_usage": True}
        assert "ignore_eos" not in body
    tokens = sum(ask.max_tokens for ask in planned)
    assert (found["completed"], found["errors"], found["output_tokens"]) == (12, {}, tokens)
    assert found["prompt_tokens"] == sum(len(ask.prompt.split()) for ask in planned)
    assert (found["planned"], found["concurrency"], found["interrupted"]) == (12, 3, False)
    # A busy machine can only be slower than the stub's sleeps (which the loop's clock may cut by a tick); but pieces
    # that it reads late come close together, so between them there is no bound.
    assert min(found["ttft"].values()) > 0.9 * FIRST
    assert min(found["e2e"].values()) > 0.9 * (FIRST + 3 * GAP)
    assert found["e2e"]["mean"] > found["ttft"]["mean"]
    assert found["tpot"]["mean"] > 0 < found["itl"]["mean"]
    assert found["e2e"]["p50"] <= found["e2e"]["p95"] <= found["e2e"]["p99"] <= found["seconds"]
    assert found["output_tokens_per_second"] == pytest.approx(tokens / found["seconds"])
    assert found["memory"] is None


def test_a_fixed_concurrency_is_kept(stub: Any, capsys: Any) -> None:
    told(stub, capsys, "--requests", "15", "--concurrency", "5", "--output", "3", "--input", "2", "--warm", "0")
    assert stub.most == 5
    assert len(stub.clients) <= 5  # connections are used again


def test_requests_are_sent_at_their_times_whatever_is_under_way() -> None:
    sent: list[tuple[str, float, float]] = []
    answered: list[Answer] = []

    async def send(ask: Ask, due: float) -> Answer:
        sent.append((ask.prompt, due, time.perf_counter()))
        while len(sent) < 20:  # no answer before all have been sent
            await asyncio.sleep(0.001)
        return Answer(due, due)

    planned, start = arrivals(20, 100.0, 0), time.perf_counter()
    asyncio.run(arrive(send, [Ask(str(at), 1) for at in range(20)], planned, answered.append))
    assert sorted(int(prompt) for prompt, _, _ in sent) == [*range(20)]
    due = sorted(due for _, due, _ in sent)
    assert [at - due[0] for at in due] == pytest.approx([at - planned[0] for at in planned])
    assert due[0] >= start + planned[0]
    assert all(at >= due - 0.005 for _, due, at in sent)  # never before, but for a tick of the loop's clock
    assert len(answered) == 20


def test_a_rate_is_a_rate(stub: Any, capsys: Any) -> None:
    found = told(stub, capsys, "--requests", "20", "--rate", "50", "--output", "20", "--input", "2", "--warm", "0")
    assert stub.most > 5  # a fixed few would have waited for one another: each takes a quarter of a second
    assert (found["rate"], found["completed"]) == (50, 20)
    assert found["late"]["p50"] > -0.005
    assert "concurrency" not in found


def test_errors_are_counted_by_kind(stub: Any, capsys: Any) -> None:
    stub.faults = dict(enumerate(["429", "429", "500", "error", "cut", "unreadable"]))
    found = told(stub, capsys, "--requests", "9", "--concurrency", "1", "--output", "2", "--input", "1", "--warm", "0")
    assert found["errors"] == {
        "429": 2, "500": 1, "error in the stream": 1, "cut off": 1, "unreadable answer": 1,
    }  # fmt: skip
    assert (found["requests"], found["completed"], found["output_tokens"]) == (9, 3, 6)


def test_a_server_that_is_silent_too_long_has_failed(stub: Any, capsys: Any) -> None:
    flags = ["--requests", "2", "--output", "1", "--input", "1", "--warm", "0", "--timeout", "0.02"]
    assert told(stub, capsys, *flags)["errors"] == {"timeout": 2}


def test_without_usage_the_pieces_are_counted(stub: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELWRIGHT_KEY", "another")
    stub.usage = False
    flags = ["--requests", "2", "--output", "3", "--input", "1", "--warm", "0", "--ignore-eos", "--key", "k"]
    found = told(stub, capsys, *flags)
    assert (found["output_tokens"], found["prompt_tokens"]) == (6, 0)
    assert all(body["ignore_eos"] for body in stub.asked)
    assert stub.keys == {"Bearer k"}


def test_the_servers_memory_is_watched(stub: Any, capsys: Any) -> None:
    flags = ["--requests", "2", "--output", "2", "--input", "1", "--pid", str(os.getpid())]
    found = told(stub, capsys, *flags)["memory"]
    assert 2**20 < found["start"] <= found["max"]
    assert found["drift_percent"] == pytest.approx(100 * (found["end"] / found["start"] - 1))


def test_a_process_that_goes_is_no_longer_watched() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert resident(process.pid) > 0
        process.communicate(b"\n")
    seen: list[int] = []
    asyncio.run(look(process.pid, seen))
    assert seen == []
    with pytest.raises(ValueError, match=f"the memory of process {process.pid} cannot be read"):
        main(["serve", "--pid", str(process.pid)])


def obeying() -> None:
    """A process begun in the background of a shell ignores SIGINT, and so would its own; this one is not to."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_reports_what_there_is(stub: Any) -> None:
    words = [sys.executable, "-m", "modelwright.cli", "bench", "serve", "--url", stub.url, "--json"]
    flags = ["--requests", "100000", "--warm", "0", "--input", "1", "--output", "1", "--concurrency", "4"]
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen([*words, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env,
                          preexec_fn=obeying) as process:  # fmt: skip
        deadline = time.monotonic() + 60
        while len(stub.asked) < 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        try:
            out, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    found = json.loads(out)
    assert (process.returncode, found["interrupted"], found["planned"]) == (130, True, 100_000)
    assert 16 <= found["completed"] == found["requests"] <= len(stub.asked)  # four at most were under way
    assert found["errors"] == {}


def test_the_report_says_it_all(stub: Any, capsys: Any) -> None:
    flags = ["--url", stub.url, "--requests", "4", "--output", "3", "--input", "2", "--pid", str(os.getpid())]
    assert main(["serve", *flags, "--ttft", "60s", "--tpot", "1ms"]) == 0
    said = capsys.readouterr().out
    for words in (
        "8 under way, prompts of 2 words, 3 tokens asked, seed 0", "4 of 4 completed in", "errors: none",
        "time to first token", "time per token after it", "p99", "with 8 tokens of prompts",
        "goodput: 0.00 requests/s, 0.0% of those sent, kept to time to first token 60 s, time per token",
        "MiB at the start",
    ):  # fmt: skip
        assert words in said


def test_the_table_fits_a_narrow_terminal(capsys: Any) -> None:
    slow = [Answer(due=0.0, sent=0.0, pieces=[599.0, 1199.0], end=1799.0, tokens=2)]  # each time 599 s or more
    show({**summary(slow), "memory": None, "url": "u", "concurrency": 8, "input": "1", "output": "1", "seed": 0,
          "planned": 1, "interrupted": False}, Console(width=80))  # fmt: skip
    table = capsys.readouterr().out.splitlines()[3:]
    assert len(table) == 1 + 5
    assert table[-2].split()[-4:] == ["1,799,000.0"] * 4


# -- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--rate 1 --concurrency 2", "say either --rate"),
        ("--requests 0", "--requests must be at least 1, not 0"),
        ("--rate 0", "--rate and --timeout must be above 0"),
        ("--input 9,3", "--input must be a length or a range of lengths of at least 1, as 32,512, not '9,3'"),
        ("--output 0", "--output must be a length"),
        ("--ttft 5", "--ttft must be a time such as 0.5s or 200ms, not '5'"),
        ("--tpot 0s", "--tpot must be a time"),
        ("--url http://127.0.0.1:9", r"http://127.0.0.1:9 lists no models \(GET /v1/models\): "),
        ("--url nonsense", "nonsense lists no models"),
    ],
)
def test_mistakes_are_one_sentence(flags: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as told:
        main(["serve", *flags.split()])
    assert "\n" not in str(told.value)


def test_a_model_that_is_not_served_is_said(stub: Any) -> None:
    with pytest.raises(ValueError, match="serves no model 'mine': it has stub, other"):
        main(["serve", "--url", stub.url + "/v1/", "--model", "mine"])
    stub.faults = dict.fromkeys(range(4), "429")
    with pytest.raises(ValueError, match=r"answers no request: 429 no$"):
        main(["serve", "--url", stub.url])


def test_lengths_and_limits_are_read() -> None:
    assert (length("32,512", "input"), length("64", "input")) == ((32, 512), (64, 64))
    assert (limit("0.5s", "ttft"), limit("200ms", "ttft"), limit(".1s", "ttft"), limit(None, "ttft")) == (
        0.5,
        0.2,
        0.1,
        None,
    )
