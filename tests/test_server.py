"""The server over a real socket, asked by OpenAI's own client and by bare HTTP."""

from __future__ import annotations

import base64
import json
import os
import re
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import openai
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelwright.infer.complete import complete
from modelwright.infer.text import eos_ids
from modelwright.serve.protocol import BODY
from modelwright.serve.registry import Served
from served import GPT2, Running, build, serving, until

FUZZED = int(os.environ.get("MODELWRIGHT_FUZZ", "300"))
USER = [{"role": "user", "content": "the cat"}]


@pytest.fixture(scope="module")
def models() -> list[Served]:
    return [Served("chatty", build()), Served("plain", build(seed=1, template=None))]


@pytest.fixture(scope="module")
def running(models: list[Served]) -> Iterator[Running]:
    with serving(models) as running:
        yield running


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def http(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=60) as http:
        yield http


def asked(http: httpx.Client, route: str = "completions", **body: Any) -> httpx.Response:
    return http.post(f"/v1/{route}", json={"model": "chatty", **body})


def events(text: str) -> list[Any]:
    found = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [json.loads(one) if one != "[DONE]" else one for one in found]


# -- what is written ---------------------------------------------------------------------------------------------


def test_a_completion_is_what_the_model_says(models: list[Served], client: openai.OpenAI) -> None:
    done = client.completions.create(model="chatty", prompt="the cat", max_tokens=12)
    [alone] = complete(models[0].lm, ["the cat"], max_new=12)
    assert (done.choices[0].text, done.choices[0].finish_reason) == (alone.text, "length")
    assert (done.object, done.model) == ("text_completion", "chatty")
    prompt = len(models[0].lm.tokenizer.encode("the cat", special=True))
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.total_tokens) == (
        prompt,
        12,
        prompt + 12,
    )


def test_a_conversation_is_rendered_by_the_template(models: list[Served], client: openai.OpenAI) -> None:
    done = client.chat.completions.create(model="chatty", messages=USER, max_completion_tokens=12)
    same = client.completions.create(
        model="chatty", prompt=models[0].lm.tokenizer.encode("user: the cat\nassistant: "), max_tokens=12
    )
    assert done.choices[0].message.content == same.choices[0].text
    assert (done.choices[0].message.role, done.choices[0].finish_reason) == ("assistant", "length")
    assert done.object == "chat.completion"


def test_several_prompts_and_samples_in_order(models: list[Served], client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "chatty", "max_tokens": 6, "temperature": 1.0, "seed": 3}
    done = client.completions.create(prompt=["the cat", "a dog"], n=2, **asked)
    alone = complete(models[0].lm, ["the cat", "a dog"], max_new=6, temperature=1.0, seed=3, n=2)
    assert [choice.text for choice in done.choices] == [one.text for one in alone]
    assert [choice.index for choice in done.choices] == [0, 1, 2, 3]
    again = client.completions.create(prompt="a dog", n=2, **asked)
    assert [choice.text for choice in again.choices] == [one.text for one in alone[2:]]
    other = client.completions.create(prompt="a dog", n=2, **{**asked, "seed": 4})
    assert [choice.text for choice in again.choices] != [choice.text for choice in other.choices]
    greedy = client.completions.create(prompt="a dog", n=2, **{**asked, "temperature": 0})
    assert greedy.choices[0].text == greedy.choices[1].text


def test_a_load_is_written_to_the_length_that_it_asks_for(models: list[Served], client: openai.OpenAI) -> None:
    [end, *_] = eos_ids(models[0].lm)
    asked: dict[str, Any] = {"model": "chatty", "prompt": "the cat", "max_tokens": 5, "logit_bias": {str(end): 100}}
    ended = client.completions.create(**asked)
    assert (ended.choices[0].finish_reason, ended.usage.completion_tokens) == ("stop", 1)
    whole = client.completions.create(**asked, extra_body={"ignore_eos": True})
    assert (whole.choices[0].finish_reason, whole.usage.completion_tokens) == ("length", 5)


