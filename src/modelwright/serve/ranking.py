"""The ranking page over HTTP: one page, and the few requests that it makes. Keys and limits are `serve.server`'s."""

from __future__ import annotations

import socket
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, TypeVar

import uvicorn
from pydantic import BaseModel, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from modelwright.serve.labelling import Round, Turn
from modelwright.serve.metrics import Metrics
from modelwright.serve.protocol import Refusal, parse
from modelwright.serve.server import HEADERS, POLICY, Guard, Limits, answered, body_of, refusal_response, refused

PAGE = Path(__file__).with_name("pages") / "rank.html"
Name = Annotated[str, Field(min_length=1, max_length=60, pattern=r"\S")]
Kind = TypeVar("Kind", bound=BaseModel)


class Who(BaseModel):
    labeller: Name


class Undone(Who):
    judgement: str = Field(max_length=64)  # which, so that the page may ask for the same again


class Judged(Who):
    """ranks: of each completion as it was shown, 1 the best; none is a skip."""

    id: str = Field(min_length=8, max_length=64)  # the page's own, so that it may send the same again
    item: str = Field(max_length=200)
    ranks: list[Annotated[int, Field(ge=1, le=99)]] | None
    seconds: float = Field(ge=0, le=1e7)


class Service:
    """The routes of one round."""

    def __init__(self, labelling: Round, limits: Limits):
        self.round, self.limits = labelling, limits

    @property
    def app(self) -> Starlette:
        routes = [
            Route("/", self.page),
            Route("/health", self.health),
            Route("/round", self.about),
            Route("/turn", self.turn, methods=["POST"]),
            Route("/judge", self.judge, methods=["POST"]),
            Route("/undo", self.undo, methods=["POST"]),
        ]
        handlers: dict[Any, Any] = {Refusal: refused, HTTPException: no_route}
        guard = Middleware(Guard, limits=self.limits, metrics=Metrics())
        return Starlette(routes=routes, middleware=[guard], exception_handlers=handlers)

    async def page(self, request: Request) -> Response:
        return FileResponse(PAGE, headers={"content-security-policy": POLICY, "cache-control": "no-cache"})

    async def health(self, request: Request) -> Response:
        return answered({"status": "ok"})

    async def about(self, request: Request) -> Response:
        return answered({"criterion": self.round.criterion, "prompts": len(self.round.items)})

    async def turn(self, request: Request) -> Response:
        who = await read(Who, request)
        return await run_in_threadpool(self._next, who.labeller)

    async def judge(self, request: Request) -> Response:
        said = await read(Judged, request)
        return await run_in_threadpool(self._judge, said)

    async def undo(self, request: Request) -> Response:
        said = await read(Undone, request)
        return await run_in_threadpool(self._undo, said)

    # -- in a thread, since the disk is waited for

    def _judge(self, said: Judged) -> Response:
        try:
            kept = self.round.judge(said.id, said.labeller, said.item, said.ranks, said.seconds)
        except KeyError:
            raise Refusal(404, f"there is no prompt {said.item!r}: load the page again") from None
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        except OSError as error:
            raise Refusal(503, f"the ranking could not be written down: {error.strerror or error}") from None
        return self._next(said.labeller, kept=kept)

    def _undo(self, said: Undone) -> Response:
        try:
            self.round.undo(said.labeller, said.judgement)
        except OSError as error:
            raise Refusal(503, f"the undoing could not be written down: {error.strerror or error}") from None
        return self._next(said.labeller)

    def _next(self, labeller: str, **more: Any) -> Response:
        turn = self.round.turn(labeller)
        end = {} if turn.item else {"agreement": self.round.agreement()}
        return answered(told(turn) | end | more)


def told(turn: Turn) -> dict[str, Any]:
    """What the page is told: nothing of who wrote what."""
    item = turn.item and {"id": turn.item.id, "prompt": turn.item.prompt, "completions": turn.completions}
    progress = {"ranked": turn.ranked, "skipped": turn.skipped, "of": turn.of}
    return {"labeller": turn.labeller, "item": item, "progress": progress, "last": turn.last}


async def read(kind: type[Kind], request: Request) -> Kind:
    """Raises Refusal (400) in a sentence that names the field."""
    try:
        return kind.model_validate(parse(await body_of(request)))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise Refusal(400, f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}") from None


async def no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refusal_response(Refusal(error.status_code, "there is nothing here: the page is at /"))


class Server(uvicorn.Server):
    """Asked to stop, it stops, and what called it goes on."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.should_exit = True


def run(labelling: Round, limits: Limits, listener: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    config = uvicorn.Config(
        Service(labelling, limits).app, http="h11", lifespan="off", log_level="warning", access_log=False,
        server_header=False, proxy_headers=False, h11_max_incomplete_event_size=HEADERS, timeout_graceful_shutdown=5,
    )  # fmt: skip
    Server(config).run(sockets=[listener])
