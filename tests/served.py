"""A tiny random model behind a real server on a real socket, in a thread of the test's process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import uvicorn

from modelwright.data import tokenizer as tokenizers
from modelwright.data.tokenizer import Tokenizer
from modelwright.hub.open import LanguageModel
from modelwright.model.transformer import Config, Transformer, initialise
from modelwright.serve.registry import Registry, Served
from modelwright.serve.server import HEADERS, Limits, Server, Service, listening

V = 320
GPT2 = Config(
    vocab=V, width=32, layers=2, heads=4, kv_heads=4, head=8, ffn=64, context=256, norm="layer", act="gelu_tanh",
    gated=False, attn_bias=True, ffn_bias=True, learned=True,
)  # fmt: skip
TEXTS = ["the cat sat on the mat, the dog did not; a naïve 😀 smile and the end of it all <|im_end|>"] * 3
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% for tool in tools or [] %}"
    "{{ tool.function.name }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def words(template: str | None = TEMPLATE) -> Tokenizer:
    made = tokenizers.train(TEXTS, "bpe", V)
    return Tokenizer(made.inner, made.roles, {"chat_template": template} if template else {})


def build(cfg: Config = GPT2, seed: int = 0, template: str | None = TEMPLATE, **generation: Any) -> LanguageModel:
    """A random model whose choices are far from even, so that a fault in them shows."""
    model = initialise(Transformer(cfg), torch.Generator().manual_seed(seed)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.mul_(3.0 if "norm" not in name else 1.0)
    return LanguageModel(model, words(template), generation)


@dataclass
class Running:
    url: str
    service: Service
    server: Server
    thread: threading.Thread

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)


@contextmanager
def serving(served: Sequence[Served], **limits: Any) -> Iterator[Running]:
    limits = {"slots": 32, **limits}
    registry = Registry(served, slots=limits["slots"])
    service = Service(registry, Limits(**limits))
    listener = listening("127.0.0.1", 0)
    config = uvicorn.Config(
        service.app, http="h11", lifespan="on", log_level="warning", h11_max_incomplete_event_size=HEADERS,
        timeout_graceful_shutdown=1,
        log_config=None,  # its own closes all handlers, and absl's, which TensorBoard brings, close pytest's stderr
    )  # fmt: skip
    server = Server(config, service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    running = Running(f"http://127.0.0.1:{listener.getsockname()[1]}", service, server, thread)
    try:
        until(lambda: server.started)
        yield running
    finally:
        running.stop()
        listener.close()


def until(true: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.005)
