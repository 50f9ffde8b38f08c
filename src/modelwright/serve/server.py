"""The HTTP server: routes, keys, limits, streams; the only file that knows asyncio, and opens sockets.

A request is read and checked, its prompt rendered beside the event loop, and handed to the worker's thread, which
answers by events. So /health answers while a model computes; a client that leaves is told to the worker at once; and
when too much waits already, more is refused with a time to come again.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import secrets
import socket
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import uvicorn
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modelwright.serve.metrics import Metrics
from modelwright.serve.protocol import BODY, Body, ChatBody, CompletionBody, EmbeddingBody, Refusal, read
from modelwright.serve.registry import Order, Registry, Served
from modelwright.serve.reply import DONE, Calls, ChatForm, Form, Piece, TextForm, Usage, dumped, embeddings, event
from modelwright.serve.worker import Event, Ticket, Worker

PAGE = Path(__file__).with_name("pages") / "playground.html"
POLICY = "default-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"
OPEN = ("/", "/health")  # without a key
HEADERS = 16 << 10  # bytes of a request's headers
HEARD = 16 * BODY  # bytes of a body that is too large, and heard all the same
SMALL = 16 << 10  # bytes of a body that is read in the event loop
HELD = 2048  # pieces of a choice that wait for a client to read
PATIENCE = 1.0  # seconds in which a client reads why its answer ended
BUILDERS, BUILDS = 2, 32  # threads that build grammars, and requests that are built or wait for it
log = logging.getLogger("modelwright.serve")
Kind = TypeVar("Kind", bound=BaseModel)


@dataclass(frozen=True)
class Limits:
    """keys: any of them opens the server; none: it is open to whoever reaches it, by its own name only."""

    keys: tuple[str, ...] = ()
    queue: int = 256  # choices that wait beside those that are computed
    slots: int = 32
    origins: tuple[str, ...] = ()  # of pages of other servers that may ask this one
    hosts: tuple[str, ...] = ()  # names beside localhost that it is asked by
    seconds: float = 600  # of a request
    body: float = 30  # seconds in which a body is to have come
    grace: float = 30  # seconds that what runs may take when the server is asked to stop


class Gone(Exception):
    """The client has left."""


# -- a request under way -------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Answer:
    """A request under way, as those who wait for it see it: what has come of it, and whether they are still there."""

    service: Service
    size: int  # choices, or texts
    inbox: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    began: float = field(default_factory=time.perf_counter)
    task: asyncio.Task[Any] | None = None  # that answers
    watch: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    fault: Exception | None = None  # why it ended before its time

    def __post_init__(self) -> None:
        self.ticket = Ticket(self.put)

    def begin(self, receive: Receive) -> None:
        """From now on a client that leaves, and a time that is over, end it: whatever this task waits for then."""
        seconds = self.service.limits.seconds
        late = Refusal(503, f"the request took more than {seconds:g} seconds: ask for less", code="timeout")
        self.task = asyncio.current_task()
        self.timer = asyncio.get_running_loop().call_later(seconds, self.end, late)
        self.watch = asyncio.create_task(self._watch(receive))

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.service.metrics.left += 1
        self.end(Gone())

    def put(self, said: Event) -> None:
        """What the worker says. Of a client that does not read, so much is kept and no more."""
        self.inbox.put_nowait(said)
        if self.inbox.qsize() > HELD * self.size:
            self.end(Refusal(503, "the answer was not read as fast as it was written", code="timeout"))

    def end(self, fault: Exception) -> None:
        """Nothing more is computed, and what the task waits for is broken off; a client that reads is told why."""
        if self.fault is not None or self.task is None or self not in self.service.under_way:
            return
        self.fault = fault
        self.service.worker.leave(self.ticket)
        self.task.cancel()
        if self.timer is not None:
            self.timer.cancel()
        self.timer = asyncio.get_running_loop().call_later(PATIENCE, self.task.cancel)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Round what the task waits for: where it is broken off by `end`, the reason is raised."""
        try:
            yield
        except asyncio.CancelledError:
            if self.fault is None or self.task is None:
                raise
            self.task.uncancel()
            raise self.fault from None

    def close(self) -> None:
        """It is answered, or nobody waits for it: its slots are free."""
        self.service.worker.leave(self.ticket)
        self.service.under_way.discard(self)
        self.service.metrics.whole.add(time.perf_counter() - self.began)
        for one in (self.watch, self.timer):
            if one is not None:
                one.cancel()

    async def event(self) -> Piece | list[list[float]]:
        """The next event. Raises what went wrong."""
        with self.waiting():
            found = await self.inbox.get()
        if isinstance(found, Exception):
            raise found
        return found

    async def pieces(self) -> AsyncIterator[Piece]:
        """All pieces, until every choice has its last."""
        left, metrics = self.size, self.service.metrics
        last = dict.fromkeys(range(self.size), self.began)
        while left:
            piece = await self.event()
            assert isinstance(piece, Piece)
            now = time.perf_counter()
            (metrics.first if last[piece.choice] == self.began else metrics.each).add(now - last[piece.choice])
            last[piece.choice] = now
            metrics.written += piece.written
            left -= piece.finish is not None
            yield piece