@pytest.mark.parametrize("route", ["completions", "chat/completions"])
def test_what_was_drawn_tells_its_seed_and_can_be_drawn_again(http: httpx.Client, route: str) -> None:
    what: dict[str, Any] = {"prompt": "the cat"} if route == "completions" else {"messages": USER}
    sent = what | {"temperature": 1, "max_tokens": 12, "n": 2}

    def said(**more: Any) -> tuple[Any, list[Any]]:
        done = asked(http, route, **sent, **more).json()
        return done["modelwright"]["seed"], [choice.get("text", choice.get("message")) for choice in done["choices"]]

    seed, texts = said()
    assert 0 <= seed < 2**53
    assert said(seed=seed) == (seed, texts)
    assert said()[0] != seed
    chunks = events(asked(http, route, **sent, seed=seed, stream=True).text)[:-1]
    assert {chunk["modelwright"]["seed"] for chunk in chunks} == {seed}
    assert "modelwright" not in asked(http, route, **what, max_tokens=2).json()  # greedy: nothing was drawn


@pytest.mark.parametrize("stop", [None, ["t"], ["e", " d"]])
def test_streamed_is_unstreamed_is_the_tokens(client: openai.OpenAI, stop: list[str] | None) -> None:
    """Of samples whose tokens are often parts of characters; a stop string never shows."""
    cut = 0
    for seed in range(12):
        asked: dict[str, Any] = {
            "model": "chatty", "messages": USER, "max_tokens": 16, "temperature": 0.7, "seed": seed, "logprobs": True,
            "top_logprobs": 3, "stop": stop,
        }  # fmt: skip
        choice = client.chat.completions.create(**asked).choices[0]
        chunks = list(client.chat.completions.create(stream=True, **asked))
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        tokens = [one for chunk in chunks if chunk.choices[0].logprobs for one in chunk.choices[0].logprobs.content]
        assert streamed == choice.message.content == "".join(one.token for one in tokens)
        assert tokens == choice.logprobs.content
        assert all(one.logprob <= 0 and len(one.top_logprobs) == 3 for one in tokens)
        assert b"".join(bytes(one.bytes) for one in tokens).decode() == streamed
        assert not any(string in streamed for string in stop or ())
        assert chunks[-1].choices[0].finish_reason == choice.finish_reason
        cut += choice.finish_reason == "stop"
    assert (cut > 2) == (stop is not None)


def test_legacy_logprobs(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "chatty", "prompt": "the cat", "max_tokens": 16, "logprobs": 2, "temperature": 0}
    choice = client.completions.create(**asked).choices[0]
    found = choice.logprobs
    assert "".join(found.tokens) == choice.text
    assert found.text_offset == [len("".join(found.tokens[:at])) for at in range(len(found.tokens))]
    assert all(1 <= len(top) <= 2 and max(top.values()) <= 0 for top in found.top_logprobs)
    chunks = list(client.completions.create(stream=True, **asked))
    pieces = [chunk.choices[0] for chunk in chunks]
    assert "".join(piece.text for piece in pieces) == choice.text
    assert [offset for piece in pieces for offset in piece.logprobs.text_offset] == found.text_offset


