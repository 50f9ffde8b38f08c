"""What a server answers by a schema, by tools, and by adapters, to OpenAI's own client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jsonschema
import openai
import pytest

from modelwright.adapt.lora import merged_copy
from modelwright.adapt.open import open_model
from modelwright.infer.complete import complete
from modelwright.serve.registry import Served, open_served
from served import build, serving
from test_registry import adapted as adapted  # a base, a LoRA and a soft prompt of it

USER: Any = [{"role": "user", "content": "the cat"}]


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with (
        serving([Served("base", build())]) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


SCHEMA = {
    "type": "object", "required": ["kind", "count"], "additionalProperties": False,
    "properties": {"kind": {"enum": ["cat", "dog"]}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
}  # fmt: skip
LOOK = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}


@pytest.mark.parametrize("seed", range(4))
def test_an_answer_by_a_schema_is_valid_by_it(client: openai.OpenAI, seed: int) -> None:
    shape = {"type": "json_schema", "json_schema": {"name": "seen", "schema": SCHEMA}}
    done = client.chat.completions.create(
        model="base", messages=USER, response_format=shape, max_tokens=200, temperature=1, seed=seed
    )  # type: ignore[call-overload]
    assert done.choices[0].finish_reason == "stop"
    jsonschema.validate(json.loads(done.choices[0].message.content), SCHEMA)


def test_a_tool_is_called_streamed_and_whole(client: openai.OpenAI) -> None:
    asked: Any = {"model": "base", "messages": USER, "tools": [LOOK], "tool_choice": "required", "max_tokens": 200,
                  "temperature": 1, "seed": 3, "parallel_tool_calls": False}  # fmt: skip
    choice = client.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls
    assert call.function.name == "look"
    jsonschema.validate(json.loads(call.function.arguments), SCHEMA)
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True) if chunk.choices]
    parts = [call for chunk in chunks for call in chunk.delta.tool_calls or []]
    assert {part.index for part in parts} == {0}
    assert "".join(part.function.arguments or "" for part in parts) == call.function.arguments
    assert chunks[-1].finish_reason == "tool_calls"


def test_a_keyword_that_is_not_followed_is_named(client: openai.OpenAI) -> None:
    shape: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "if": {}}}}
    with pytest.raises(openai.BadRequestError, match="'if'"):
        client.chat.completions.create(model="base", messages=USER, response_format=shape)


def test_adapters_answer_side_by_side_as_each_alone(adapted: dict[str, str]) -> None:
    served = open_served(adapted["base"], "base", {"lora": adapted["lora"], "soft": adapted["soft"]})
    alone = {
        name: complete(replace(lm, model=merged_copy(lm.model)), ["the cat"], max_new=8, temperature=0)[0].text
        for name, lm in ((one.name, open_model(adapted[one.name])) for one in served)
    }
    assert len(set(alone.values())) == 3
    with serving(served) as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)

        def ask(name: str) -> tuple[str, str]:
            raw = {"raw": True}
            done = client.completions.create(model=name, prompt="the cat", max_tokens=8, temperature=0, extra_body=raw)
            return name, done.choices[0].text

        with ThreadPoolExecutor(12) as pool:
            assert all(text == alone[name] for name, text in pool.map(ask, [*alone] * 8))
        assert len(running.service.registry.engines) == 1