class EventStream(Response):
    """Server-sent events as they come. Whatever ends it, the answer is closed."""

    def __init__(self, events: AsyncIterator[bytes], answer: Answer):
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(media_type="text/event-stream", headers=headers)
        del self.headers["content-length"]
        self.events, self.answer = events, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self.answer.waiting():  # a client that reads nothing holds up `send`
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async for some in self.events:
                    await send({"type": "http.response.body", "body": some, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        finally:
            self.answer.close()


# -- the service ---------------------------------------------------------------------------------------------------


class Service:
    """The routes, and what they share. Its state is the event loop's alone."""

    def __init__(self, registry: Registry, limits: Limits):
        self.registry, self.limits, self.metrics = registry, limits, Metrics()
        tokenizers = {one.engine: one.lm.tokenizer for one in registry.served.values()}
        self.worker = Worker(registry.engines, tokenizers, self._post)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.under_way: set[Answer] = set()
        self.builders = ThreadPoolExecutor(BUILDERS, "grammar")
        self.building: set[Future[tuple[list[Order], int]]] = set()
        self.draining = False

    @property
    def app(self) -> Starlette:
        routes = [
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.complete, methods=["POST"]),
            Route("/v1/embeddings", self.embed, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            Route("/health", self.health),
            Route("/metrics", self.tell),
            Route("/", self.page),
        ]
        cors = Middleware(
            CORSMiddleware, allow_origins=list(self.limits.origins), allow_methods=["GET", "POST"],
            allow_headers=["*"], expose_headers=["x-request-id", "retry-after", "retry-after-ms"],
        )  # fmt: skip
        middleware = [cors] * bool(self.limits.origins) + [Middleware(Guard, limits=self.limits, metrics=self.metrics)]
        handlers: dict[Any, Any] = {Refusal: refused, HTTPException: no_route}
        return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers, lifespan=self._alive)

    @asynccontextmanager
    async def _alive(self, app: Starlette) -> AsyncIterator[None]:
        self.loop = asyncio.get_running_loop()
        self.worker.start()
        yield
        self.builders.shutdown(wait=False, cancel_futures=True)
        await run_in_threadpool(self.worker.stop)

    def _post(self, events: list[tuple[Ticket, Event]]) -> None:
        """From the worker's thread."""
        assert self.loop is not None
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(hand_out, events)

    # -- what is written

    async def chat(self, request: Request) -> Response:
        body = await self._read(ChatBody, request)
        return await self._write(request, body, ChatForm)

    async def complete(self, request: Request) -> Response:
        body = await self._read(CompletionBody, request)
        return await self._write(request, body, TextForm)

    async def _write(self, request: Request, body: ChatBody | CompletionBody, kind: type[Form]) -> Response:
        served = self.registry.get(body.model)
        answer = self._admit(body.choices * len((body.prompt if isinstance(body, CompletionBody) else None) or [0]))
        try:
            answer.begin(request.receive)
            with answer.waiting():
                owner = key_of(request.headers) if self.limits.keys else None
                orders, prompt = await self._orders(served, body, owner)
            form = kind(served.name, body.top, body.likely or 0, body.usage_wanted, orders[0].seed)
            pieces = self._start(answer, body, orders, prompt)
            if body.stream:
                first = await anext(pieces)  # what fails before it is an answer with a status of its own
                return EventStream(streamed(answer, form, chained(first, pieces), prompt), answer)
            found = await gathered(pieces, answer.size)
        except BaseException:
            answer.close()
            raise
        answer.close()
        usage = Usage(prompt, sum(some[-1].written for some in found))
        return Response(dumped(form.answer(found, usage)), media_type="application/json")

    async def _orders(self, served: Served, body: Body, owner: str | None) -> tuple[list[Order], int]:
        """Grammars may take seconds to build: they have threads of their own, so that no other request waits for them.

        Raises Refusal (429) where many wait for that already.
        """
        if not body.held:
            return await run_in_threadpool(self.registry.orders, served, body, owner)
        if len(self.building) >= BUILDS:
            raise Refusal(429, "too many requests with a schema or tools wait already: come again in a second")
        future = self.builders.submit(self.registry.orders, served, body, owner)
        self.building.add(future)
        future.add_done_callback(self.building.discard)  # not before: a thread that builds cannot be broken off
        return await asyncio.wrap_future(future)

    def _start(self, answer: Answer, body: Body, orders: Sequence[Order], prompt: int) -> AsyncIterator[Piece]:
        self.metrics.prompt += prompt
        self.worker.submit(answer.ticket, orders)
        offered = [tool["function"]["name"] for tool in body.offered] if isinstance(body, ChatBody) else []
        return shown(answer.pieces(), Calls(offered))

    # -- embeddings

    async def embed(self, request: Request) -> Response:
        body = await self._read(EmbeddingBody, request)
        served = self.registry.get(body.model)
        answer = self._admit(1)
        try:
            answer.begin(request.receive)
            with answer.waiting():
                rows = await run_in_threadpool(served.texts, body)
            tokens = sum(map(len, rows))
            self.metrics.prompt += tokens
            self.worker.embed(answer.ticket, served, rows)
            vectors = await answer.event()
        finally:
            answer.close()
        assert isinstance(vectors, list)
        found = embeddings(served.name, vectors, tokens, body.encoding_format == "base64")
        return Response(dumped(found), media_type="application/json")

    # -- what there is

    async def models(self, request: Request) -> Response:
        return answered({"object": "list", "data": [one.json for one in self.registry.served.values()]})

    async def model(self, request: Request) -> Response:
        return answered(self.registry.get(request.path_params["name"]).json)

    async def health(self, request: Request) -> Response:
        alive = self.worker.alive
        status = "failed" if not alive else "draining" if self.draining else "ok"
        levels = {"running": self.worker.running, "waiting": self.worker.waiting}
        return answered({"status": status, **levels}, 200 if alive else 503)

    async def tell(self, request: Request) -> Response:
        levels = {"requests_under_way": len(self.under_way), "running": self.worker.running,
                  "waiting": self.worker.waiting, "steps": self.worker.steps}  # fmt: skip
        return Response(self.metrics.text(levels), media_type="text/plain; version=0.0.4")

    async def page(self, request: Request) -> Response:
        if not PAGE.is_file():
            raise HTTPException(404)
        return FileResponse(PAGE, headers={"content-security-policy": POLICY})

    # -- what may come in

    async def _read(self, kind: type[Kind], request: Request) -> Kind:
        try:
            async with asyncio.timeout(self.limits.body):
                data = await body_of(request)
        except TimeoutError:
            raise Refusal(400, f"the body had not come after {self.limits.body:g} seconds") from None
        return read(kind, data) if len(data) < SMALL else await run_in_threadpool(read, kind, data)

    def _admit(self, size: int) -> Answer:
        """Raises Refusal where the server stops or has failed (503), or too much waits already (429)."""
        most = self.limits.slots + self.limits.queue
        if size > most:
            raise Refusal(400, f"the request asks for {size} choices, and the server takes {most} at once", param="n")
        if self.draining:
            raise Refusal(503, "the server is about to stop: ask another, or later")
        if not self.worker.alive:
            raise Refusal(503, "the server has failed and computes nothing more: it is to be started again")
        if sum(answer.size for answer in self.under_way) + size > most:
            raise Refusal(429, "too many requests wait already: come again in a second")
        answer = Answer(self, size)
        self.under_way.add(answer)
        return answer

    def abort(self) -> None:
        """What is under way ends here, and is told so."""
        for answer in self.under_way:
            answer.end(Refusal(503, "the server stops"))


def hand_out(events: list[tuple[Ticket, Event]]) -> None:
    for ticket, said in events:
        ticket.put(said)


async def shown(pieces: AsyncIterator[Piece], calls: Calls) -> AsyncIterator[Piece]:
    async for piece in pieces:
        if (found := calls.take(piece)) is not None:
            yield found


async def chained(first: Piece, rest: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    yield first
    async for piece in rest:
        yield piece


async def streamed(answer: Answer, form: Form, pieces: AsyncIterator[Piece], prompt: int) -> AsyncIterator[bytes]:
    """The events of a stream; a fault in the midst of it is one too, and then the end."""
    offsets, written = [0] * answer.size, 0
    try:
        if begun := form.begin(answer.size):
            yield b"".join(begun)
        async for piece in pieces:
            if chunks := form.chunk(piece.choice, piece, offsets[piece.choice]):
                yield b"".join(chunks)
            offsets[piece.choice] += sum(len(token.text) for token in piece.tokens)
            written += piece.written
        yield b"".join(form.end(Usage(prompt, written)))
    except Gone:
        return
    except Exception as error:
        yield event(refusal_of(error).body) + DONE


async def gathered(pieces: AsyncIterator[Piece], choices: int) -> list[list[Piece]]:
    """All pieces, by choice."""
    found: list[list[Piece]] = [[] for _ in range(choices)]
    async for piece in pieces:
        found[piece.choice].append(piece)
    return found


async def body_of(request: Request) -> bytes:
    """Raises Refusal (413) for one that is too large, of which no more is kept; most of it is heard to its end, since
    a client that is still speaking would not hear the answer."""
    found, size = bytearray(), 0
    said = request.headers.get("content-length", "0")
    if said.isdecimal() and int(said) <= HEARD:
        async for some in request.stream():
            size += len(some)
            found += some if size <= BODY else b""
            if size > HEARD:
                break
        if size <= BODY:
            return bytes(found)
    raise Refusal(413, f"the body is larger than {BODY} bytes")


# -- faults --------------------------------------------------------------------------------------------------------


def refusal_of(error: Exception) -> Refusal:
    """What a client is told of a fault: of one of ours, no more than that there was one."""
    return (
        error
        if isinstance(error, Refusal)
        else Refusal(500, "the server failed on this request", code="internal_error")
    )


async def refused(request: Request, error: Exception) -> Response:
    return refusal_response(refusal_of(error))


async def no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    there = "/ (a page), /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models, /health and /metrics"
    what = (
        f"{request.url.path[:80]!r} takes no {request.method}" if error.status_code == 405 else "there is nothing here"
    )
    return refusal_response(Refusal(error.status_code, f"{what}: there is {there}"))


def refusal_response(refusal: Refusal) -> Response:
    headers = {}
    if refusal.status in (429, 503):
        headers = {"retry-after": "1", "retry-after-ms": "1000"}
    if refusal.status == 401:
        headers = {"www-authenticate": "Bearer"}
    if refusal.status == 413:
        headers = {"connection": "close"}  # what is left of the body is not read
    return answered(refusal.body, refusal.status, headers)


def answered(said: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(dumped(said), status, headers, media_type="application/json")


class Guard:
    """Round every route: who may ask, a name for the request, and no fault that shows what is inside."""

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics):
        self.app, self.limits, self.metrics = app, limits, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        name, begun = f"req-{secrets.token_hex(12)}", False

        async def told(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                MutableHeaders(scope=message).update({"x-request-id": name, "x-content-type-options": "nosniff"})
                self.metrics.requests[route_of(scope), message["status"]] += 1
            await send(message)

        try:
            self.check(scope)
            await self.app(scope, receive, told)
        except (Gone, ClientDisconnect):
            return
        except Exception as error:
            if not isinstance(error, Refusal):
                log.exception("%s failed", name)
            if not begun:
                await refusal_response(refusal_of(error))(scope, receive, told)

    def check(self, scope: Scope) -> None:
        """Raises Refusal. Without keys, a page that a browser shows from elsewhere is not to reach a server at home."""
        headers = Headers(scope=scope)
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEADERS:
            raise Refusal(431, f"the headers have more than {HEADERS} bytes")
        if scope["path"] in OPEN:
            return
        if self.limits.keys:
            if not known_key(headers, self.limits.keys):
                asks = "this server asks for a key: Authorization: Bearer KEY, or X-Api-Key: KEY"
                said = "the key is not one of this server's" if key_of(headers) else asks
                raise Refusal(401, said, code="invalid_api_key")
            return
        said, origin = headers.get("host", ""), headers.get("origin")
        host = split(f"//{said}")[0]
        if not is_local(host) and host not in self.limits.hosts:
            raise Refusal(
                403, f"this server has no key, and is not asked by the name {host[:80]!r}: start it with --key"
            )
        if origin and origin not in self.limits.origins and split(origin)[1] != said:
            raise Refusal(403, f"pages of {origin[:80]!r} may not ask this server: start it with --origin")


def split(url: str) -> tuple[str, str]:
    """The host's name, and with its port; nothing of what is no URL."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.netloc
    except ValueError:
        return "", ""


def known_key(headers: Headers, keys: Sequence[str]) -> bool:
    """Compared in a time that tells nothing of how much is right."""
    found = [hmac.compare_digest(key_of(headers).encode(), key.encode()) for key in keys]
    return any(found)


def key_of(headers: Headers) -> str:
    return headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")


def is_local(host: str) -> bool:
    """Whether a name or address is this machine's own, and no other machine reaches it by that."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def route_of(scope: Scope) -> str:
    """The path of a route; whatever else was asked for is one route more, so that nobody can make more of them."""
    path: str = scope["path"]
    if path.startswith("/v1/models/"):
        return "/v1/models/{id}"
    known = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/health", "/metrics", "/")
    return path if path in known else "other"


# -- running -------------------------------------------------------------------------------------------------------


class Server(uvicorn.Server):
    """Asked to stop, it refuses what is new and lets what runs come to its end, for a while; asked twice, it stops."""

    def __init__(self, config: uvicorn.Config, service: Service):
        super().__init__(config)
        self.service, self.until = service, float("inf")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.service.draining:
            self.until = 0.0
        else:
            self.service.draining = True
            self.until = time.monotonic() + self.service.limits.grace

    async def on_tick(self, counter: int) -> bool:
        over = time.monotonic() > self.until
        if self.service.draining and (over or not self.service.under_way):
            self.service.abort()
            self.should_exit = True
        return await super().on_tick(counter)


def listening(host: str, port: int) -> socket.socket:
    """Raises ValueError where the address is not to be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise ValueError(
            f"{host}:{port} cannot be listened at: {error.strerror or error}; take another --port"
        ) from None


def run(registry: Registry, limits: Limits, listener: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    service = Service(registry, limits)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # of a client that takes nothing, even the socket has an end
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, min(int(1000 * limits.seconds), (1 << 31) - 1))
    config = uvicorn.Config(
        service.app, http="h11", lifespan="on", log_level="warning", access_log=False, server_header=False,
        proxy_headers=False, h11_max_incomplete_event_size=HEADERS, timeout_graceful_shutdown=5,
    )  # fmt: skip
    Server(config, service).run(sockets=[listener])