def test_a_stream_has_the_form_that_clients_expect(http: httpx.Client) -> None:
    body = {"messages": USER, "max_tokens": 5, "n": 2, "temperature": 1, "stream": True}
    said = events(asked(http, "chat/completions", **body, stream_options={"include_usage": True}).text)
    assert said[-1] == "[DONE]"
    assert said[-2]["choices"] == []
    assert said[-2]["usage"]["completion_tokens"] == 10
    chunks = said[:-2]
    assert len({chunk["id"] for chunk in said[:-1]}) == 1
    assert all(chunk["usage"] is None and chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    for index in (0, 1):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert own[0]["delta"]["role"] == "assistant"
        assert not any("role" in choice["delta"] for choice in own[1:])
        assert [choice["finish_reason"] for choice in own] == [None] * (len(own) - 1) + ["length"]
    plain = events(asked(http, "chat/completions", **body).text)
    assert not any("usage" in chunk for chunk in plain[:-1])


def test_likely_tells_what_the_rules_made_of_the_candidates(http: httpx.Client) -> None:
    body = {"prompt": "the cat", "max_tokens": 4, "likely": 5, "temperature": 0.5, "top_k": 3, "seed": 1}
    [choice] = asked(http, **body).json()["choices"]
    assert "".join(token["text"] for token in choice["tokens"]) == choice["text"]
    for token in choice["tokens"]:
        assert len(token["likely"]) == 5
        assert list(token["likely"][0]["after"]) == ["temperature", "top_k"]
        kept = [one["after"]["top_k"] for one in token["likely"]]
        assert kept[3:] == [0, 0]
        assert sum(kept) == pytest.approx(1)
        assert token["id"] in [one["id"] for one in token["likely"][:3]]
    said = events(asked(http, **body, stream=True).text)
    streamed = [token for chunk in said[:-1] for token in chunk["choices"][0].get("tokens", [])]
    assert streamed == choice["tokens"]


def test_a_bias_forbids_a_token(client: openai.OpenAI) -> None:
    free = client.completions.create(model="chatty", prompt=[5, 6], max_tokens=1, temperature=0, logprobs=0)
    [first] = free.choices[0].logprobs.tokens
    said = [client.completions.create(model="chatty", prompt=[5, 6], max_tokens=1, logit_bias={str(i): 100})
            for i in (70, 71)]  # fmt: skip
    assert [one.choices[0].text for one in said] == ["e", "f"] or first not in [one.choices[0].text for one in said]


def test_256_at_once_are_each_as_if_alone(models: list[Served], client: openai.OpenAI) -> None:
    prompts = ["the cat", "a dog sat on the mat", "naïve", "the end of it"]
    asked = [{"temperature": 0.8, "seed": seed, "stop": ["q"]} for seed in range(256)]

    def one(seed: int) -> str:
        prompt, more = prompts[seed % 4], asked[seed]
        done = client.completions.create(model="chatty", prompt=prompt, max_tokens=4 + seed % 9, **more)
        return done.choices[0].text

    with ThreadPoolExecutor(256) as pool:
        together = list(pool.map(one, range(256)))
    alone = [
        complete(models[0].lm, [prompts[seed % 4]], max_new=4 + seed % 9, **asked[seed])[0].text for seed in range(256)
    ]
    assert together == alone
    assert len(set(together)) > 200


@pytest.mark.parametrize("python", [sys.executable, os.environ.get("MODELWRIGHT_OPENAI_1")])
def test_openais_client_speaks_with_it(running: Running, python: str | None) -> None:
    """Of this environment's version; and of version 1, where the environment variable names a Python that has it."""
    if python is None:
        pytest.skip("MODELWRIGHT_OPENAI_1 names no Python with version 1 of the client")
    script = Path(__file__).with_name("openai_client.py")
    command = [python, str(script), running.url, "chatty", "plain"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "all routes, errors and streams" in done.stdout


# -- embeddings --------------------------------------------------------------------------------------------------


def test_embeddings_are_means_of_the_last_layer(models: Any, client: openai.OpenAI, http: httpx.Client) -> None:
    ids = models[0].lm.tokenizer.encode("the cat", special=True)
    expected = models[0].lm.model.hidden(torch.tensor([ids]))[0].mean(0)
    found = client.embeddings.create(model="chatty", input=["the cat", "a dog " * 200])
    assert found.data[0].embedding == pytest.approx(expected.tolist(), abs=1e-5)
    assert len(found.data) == 2
    assert found.usage.prompt_tokens > 200
    raw = asked(http, "embeddings", input="the cat", encoding_format="base64").json()["data"][0]["embedding"]
    assert struct.unpack("<32f", base64.b64decode(raw)) == pytest.approx(expected.tolist(), abs=1e-5)
    listed = asked(http, "embeddings", input=[ids], encoding_format="float").json()["data"][0]["embedding"]
    assert listed == pytest.approx(expected.tolist(), abs=1e-5)


# -- what there is -----------------------------------------------------------------------------------------------


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["chatty", "plain"]
    own = client.models.retrieve("chatty").model_extra["modelwright"]
    assert (own["shape"], own["chat"], own["context"], own["vocabulary"]) == ("decoder", True, GPT2.context, 320)
    assert client.models.retrieve("plain").model_extra["modelwright"]["chat"] is False
    with pytest.raises(openai.NotFoundError, match="there is chatty, plain"):
        client.models.retrieve("other")


@pytest.mark.parametrize("name", ["../chatty", "/etc/passwd", "chatty/../plain", "chatty\x00", "%2e%2e/x", "a%00"])
def test_names_are_no_paths(http: httpx.Client, name: str) -> None:
    assert http.post("/v1/completions", json={"model": name, "prompt": "a"}).status_code == 404
    assert http.get(f"/v1/models/{quote(name, safe='')}".replace("..", "%2E%2E")).status_code == 404


def test_health_and_metrics(http: httpx.Client) -> None:
    asked(http, prompt="a", max_tokens=3)
    assert http.get("/health").json() == {"status": "ok", "running": 0, "waiting": 0}
    text = http.get("/metrics").text
    assert 'modelwright_requests_total{route="/v1/completions",status="200"}' in text
    counts = re.findall(r'time_to_first_token_seconds_bucket\{le="(.+?)"\} (\d+)', text)
    assert counts[-1][0] == "+Inf"
    assert [int(count) for _, count in counts] == sorted(int(count) for _, count in counts)
    assert text.endswith("\n")


# -- what is refused ---------------------------------------------------------------------------------------------

WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("completions", {}, "prompt"),
    ("completions", {"prompt": [[]]}, "prompt"),
    ("completions", {"prompt": [1, "a"]}, "prompt"),
    ("completions", {"prompt": [999]}, "prompt"),
    ("completions", {"prompt": "a", "n": 17}, "n"),
    ("completions", {"prompt": "a", "n": 0}, "n"),
    ("completions", {"prompt": "a", "n": "2"}, "n"),
    ("completions", {"prompt": "a", "stop": ["a"] * 5}, "stop"),
    ("completions", {"prompt": "a", "stop": "x" * 257}, "stop"),
    ("completions", {"prompt": "a", "stop": ""}, "stop"),
    ("completions", {"prompt": "a", "logprobs": 21}, "logprobs"),
    ("completions", {"prompt": "a", "likely": 51}, "likely"),
    ("completions", {"prompt": "a", "temperature": -1}, "temperature"),
    ("completions", {"prompt": "a", "temperature": 1e-300}, "temperature"),
    ("completions", {"prompt": "a", "top_p": 0}, "top_p"),
    ("completions", {"prompt": "a", "max_tokens": 0}, "max_tokens"),
    ("completions", {"prompt": "a", "logit_bias": {"a": 1}}, "logit_bias"),
    ("completions", {"prompt": "a", "logit_bias": {"320": 1}}, "logit_bias"),
    ("completions", {"prompt": "a", "logit_bias": {"3": 101}}, "logit_bias"),
    ("completions", {"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
    ("completions", {"prompt": "a", "ignore_eos": True, "response_format": {"type": "json_object"}}, "ignore_eos"),
    ("completions", {"prompt": "a", "echo": True}, "echo"),
    ("completions", {"prompt": "a", "suffix": "b"}, "suffix"),
    ("completions", {"prompt": "a", "best_of": 3}, "best_of"),
    ("completions", {"prompt": "a", "fields": {"a": "b"}}, "fields"),
    ("chat/completions", {"messages": None}, "messages"),
    ("chat/completions", {"messages": "string"}, "messages"),
    ("chat/completions", {"messages": []}, "messages"),
    ("chat/completions", {"messages": [123]}, "messages.0"),
    ("chat/completions", {"messages": [{}]}, "messages.0.role"),
    ("chat/completions", {"messages": [{"role": 123, "content": "a"}]}, "messages.0.role"),
    ("chat/completions", {"messages": [{"role": "user", "content": 123}]}, "messages.0.content"),
    ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
    ("chat/completions", {"messages": USER, "top_logprobs": 2}, "top_logprobs"),
    ("chat/completions", {"messages": USER, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ("chat/completions", {"messages": USER, "response_format": {"type": "sound"}}, "response_format.type"),
    ("chat/completions", {"messages": USER, "response_format": {"type": "json_schema"}}, "response_format"),
    ("chat/completions", {"messages": USER, "response_format": {"type": "json_schema", "json_schema":
     {"name": "a", "schema": 123}}}, "response_format.json_schema.schema"),
    ("chat/completions", {"messages": USER, "tools": [{"type": "hiccup"}]}, "tools.0.type"),
    ("chat/completions", {"messages": USER, "tool_choice": "required"}, "tool_choice"),
    ("chat/completions", {"messages": USER, "functions": [{"name": "a"}]}, "functions"),
    ("embeddings", {}, "input"),
    ("embeddings", {"input": [""]}, "input"),
    ("embeddings", {"input": "a", "encoding_format": "int8"}, "encoding_format"),
    ("embeddings", {"input": "a", "dimensions": 7}, "dimensions"),
]  # fmt: skip


@pytest.mark.parametrize(("route", "body", "param"), WRONG)
def test_a_wrong_field_is_named(http: httpx.Client, route: str, body: dict[str, Any], param: str) -> None:
    answer = asked(http, route, **body)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert error["message"]


def test_errors_reach_the_client_as_its_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as found:
        client.completions.create(model="gpt-4", prompt="a")
    assert found.value.code == "model_not_found"
    assert found.value.request_id.startswith("req-")
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        client.chat.completions.create(model="plain", messages=USER)
    with pytest.raises(openai.ConflictError, match="contract"):
        client.completions.create(model="plain", prompt="a", extra_body={"contract": "abc"})


def test_an_overlong_prompt_is_told_both_lengths(client: openai.OpenAI) -> None:
    for ask in (
        lambda: client.completions.create(model="chatty", prompt=[5] * 300),
        lambda: client.completions.create(model="chatty", prompt=[5] * 300, stream=True),
    ):
        with pytest.raises(openai.BadRequestError, match=r"300 tokens.*context is 256") as found:
            ask()
        assert found.value.code == "context_length_exceeded"
    for prompt in ("\x00" * 300, "x" * 4_000_000):  # by its tokens; by its size alone, which are not looked for
        with pytest.raises(openai.BadRequestError, match=r"\d{3,} tokens.*context is 256"):
            client.completions.create(model="chatty", prompt=prompt)
    with pytest.raises(openai.BadRequestError, match=r"\d{3,} tokens.*context is 256"):
        client.chat.completions.create(model="chatty", messages=[{"role": "user", "content": "the cat " * 300}])


RAW: list[tuple[bytes, int]] = [
    (b"", 400), (b'"str"', 400), (b"[1]", 400), (b"42", 400), (b"null", 400), (b"{", 400), (b"\xff\xfe{}", 400),
    (b'{"model": "chatty", "prompt": NaN}', 400), (b'{"model": "chatty", "prompt": "a", "temperature": Infinity}', 400),
    (b'{"model": "chatty", "prompt": "a", "temperature": 1e999}', 400),
    (b'{"model": "chatty", "prompt": "a", "prompt": "b"}', 400), (b'{"model": "chatty", "prompt": "\\ud800"}', 400),
    (b"[" * 10_000, 400), (b'{"a":' * 10_000, 400), (b'{"x": ' + b"[" * 100 + b"]" * 100 + b"}", 400),
    (b'{"model": "chatty", "prompt": "a", "seed": ' + b"9" * 5000 + b"}", 400), (b" " * (BODY + 1), 413),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status"), RAW, ids=range(len(RAW)))
def test_bodies_that_are_none(http: httpx.Client, body: bytes, status: int) -> None:
    answer = http.post("/v1/completions", content=body)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_huge_body_without_a_length_is_cut_off(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", content=(b" " * (1 << 16) for _ in range(BODY // (1 << 16) + 2)))
    assert answer.status_code == 413


def test_other_routes_and_methods(http: httpx.Client) -> None:
    assert (http.get("/nothing").status_code, http.get("/v1/completions").status_code) == (404, 405)
    told = http.get("/nothing").json()["error"]["message"]
    for path in ("/", "/health", "/metrics", "/v1/models"):
        assert http.get(path).status_code == 200
        assert f" {path}" in told


def test_large_headers_are_refused(http: httpx.Client) -> None:
    assert http.get("/health", headers={"x-large": "y" * 20_000}).status_code == 431


def test_pages_from_elsewhere_do_not_reach_a_server_without_a_key(http: httpx.Client) -> None:
    assert http.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
    for origin in ("https://evil.example", "null", "http://[", "http://localhost.evil.example"):
        assert http.get("/v1/models", headers={"origin": origin}).status_code == 403
    assert http.get("/v1/models", headers={"host": "["}).status_code == 403
    assert http.get("/v1/models", headers={"origin": str(http.base_url).rstrip("/")}).status_code == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
SENSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "model": st.sampled_from(["chatty", "plain", "other"]),
    "prompt": st.text(max_size=20) | st.lists(st.integers(0, 330), max_size=4) | st.lists(st.text(max_size=4)),
    "messages": st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "tool"]),
                                                "content": st.text(max_size=9)}), max_size=3),
    "input": st.text(max_size=20) | st.lists(st.text(max_size=5), max_size=3),
    "max_tokens": st.integers(-1, 4), "temperature": st.floats(-1, 3) | st.integers(), "top_p": st.floats(-1, 2),
    "top_k": st.integers(-1, 400), "min_p": st.floats(-1, 2), "n": st.integers(0, 3), "seed": st.integers(),
    "repetition_penalty": st.floats(0, 5), "frequency_penalty": st.floats(-3, 3), "presence_penalty": st.floats(-3, 3),
    "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=5), "stream": st.booleans(),
    "logprobs": st.integers(0, 5) | st.booleans(), "top_logprobs": st.integers(0, 5), "likely": st.integers(-1, 60),
    "logit_bias": st.dictionaries(st.integers(0, 330).map(str), st.integers(-101, 101), max_size=3),
    "stream_options": st.fixed_dictionaries({"include_usage": st.booleans()}),
    "response_format": st.fixed_dictionaries({"type": st.sampled_from(["text", "json_object", "sound"])}),
    "tools": st.lists(JSON, max_size=2), "tool_choice": st.sampled_from(["none", "auto", "required"]) | JSON,
    "fields": JSON, "contract": JSON, "raw": st.booleans(), "user": JSON, "echo": st.booleans(),
}  # fmt: skip
BODIES = st.fixed_dictionaries(
    {}, optional={name: strategy | JSON for name, strategy in SENSIBLE.items()}
) | st.fixed_dictionaries(
    {name: SENSIBLE[name] for name in ("model", "prompt", "messages", "input", "max_tokens")},
    optional={name: SENSIBLE[name] for name in ("temperature", "n", "stream", "logprobs", "likely", "stop", "seed")},
)


def fuzzed(http: httpx.Client, route: str, content: bytes) -> None:
    answer = http.post(f"/v1/{route}", content=content)
    assert answer.status_code in (200, 400, 404, 409, 413), (route, content, answer.text)
    if answer.status_code != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.slow
def test_no_body_makes_the_server_fail(http: httpx.Client) -> None:
    """/health answers throughout, and what is under way is none in the end."""
    times: list[float] = []
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=http.base_url) as own:
            while not done.is_set():
                start = time.perf_counter()
                assert own.get("/health").status_code == 200
                times.append(time.perf_counter() - start)
                time.sleep(0.01)

    routes = st.sampled_from(["completions", "chat/completions", "embeddings"])
    quiet = settings(max_examples=FUZZED // 2, deadline=None, suppress_health_check=list(HealthCheck), database=None)

    @quiet
    @given(routes, BODIES)
    def by_schema(route: str, body: Any) -> None:
        fuzzed(http, route, json.dumps(body).encode())

    @quiet
    @given(routes, st.binary(max_size=64) | JSON.map(lambda said: json.dumps(said).encode()[:-1]))
    def raw(route: str, content: bytes) -> None:
        fuzzed(http, route, content)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        by_schema()
        raw()
    finally:
        done.set()
        thread.join()
    assert sorted(times)[int(0.99 * len(times))] < 0.2
    until(lambda: http.get("/health").json()["running"] == 0)
