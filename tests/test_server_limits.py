"""Who may ask a server, how much and how long; what goes wrong in it, and how it stops."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from modelwright.hub.open import save
from modelwright.serve import server
from modelwright.serve.protocol import Refusal
from modelwright.serve.registry import Served
from served import Running, build, serving, until
from test_server import USER, events
from test_server import models as models

LONG = {"model": "chatty", "prompt": "the cat", "max_tokens": 200, "stop": None}


# -- who may ask -------------------------------------------------------------------------------------------------


def test_keys(models: list[Served]) -> None:
    with serving(models[:1], keys=("sesame", "other")) as running, httpx.Client(base_url=running.url) as http:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": "sesam"}, {"authorization": "sesame x"}):
            for route in ("/v1/models", "/metrics", "/docs", "/v1/models/chatty"):
                answer = http.get(route, headers=headers)
                assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
            assert http.post("/v1/completions", headers=headers, json={}).status_code == 401
        for headers in ({"authorization": "Bearer sesame"}, {"x-api-key": "other"}):
            assert http.get("/v1/models", headers=headers).status_code == 200
        assert http.get("/health").status_code == 200
        wrong = openai.OpenAI(base_url=f"{running.url}/v1", api_key="no", max_retries=0)
        with wrong as client, pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_origins(models: list[Served]) -> None:
    with serving(models[:1], origins=("https://a.example",)) as running, httpx.Client(base_url=running.url) as http:
        asks = {"origin": "https://a.example", "access-control-request-method": "POST"}
        answer = http.options("/v1/completions", headers={**asks, "access-control-request-headers": "x-api-key"})
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        other = http.options("/v1/completions", headers={**asks, "origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
        assert http.get("/v1/models", headers={"origin": "https://a.example"}).status_code == 200
        assert http.get("/v1/models", headers={"origin": "https://b.example"}).status_code == 403


# -- how much, how long ------------------------------------------------------------------------------------------


@pytest.fixture
def slow(models: list[Served]) -> Iterator[Running]:
    """One text at a time, two that may wait, a twentieth of a second for each token."""
    with serving(models[:1], slots=1, queue=2, grace=10) as running:
        engine = running.service.registry.engines["chatty"]
        step = engine.step

        def slowly() -> Any:
            time.sleep(0.05)
            return step()

        engine.step = slowly  # type: ignore[method-assign]
        yield running


def held(running: Running) -> int:
    scheduler = running.service.registry.engines["chatty"].scheduler
    return len(scheduler.running) + len(scheduler.waiting)


@pytest.mark.parametrize("stream", [True, False])
def test_whoever_leaves_frees_the_slot_within_two_steps(slow: Running, stream: bool) -> None:
    with httpx.Client(base_url=slow.url) as http:
        if stream:
            with http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as answer:
                next(answer.iter_raw())
                before = slow.service.worker.steps
        else:
            with pytest.raises(httpx.ReadTimeout):
                http.post("/v1/completions", json=LONG, timeout=0.3)
            before = slow.service.worker.steps
        until(lambda: held(slow) == 0, 2)
        assert slow.service.worker.steps - before <= 2
        assert slow.service.metrics.left == 1
        until(lambda: not slow.service.under_way, 2)


def test_what_is_too_much_is_refused_with_a_time_to_come_again(slow: Running) -> None:
    with ThreadPoolExecutor(3) as pool, httpx.Client(base_url=slow.url, timeout=30) as http:
        running = [pool.submit(http.post, "/v1/completions", json={**LONG, "max_tokens": 12}) for _ in range(3)]
        until(lambda: len(slow.service.under_way) == 3)
        answer = http.post("/v1/completions", json=LONG)
        assert (answer.status_code, answer.json()["error"]["type"]) == (429, "rate_limit_error")
        assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("1", "1000")
        assert http.get("/health").elapsed.total_seconds() < 0.2
        assert [one.result().status_code for one in running] == [200] * 3
        assert http.post("/v1/completions", json={**LONG, "n": 4}).status_code == 400


def test_a_request_has_an_end(models: list[Served]) -> None:
    with serving(models[:1], seconds=0.3) as running, httpx.Client(base_url=running.url) as http:
        engine = running.service.registry.engines["chatty"]
        step = engine.step
        engine.step = lambda: time.sleep(0.05) or step()  # type: ignore[method-assign, func-returns-value]
        assert http.post("/v1/completions", json=LONG).status_code == 503
        said = events(http.post("/v1/completions", json={**LONG, "stream": True}).text)
        assert (said[-2]["error"]["code"], said[-1]) == ("timeout", "[DONE]")
        until(lambda: held(running) == 0)


@contextmanager
def deaf(running: Running) -> Iterator[None]:
    """A client that asks for a stream of many megabytes and never reads."""
    body = json.dumps({**LONG, "n": 16, "likely": 50, "temperature": 1, "stream": True})
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", int(running.url.rsplit(":", 1)[1])))
        client.sendall(
            f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
        )
        until(lambda: running.service.under_way)
        yield


@pytest.mark.parametrize("limit", ["seconds", "HELD"])
def test_whoever_does_not_read_holds_no_place(models: list[Served], monkeypatch: Any, limit: str) -> None:
    """By the time that a request may take, or by what is kept of its answer."""
    if limit == "HELD":
        monkeypatch.setattr(server, "HELD", 20)

    def small(host: str, port: int) -> socket.socket:
        """Whose connections hold little of what is sent."""
        made = server.listening(host, port)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return made

    monkeypatch.setattr("served.listening", small)
    seconds = 3 if limit == "seconds" else 600
    with (
        serving(models[:1], slots=16, queue=0, seconds=seconds) as running,
        deaf(running),
        httpx.Client(base_url=running.url, timeout=20) as http,
    ):
        assert http.post("/v1/completions", json=LONG).status_code == 429
        until(lambda: not running.service.under_way)
        until(lambda: held(running) == 0)
        assert http.post("/v1/completions", json={**LONG, "max_tokens": 3}).status_code == 200


def test_hard_grammars_hold_up_nothing_else(models: list[Served], monkeypatch: Any) -> None:
    """They are built by threads of their own, of which few wait, and a request ends while its own is built."""
    go, built = threading.Event(), Served.grammar

    def slowly(self: Served, body: Any, ends: Any) -> Any:
        return (go.wait(20) and None) if body.held else built(self, body, ends)

    monkeypatch.setattr(Served, "grammar", slowly)
    monkeypatch.setattr(server, "BUILDS", 4)
    hard = {"model": "chatty", "messages": USER, "max_tokens": 3, "response_format": {"type": "json_object"}}
    with serving(models[:1], seconds=2) as running, httpx.Client(base_url=running.url, timeout=20) as http:
        with ThreadPoolExecutor(4) as pool:
            try:
                asked = [pool.submit(http.post, "/v1/chat/completions", json=hard) for _ in range(4)]
                until(lambda: len(running.service.building) == 4)
                refused = http.post("/v1/chat/completions", json=hard)
                assert (refused.status_code, "schema or tools" in refused.text) == (429, True)
                assert http.post("/v1/completions", json={**LONG, "max_tokens": 3}).status_code == 200
                assert [one.result().json()["error"]["code"] for one in asked] == ["timeout"] * 4
                assert not running.service.under_way
                assert len(running.service.building) == 2  # those that waited are not begun
            finally:
                go.set()
        until(lambda: not running.service.building)
        assert http.post("/v1/chat/completions", json=hard).status_code == 200


# -- what goes wrong, and the end --------------------------------------------------------------------------------


def test_a_fault_of_the_engine_ends_the_stream_with_an_error(models: list[Served], caplog: Any) -> None:
    with serving(models[:1]) as running, httpx.Client(base_url=running.url, timeout=20) as http:
        engine = running.service.registry.engines["chatty"]
        step, count = engine.step, iter(range(100))

        def failing() -> Any:
            if next(count) == 3:
                raise RuntimeError("/secret/path")
            return step()

        engine.step = failing  # type: ignore[method-assign]
        said = events(http.post("/v1/completions", json={**LONG, "stream": True}).text)
        assert said[-1] == "[DONE]"
        assert said[-2]["error"]["code"] == "internal_error"
        assert "secret" not in json.dumps(said)
        assert len(said) >= 3
        count = iter([3, *range(4, 100)])
        answer = http.post("/v1/completions", json=LONG)
        assert (answer.status_code, "secret" in answer.text) == (500, False)
        assert http.post("/v1/completions", json={**LONG, "max_tokens": 5}).status_code == 200
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key="no", max_retries=0) as client:
            count = iter([0, 1, 3, *range(4, 100)])
            with pytest.raises(openai.APIError, match="the server failed"):
                list(client.completions.create(model="chatty", prompt="the cat", max_tokens=50, stream=True))


def test_without_the_engines_thread_nothing_is_taken(models: list[Served]) -> None:
    with serving(models[:1]) as running, httpx.Client(base_url=running.url, timeout=20) as http:
        running.service.worker.stop()
        answer = http.post("/v1/completions", json=LONG)
        assert (answer.status_code, "start" in answer.json()["error"]["message"]) == (503, True)
        health = http.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "failed")
        assert not running.service.under_way


def test_draining_refuses_what_is_new_and_finishes_what_runs(slow: Running) -> None:
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=slow.url, timeout=30) as http:
        last = pool.submit(http.post, "/v1/completions", json={**LONG, "max_tokens": 20})
        until(lambda: held(slow) == 1)
        slow.server.handle_exit(signal.SIGTERM, None)
        assert http.get("/health").json()["status"] == "draining"
        answer = http.post("/v1/completions", json=LONG)
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        assert last.result().json()["usage"]["completion_tokens"] == 20
    slow.thread.join(5)
    assert not slow.thread.is_alive()


@pytest.mark.slow
def test_the_command_serves_and_stops_when_asked(tmp_path: Path) -> None:
    save(build(), tmp_path / "first" / "model")
    command = [sys.executable, "-m", "modelwright.cli", "serve", str(tmp_path / "first" / "model"), "--port", "0"]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        url = re.search(r"http://[\d.:]+", process.stdout.readline())
        assert url is not None
        with httpx.Client(base_url=url[0], timeout=30) as http, ThreadPoolExecutor(1) as pool:
            last = pool.submit(http.post, "/v1/completions", json={**LONG, "model": "first"})
            until(lambda: http.get("/health").json()["running"] == 1 or last.done())
            process.send_signal(signal.SIGTERM)
            assert last.result().status_code == 200
        assert process.wait(20) == 0


def test_a_refusal_has_its_kind() -> None:
    assert Refusal(401, "a").body["error"]["type"] == "authentication_error"
    assert Refusal(503, "a").body["error"]["type"] == "server_error"


def test_a_key_does_not_learn_what_another_has_asked(models: list[Served]) -> None:
    text, computed = "the cat sat on the mat, the dog did not; " * 3, []
    with serving(models, keys=("one", "two")) as running, httpx.Client(base_url=running.url, timeout=60) as http:
        scheduler = running.service.registry.engines["chatty"].scheduler
        plan = scheduler.plan

        def planning() -> Any:
            found = plan()
            computed.append(sum(s.end - s.start for s in found.slices))
            return found

        scheduler.plan = planning  # type: ignore[method-assign]
        for key in ("one", "two", "two"):
            body = {"model": "chatty", "prompt": text, "max_tokens": 1}
            assert http.post("/v1/completions", json=body, headers={"x-api-key": key}).status_code == 200
    first, other, again = [count for count in computed if count]
    assert first == other > again + 16
