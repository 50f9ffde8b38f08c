"""A server of canned answers that speaks the wire of `modelwright serve`: what the playground is tried with.

What is asked for decides the answer: a prompt with the word "refuse", "busy", "break", "cut", "slow", "script" or
"halves" in it gets that, any other a short text. `python tests/playground_stub.py` serves it on port 8111.
"""

import asyncio
import json
import math
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PAGE = Path(__file__).parents[1] / "src" / "modelwright" / "serve" / "pages" / "playground.html"
WORDS = [" The", " lamp", " in", " the", " hall", " was", " lit", ",", " and", " nobody", " knew", " why", ".", "\n"]
SEED = 2**53 - 1  # of what is drawn, where none is asked for
CHANCES = (0.5, 0.25, 0.125, 0.0625, 0.0625)  # of the only candidates, which stand in this order beside each token
OTHERS = (" a", " one", " that", " <b>bold</b>")
LABELS = ["praise", "billing", "delivery"]  # the second is chosen: a model gives it 4%, and the others 0.5% each
EVIL = "<script>window.hurt = 1</script><img src=x onerror='window.hurt = 2'>"


def model(name: str, **about: Any) -> dict[str, Any]:
    known = {"shape": "decoder", "chat": False, "context": 1024, "adapter_of": None, "contract": None, "columns": None}
    own = {"max_tokens": 64, "temperature": 0.7, "top_k": 20, "top_p": None, "min_p": None, "repetition_penalty": 1.1}
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "modelwright",
        "modelwright": known | {"vocabulary": 5, "labels": None, "sampling": own} | about,
    }


MODELS = [
    model("base", chat=True),
    model("polite", chat=True, adapter_of="base"),
    model("triage", contract="c0ffee" * 8, columns=["subject", "message"], chat=True, shape="encoder-decoder"),
    model("summary", contract="decade" * 8, columns=["text"], chat=True),
    model("sorter", contract="facade" * 8, columns=["text"], chat=True, labels=LABELS, sampling=None),
    model("reader", shape="encoder"),
]


@dataclass
class Stub:
    """What was asked of it, and how many went before their answer was whole."""

    key: str | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    left: int = 0
    url: str = ""


def reshaped(chances: tuple[float, ...], body: dict[str, Any]) -> dict[str, list[float]]:
    """The chances after each rule that was asked for, in order; the chances fall."""
    after: dict[str, list[float]] = {}
    now = list(chances)
    if (t := body.get("temperature")) not in (None, 0, 1):
        after["temperature"] = now = whole([p ** (1 / t) for p in now])
    if t != 0 and (k := body.get("top_k")):
        after["top_k"] = now = whole([p if at < k else 0.0 for at, p in enumerate(now)])
    if t != 0 and (nucleus := body.get("top_p")):
        after["top_p"] = now = whole([p if sum(now[:at]) < nucleus else 0.0 for at, p in enumerate(now)])
    return after


def whole(ps: list[float]) -> list[float]:
    return [p / sum(ps) for p in ps]


def told(at: int, text: str, body: dict[str, Any]) -> dict[str, Any]:
    """One token, drawn as the first or the second of its candidates."""
    rank = at % 4 == 3
    texts = [*OTHERS[:rank], text, *OTHERS[rank:]]
    after = reshaped(CHANCES, body)
    likely = [
        {"id": i, "text": t, "logprob": math.log(p), "after": {name: ps[i] for name, ps in after.items()}}
        for i, (t, p) in enumerate(zip(texts, CHANCES, strict=True))
    ]
    return {**likely[rank], "likely": likely[: body.get("likely", 0)]} | {"after": None}


def asked(body: dict[str, Any]) -> str:
    return json.dumps([body.get("prompt"), body.get("fields"), body.get("messages", [])[-1:]])


