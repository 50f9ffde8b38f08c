"""Every route, error and stream of a server, by OpenAI's own client: for versions 1 and 3 of it alike.

python tests/openai_client.py URL CHAT_MODEL PLAIN_MODEL
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import openai

USER: Any = [{"role": "user", "content": "the cat"}]


def written(client: openai.OpenAI, chatty: str) -> None:
    """What is streamed is what is not."""
    asked: dict[str, Any] = {"model": chatty, "max_tokens": 12, "temperature": 0.8, "seed": 1}
    whole = client.chat.completions.create(messages=USER, logprobs=True, top_logprobs=2, **asked)
    chunks = list(
        client.chat.completions.create(messages=USER, stream=True, stream_options={"include_usage": True}, **asked)
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    content = whole.choices[0].logprobs.content
    assert text == whole.choices[0].message.content == "".join(one.token for one in content)
    assert chunks[-1].usage == whole.usage
    with client.chat.completions.stream(messages=USER, **asked) as stream:
        assert "".join(one.delta for one in stream if one.type == "content.delta") == text
    whole = client.completions.create(prompt=["the cat", "a dog"], n=2, **asked)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    streamed = ["", "", "", ""]
    for chunk in client.completions.create(prompt=["the cat", "a dog"], n=2, stream=True, **asked):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == [choice.text for choice in whole.choices]


def embedded(client: openai.OpenAI, chatty: str) -> None:
    """The client asks for base64 by itself; lists are the same."""
    one = client.embeddings.create(model=chatty, input="the cat").data[0].embedding
    other = client.embeddings.create(model=chatty, input=["the cat"], encoding_format="float").data[0].embedding
    assert len(one) > 1
    assert max(abs(a - b) for a, b in zip(one, other, strict=True)) < 1e-6


def listed(client: openai.OpenAI, chatty: str) -> None:
    assert chatty in [model.id for model in client.models.list()]
    assert client.models.retrieve(chatty).object == "model"


def refused(client: openai.OpenAI, chatty: str, plain: str) -> None:
    """Each error is the client's own exception, with its sentence."""
    long: Any = {"model": chatty, "prompt": [5] * 100_000}
    other = {"contract": "another"}
    for expected, ask in (
        (openai.NotFoundError, lambda: client.models.retrieve("no-such-model")),
        (openai.NotFoundError, lambda: client.completions.create(model="no-such-model", prompt="a")),
        (openai.BadRequestError, lambda: client.completions.create(model=chatty, prompt="a", n=99)),
        (openai.BadRequestError, lambda: client.completions.create(**long)),
        (openai.BadRequestError, lambda: client.completions.create(**long, stream=True)),
        (openai.BadRequestError, lambda: client.chat.completions.create(model=plain, messages=USER)),
        (openai.ConflictError, lambda: client.completions.create(model=chatty, prompt="a", extra_body=other)),
    ):
        error = raised(ask)
        assert isinstance(error, expected), error
        assert error.request_id
        assert error.body["message"]


def raised(ask: Callable[[], Any]) -> openai.APIStatusError:
    try:
        ask()
    except openai.APIStatusError as error:
        return error
    raise AssertionError("nothing was refused")


def left(client: openai.OpenAI, chatty: str) -> None:
    """Who leaves a stream in its midst can ask again at once."""
    for _ in range(3):
        with client.completions.create(model=chatty, prompt="the cat", max_tokens=100, stream=True) as stream:
            next(iter(stream))


def main(url: str, chatty: str, plain: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        written(client, chatty)
        embedded(client, chatty)
        listed(client, chatty)
        refused(client, chatty, plain)
        left(client, chatty)
    print(f"openai {openai.__version__}: all routes, errors and streams")


if __name__ == "__main__":
    main(*sys.argv[1:])
