"""`modelwright serve MODEL`: a model, and adapters on it, behind the API that everyone's client speaks.

    1. open the model and its adapters, each asked by the prompt contract that it was tuned and measured under;
    2. refuse an address that others reach without a key; 3. serve, until asked to stop: what runs is finished first.

Left out: several models, TLS (put a proxy before it), more than one process.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from modelwright.data.kind import Task
from modelwright.data.task import prepare, read_task
from modelwright.recipes.flags import parse
from modelwright.serve.registry import Registry, Served, open_served
from modelwright.serve.server import Limits, is_local, listening, run

KEY = "MODELWRIGHT_KEY"


@dataclass(frozen=True)
class Serve:
    """Serve a model over HTTP, as OpenAI's API: completions, conversations, embeddings; and a page to try it on."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A model's or an adapter's directory, or a model's name on the hub."""
    adapter: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=PATH")] = ()
    """An adapter of the model, served by a name of its own; again for each."""
    name: str | None = None
    """What the model is called by those who ask; by default its directory's name."""
    task: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """A task file, for what was tuned by a contract of which it keeps the hash alone."""
    host: str = "127.0.0.1"
    """The address to listen at; one that other machines reach asks for a key."""
    port: int = 8000
    """0 takes one that is free."""
    key: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A key, of which any opens the server; better kept in the environment, as MODELWRIGHT_KEY."""
    origin: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """The origin (https://example.org) of pages elsewhere that may ask this server."""
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    """Of weights and computation; int8: the products' weights and inputs rounded to eight bits."""
    slots: int = 32
    """Texts that are computed together."""
    queue: int = 256
    """Texts that may wait beside them; more are refused with 429."""
    seconds: float = 600
    """That a request may take."""
    grace: float = 30
    """Seconds that requests may still take when the server is asked to stop."""


def main(args: list[str]) -> int:
    o = parse(Serve, args, "modelwright serve")
    limits = check(o)
    listener = listening(o.host, o.port)
    with listener:
        dtype = torch.bfloat16 if o.precision == "bf16" else torch.float32
        served = open_served(o.model, name_of(o), adapters(o.adapter), tasks(o.task), dtype)
        registry = Registry(served, slots=o.slots, int8=o.precision == "int8")
        print("\n".join(told(list(registry.served.values()), address_of(listener))), flush=True)
        run(registry, limits, listener)
    return 0


def check(o: Serve) -> Limits:
    """Raises ValueError for settings that do not go together."""
    for name, least in (("slots", 1), ("queue", 0), ("seconds", 1), ("grace", 0)):
        if getattr(o, name) < least:
            raise ValueError(f"--{name} is {getattr(o, name)}, and must be at least {least}")
    if not 0 <= o.port < 1 << 16:
        raise ValueError(f"--port is {o.port}, and must be from 0 to 65535")
    if wrong := next((one for one in o.origin if not re.fullmatch(r"https?://[^/]+", one)), None):
        raise ValueError(f"--origin is {wrong!r}, and must be as a browser says it: https://example.org")
    return Limits(keys_for(o.host, o.key), o.queue, o.slots, o.origin, (), o.seconds, grace=o.grace)


def keys_for(host: str, said: Sequence[str]) -> tuple[str, ...]:
    """The keys of a server, the environment's too. Raises ValueError where others reach it and there is none."""
    keys = tuple(filter(None, (*said, os.environ.get(KEY, ""))))
    if not keys and not is_local(host):
        raise ValueError(f"{host} can be reached from other machines: give a key (--key, or {KEY} in the environment)")
    return keys


def address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def name_of(o: Serve) -> str:
    """runs/first/model is `first`."""
    if o.name is not None:
        return o.name
    path = Path(o.model).expanduser()
    if not path.is_dir():
        return o.model
    names = [part for part in path.resolve().parts[1:] if part != "model"]
    return names[-1] if names else "model"


def adapters(said: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in said:
        name, equals, path = one.partition("=")
        if not (name and equals and path) or name in found:
            raise ValueError(f"--adapter is {one!r}, and must be NAME=PATH, with another name for each")
        found[name] = path
    return found


def tasks(paths: Sequence[Path]) -> list[Task]:
    """With the labels that their training parts have."""
    return [prepare(read_task(path))[0] for path in paths]


def told(served: Sequence[Served], address: str) -> list[str]:
    """The address, and what is asked for by which name."""
    lines = [f"serving at {address} (Ctrl-C stops it)"]
    for one in served:
        how = f"by its contract {one.contract[:12]}…, {', '.join(one.columns)}" if one.contract else "by a prompt"
        chats = " or a conversation" if one.chats and not one.contract else ""
        lines.append(f"  {one.name}  {how}{chats}" if one.writes else f"  {one.name}  for embeddings")
    return lines