def answer(body: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The chunks: a text, and its tokens."""
    if body["model"] == "sorter" and not body.get("raw"):
        chances = {1: 0.04, 0: 0.005, 2: 0.005}
        found = [{"id": at, "text": f" {LABELS[at]}", "logprob": math.log(p), "after": {"labels": p / 0.05}}
                 for at, p in chances.items()]  # fmt: skip
        return [(" billing", [found[0] | {"likely": found[: body.get("likely", 0)]}])]
    words = WORDS * 20 if "slow" in asked(body) else WORDS
    if "script" in asked(body):
        words = [" See", " " + EVIL, " there"]
    if "halves" in asked(body):  # two tokens make one letter, and the end is a token without a text
        tokens = [told(at, text, body) for at, text in enumerate([" caf", "\ufffd", "\ufffd", " au", "</s>"])]
        return [(" caf", tokens[:1]), ("", tokens[1:2]), ("é", tokens[2:3]), (" au", tokens[3:4]), ("", tokens[4:])]
    return [(text, [told(at, text, body)]) for at, text in enumerate(words[: body.get("max_tokens", 16)])]


def refusal(status: int, sentence: str, **headers: str) -> Response:
    error = {"message": sentence, "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"error": error}, status, {name.replace("_", "-"): value for name, value in headers.items()})


def event(value: Any) -> str:
    return f"data: {json.dumps(value)}\n\n"


async def stream(stub: Stub, body: dict[str, Any], chat: bool) -> AsyncIterator[str]:
    chunks = answer(body)
    try:
        for at, (text, tokens) in enumerate(chunks):
            await asyncio.sleep(0.1 if "slow" in asked(body) else 0.01)
            said = {"delta": {"content": text}} if chat else {"text": text}
            drawn = {} if body.get("temperature") == 0 else {"modelwright": {"seed": body.get("seed", SEED)}}
            yield event({"choices": [{"index": 0, **said, "tokens": tokens, "finish_reason": None}], **drawn})
            if at == 2 and "break" in asked(body):
                yield event({"error": {"message": "the engine stumbled over this text", "type": "server_error"}})
                yield "data: [DONE]\n\n"
                return
            if at == 2 and "cut" in asked(body):
                return
        last = {"delta": {}} if chat else {"text": ""}
        yield event({"choices": [{"index": 0, **last, "finish_reason": "stop"}]})
        count = sum(len(tokens) for _, tokens in chunks)
        usage = {"prompt_tokens": 7, "completion_tokens": count, "total_tokens": 7 + count}
        yield event({"choices": [], "usage": usage})
        yield "data: [DONE]\n\n"
    except asyncio.CancelledError:
        stub.left += 1
        raise


def app(stub: Stub) -> Starlette:
    def known(request: Request) -> bool:
        return stub.key is None or request.headers.get("authorization") == f"Bearer {stub.key}"

    async def page(_: Request) -> Response:
        return FileResponse(PAGE)

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": MODELS}) if known(request) else refusal(401, "the key is wrong")

    async def complete(request: Request) -> Response:
        body = await request.json()
        stub.bodies.append(body)
        if not known(request):
            return refusal(401, "the key is wrong")
        if body.get("prompt") is not None and "fields" in body:
            return refusal(400, "prompt and fields are both there: say one of them")
        if "refuse" in asked(body):
            return refusal(400, "the prompt has 2048 tokens, but the model's context is 1024")
        if "busy" in asked(body):
            return refusal(429, "too many wait already", retry_after="3")
        return StreamingResponse(stream(stub, body, "messages" in body), media_type="text/event-stream")

    return Starlette(
        routes=[
            Route("/", page),
            Route("/v1/models", models),
            Route("/v1/completions", complete, methods=["POST"]),
            Route("/v1/chat/completions", complete, methods=["POST"]),
        ]
    )


@contextmanager
def serving(stub: Stub, port: int = 0) -> Iterator[Stub]:
    """The stub at a port of its own, `stub.url`, in a thread of its own."""
    server = uvicorn.Server(
        uvicorn.Config(app(stub), port=port, log_level="warning", ws="none", lifespan="off", log_config=None)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
        assert thread.is_alive(), "the stub did not start"
    stub.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield stub
    finally:
        server.should_exit = True
        thread.join(10)


if __name__ == "__main__":
    with serving(Stub(), 8111) as running:
        print(running.url)
        threading.Event().wait()
