"""What a server answers by a schema, by tools, and by adapters, to OpenAI's own client."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest

from modelwright.adapt.lora import merged_copy
from modelwright.adapt.open import open_model
from modelwright.data.examples import Example
from modelwright.data.task import Task, parse_task
from modelwright.evaluate.scorer import ModelScorer
from modelwright.evaluate.tasks import answers
from modelwright.hub.open import LanguageModel
from modelwright.infer.complete import complete
from modelwright.serve.registry import Served, open_served
from served import Running, build, serving
from test_registry import adapted as adapted  # a base, a LoRA and a soft prompt of it
from test_registry import relative

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


def test_a_model_without_conversations_answers_by_a_schema_too() -> None:
    with serving([Served("plain", build(template=None))]) as running:
        done = at(running).completions.create(
            model="plain", prompt=["the cat", "a dog"], max_tokens=200, temperature=1, seed=1,
            extra_body={"response_format": {"type": "json_schema", "json_schema": {"name": "seen", "schema": SCHEMA}}},
        )  # fmt: skip
        for choice in done.choices:
            jsonschema.validate(json.loads(choice.text), SCHEMA)
        with pytest.raises(openai.BadRequestError, match="ask /v1/chat/completions"):
            at(running).completions.create(model="plain", prompt="a", extra_body={"tools": [LOOK]})


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


@pytest.mark.parametrize("seed", range(3))
def test_a_tool_that_is_named_is_called_once(client: openai.OpenAI, seed: int) -> None:
    one: Any = {"type": "function", "function": {"name": "look"}}
    done = client.chat.completions.create(
        model="base", messages=USER, tools=[LOOK], tool_choice=one, max_tokens=200, temperature=1, seed=seed
    )
    assert done.choices[0].finish_reason == "tool_calls"
    assert len(done.choices[0].message.tool_calls or ()) == 1


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


# -- labels --------------------------------------------------------------------------------------------------------

SORT = parse_task(
    {"name": "sort", "kind": "classify", "data": {"train": "none"}, "labels": ["cat", "dog", "the cat sat", "1", "10"],
     "prompt": "{{ text }} is", "decoding": {"max_new": 3, "temperature": 2.0, "stop": ["a"]}},
    "here", Path(),
)  # fmt: skip
SAID = ["the cat", "the dog did", "a naïve smile", "mat", "the end of it all", "sat sat", "dog", "and"]


def measured(lm: LanguageModel, task: Task, texts: list[str]) -> list[str]:
    """What evaluation takes for the answers."""
    examples = [Example(str(at), {"text": text, "label": "dog"}) for at, text in enumerate(texts)]
    prompter = Served("a", lm, task).prompter
    assert prompter is not None
    prompts = [prompter.prompt(example) for example in examples]
    return [str(given.answer) for given in answers(ModelScorer(lm), task, prompter, examples, prompts)]


SORTERS = {"decoder": build(seed=2, template=None), "chat": build(seed=2), "encoder-decoder": relative(seed=2)}


@pytest.fixture(scope="module")
def sorting() -> Iterator[Running]:
    with serving([Served(name, lm, SORT, "hash") for name, lm in SORTERS.items()]) as running:
        yield running


def at(running: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("name", SORTERS)
def test_a_label_is_chosen_as_where_it_was_measured(sorting: Running, name: str) -> None:
    """However it is asked: many at once, drawn with a temperature, streamed, several times."""
    client, wanted = at(sorting), measured(SORTERS[name], SORT, SAID)
    assert len(set(wanted)) > 1
    done = client.completions.create(model=name, prompt=SAID, n=2, temperature=1.5, seed=1)
    assert [choice.text.strip() for choice in done.choices] == [text for text in wanted for _ in range(2)]
    assert {choice.finish_reason for choice in done.choices} == {"stop"}
    for text, label in zip(SAID, wanted, strict=True):
        user: Any = [{"role": "user", "content": text}]
        chunks = client.chat.completions.create(model=name, messages=user, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).strip() == label
    assert sorting.service.registry.engines[name].scheduler.idle
    assert not sorting.service.worker.weighing


@pytest.mark.parametrize("name", ["decoder", "encoder-decoder"])
def test_labels_are_told_with_their_probabilities(sorting: Running, name: str) -> None:
    """As whole answers, their ends included: by the model itself, and each one's share of what all labels have."""
    client, lm = at(sorting), SORTERS[name]
    prompter, example = Served("a", lm, SORT).prompter, Example("0", {"text": "the cat"})
    assert prompter is not None
    about = client.models.retrieve(name).model_dump()["modelwright"]
    assert (about["labels"], about["sampling"]) == (list(SORT.labels), None)
    ids = prompter.labels(example)
    alone = [one.logp for one in ModelScorer(lm).loglikelihood([prompter.prompt(example)] * len(ids), ids)]
    total = sum(map(math.exp, alone))
    done = client.completions.create(model=name, prompt="the cat", logprobs=2, extra_body={"likely": 50}).choices[0]
    [token] = done.model_extra["tokens"] if done.model_extra else ()
    logps = {one["id"]: one["logprob"] for one in token["likely"]}
    assert [logps[at] for at in range(len(ids))] == pytest.approx(alone, abs=1e-3)
    assert [one["logprob"] for one in token["likely"]] == sorted(logps.values(), reverse=True)
    for one in token["likely"]:
        assert one["text"].strip() == SORT.labels[one["id"]]
        assert one["after"] == {"labels": pytest.approx(math.exp(one["logprob"]) / total, rel=1e-2)}
    assert (token["text"], token["id"]) == (done.text, token["likely"][0]["id"])
    assert done.logprobs is not None
    assert (done.logprobs.tokens, done.logprobs.token_logprobs) == ([done.text], [token["logprob"]])
    first, second = token["likely"][:2]
    assert done.logprobs.top_logprobs == [{one["text"]: one["logprob"] for one in (first, second)}]


def test_a_label_is_never_cut_and_follows_no_schema_and_may_be_left_for_free_writing(sorting: Running) -> None:
    client = at(sorting)
    whole, asked = (
        client.completions.create(model="decoder", prompt="the cat", **more).choices[0]
        for more in ({}, {"max_tokens": 1, "stop": ["a", "c"], "logit_bias": {"5": 100}, "presence_penalty": 2})
    )
    assert (asked.text, asked.finish_reason) == (whole.text, "stop")
    free = client.completions.create(
        model="decoder", prompt="the cat is", temperature=0, max_tokens=6, extra_body={"raw": True}
    )
    assert free.choices[0].text == complete(SORTERS["decoder"], ["the cat is"], max_new=6, temperature=0)[0].text
    shape: Any = {"type": "json_object"}
    with pytest.raises(openai.BadRequestError, match="among the labels"):
        client.chat.completions.create(model="decoder", messages=USER, response_format=shape)
