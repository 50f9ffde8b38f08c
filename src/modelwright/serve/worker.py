"""The thread that owns the engines: all that is asked comes to it by a queue, and nothing else touches a model.

Between two steps it takes in what has come, so that whoever leaves has left before the next. What a step has written
goes back in one call of `post`, from this thread: it is asyncio's to bring it to those who wait. A fault in a step ends
the requests that were under way, and is told to each; the thread goes on.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from queue import SimpleQueue

import torch
from torch import Tensor

from modelwright.adapt.prompt import soft_ids
from modelwright.data.tokenizer import Decoder, Tokenizer
from modelwright.infer.engine import Engine, New, Request, Stream, evaluating
from modelwright.infer.text import Writer
from modelwright.model.transformer import Transformer
from modelwright.serve.protocol import Refusal
from modelwright.serve.registry import Order, Served
from modelwright.serve.reply import Beside, Piece, Token

Event = Piece | Exception | list[list[float]]
log = logging.getLogger("modelwright.serve")


@dataclass(eq=False)
class Ticket:
    """A request under way. `put` is what brings its events to who asked; it is called by whom `post` hands them to."""

    put: Callable[[Event], None]
    streams: list[Stream] = field(default_factory=list)  # the thread's own
    left: bool = False


Post = Callable[[list[tuple[Ticket, Event]]], None]


# -- a text under way ----------------------------------------------------------------------------------------------


class Heard(Decoder):
    """A decoder that remembers the text that its last token gave."""

    last = ""

    def push(self, token: int) -> str:
        self.last = super().push(token)
        return self.last

    def finish(self) -> str:
        self.last = super().finish()
        return self.last

    def alone(self, token: int) -> str:
        """The text of a token that might come next; of a special one its name."""
        if token in self.tokenizer.special:
            return self.tokenizer.inner.id_to_token(token) or ""
        if self.tokenizer.inner.id_to_token(token) is None:
            return ""
        return self.tokenizer.decode([*self._window, token], special=self.special)[self._shown :]


def begun(tokenizer: Tokenizer, request: Request) -> Heard:
    """A decoder that has read what stands before the text, which may change how it begins."""
    decoder = Heard(tokenizer)
    for token in () if request.source is not None else request.prompt[-8:]:
        decoder.push(token)
    return decoder


class Draft:
    """One choice being written: its tokens as text, and the tokens' own texts, which joined are the text."""

    def __init__(self, ticket: Ticket, choice: int, stream: Stream, tokenizer: Tokenizer, stop: tuple[str, ...]):
        self.ticket, self.choice, self.stream = ticket, choice, stream
        self.decoder = begun(tokenizer, stream.request)
        self.writer = Writer(self.decoder, stop)
        self.due = 0  # characters that were shown and whose tokens were not told yet
        self.waiting: deque[Token] = deque()

    def take(self, new: New) -> Piece:
        """What can be shown with one more token, which is no text where it ends the text."""
        said, ending = "", new.token in self.stream.request.ends
        if not ending:
            beside = [Beside(one.token, self.decoder.alone(one.token), one.logprob, one.after) for one in new.likely]
            said = self.writer.push(new.token)
            if new.logprob is not None:
                self.waiting.append(Token(new.token, self.decoder.last, new.logprob, beside))
        finish = "stop" if self.writer.stopped else new.finish
        if finish is None:
            return Piece(self.choice, said, self.released(said))
        stopped = self.writer.stopped
        self.decoder.last = ""
        said += self.writer.finish()
        tokens = self.released(said, rest="" if stopped else self.decoder.last, last=True)
        finish = "length" if finish == "context" else "stop" if self.writer.stopped else finish
        return Piece(self.choice, said, tokens, finish, self.stream.written)

    def released(self, said: str, rest: str = "", last: bool = False) -> list[Token]:
        """The tokens of which the whole text is shown; with the last piece, what is shown of one that a stop string
        cuts. `rest` is text that only the end gave: that of half a character, whose token waits for its other half."""
        if rest and self.waiting:
            token = self.waiting.pop()
            self.waiting.append(replace(token, text=token.text + rest))
        self.due += len(said)
        found: list[Token] = []
        while self.waiting and len(self.waiting[0].text) <= self.due and (last or any(t.text for t in self.waiting)):
            found.append(self.waiting.popleft())
            self.due -= len(found[-1].text)
        if last and self.due and self.waiting:
            found.append(replace(self.waiting[0], text=self.waiting[0].text[: self.due]))
        return found


# -- labels --------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Choice:
    """One choice that is to be a label: all of them are weighed, and the likeliest is the answer."""

    ticket: Ticket
    choice: int
    order: Order
    weighed: list[Stream]

    def piece(self, tokenizer: Tokenizer) -> Piece:
        """The first of those whose log p, summed over its tokens, is the highest. It is told as one token: the
        candidates beside it are labels, each with its number, its log p, and its share of what all of them have."""
        request, labels = self.order.request, self.order.labels
        logps = [sum(score.logp for score in stream.scores) for stream in self.weighed]
        shares = torch.tensor(logps, dtype=torch.float64).softmax(0).tolist()
        ranked = sorted(range(len(labels)), key=lambda at: -logps[at])[: max(1, request.likely)]
        beside = [Beside(at, said(tokenizer, request, labels[at]), logps[at], {"labels": shares[at]}) for at in ranked]
        best = beside[0]
        told = [Token(best.id, best.text, best.logprob, beside)] if request.sampling.logprobs else []
        return Piece(self.choice, best.text, told, "stop", len(labels[best.id]))


def said(tokenizer: Tokenizer, request: Request, label: Sequence[int]) -> str:
    """A label's text as it stands behind the prompt."""
    decoder = begun(tokenizer, request)
    return "".join(decoder.push(token) for token in label if token not in request.ends) + decoder.finish()


# -- the thread ----------------------------------------------------------------------------------------------------


class Worker:
    """Runs in its own thread from `start` to `stop`; all other methods are for any thread."""

    def __init__(self, engines: Mapping[str, Engine], tokenizers: Mapping[str, Tokenizer], post: Post):
        """tokenizers: of each engine."""
        self.engines, self.tokenizers, self.post = engines, tokenizers, post
        self.asked: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.drafts: dict[Stream, Draft] = {}
        self.weighing: list[Choice] = []
        self.chores: deque[Iterator[None]] = deque()  # embeddings, a forward between two steps
        self.events: list[tuple[Ticket, Event]] = []
        self.steps = 0
        self.thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """No more steps; whoever waits is told nothing more."""
        self.asked.put(None)
        self.thread.join()

    def submit(self, ticket: Ticket, orders: Sequence[Order]) -> None:
        self.asked.put(lambda: self._submit(ticket, orders))

    def embed(self, ticket: Ticket, served: Served, rows: Sequence[Sequence[int]]) -> None:
        """The event is a vector for each row of ids."""
        self.asked.put(lambda: self.chores.append(self._embed(ticket, served, rows)))

    def leave(self, ticket: Ticket) -> None:
        """Nobody waits for it any more: nothing more is computed for it, from the next step on."""
        self.asked.put(lambda: self._leave(ticket))

    @property
    def alive(self) -> bool:
        return self.thread.is_alive()

    @property
    def running(self) -> int:
        return sum(len(engine.scheduler.running) for engine in self.engines.values())

    @property
    def waiting(self) -> int:
        return sum(len(engine.scheduler.waiting) for engine in self.engines.values())

    # -- in the thread

    def _run(self) -> None:
        while self._take_in():
            for name, engine in self.engines.items():
                if not engine.scheduler.idle:
                    self._step(name, engine)
            if self.chores:
                self._chore()
            if self.events:
                events, self.events = self.events, []
                self.post(events)

    def _take_in(self) -> bool:
        """What has come since; where there is nothing to do, wait for something. False: the end."""
        idle = not self.chores and all(engine.scheduler.idle for engine in self.engines.values())
        while idle or not self.asked.empty():
            if (asked := self.asked.get()) is None:
                return False
            asked()
            idle = False
        return True

    def _submit(self, ticket: Ticket, orders: Sequence[Order]) -> None:
        if ticket.left:
            return
        try:
            for choice, order in enumerate(orders):
                if order.labels:
                    weighed = [self._begin(ticket, order.engine, one) for one in order.weighed]
                    self.weighing.append(Choice(ticket, choice, order, weighed))
                else:
                    stream = self._begin(ticket, order.engine, order.request)
                    tokenizer = self.tokenizers[order.engine]
                    self.drafts[stream] = Draft(ticket, choice, stream, tokenizer, order.stop)
        except Exception as error:
            self._fail(ticket, error)

    def _begin(self, ticket: Ticket, engine: str, request: Request) -> Stream:
        stream = self.engines[engine].submit(request)
        ticket.streams.append(stream)  # before what may fail: who is told of a fault leaves all of these
        return stream

    def _choose(self) -> None:
        """What was weighed to its end is answered."""
        for one in [one for one in self.weighing if all(stream.ended for stream in one.weighed)]:
            self.weighing.remove(one)
            try:
                self.events.append((one.ticket, one.piece(self.tokenizers[one.order.engine])))
            except Exception as error:
                self._fail(one.ticket, error)

    def _step(self, name: str, engine: Engine) -> None:
        self.steps += 1
        try:
            for stream, new in engine.step():
                self._written(engine, stream, new)
            self._choose()
        except Exception as error:
            log.exception("a step of %s failed", name)
            self._give_up(engine, error)

    def _give_up(self, engine: Engine, error: Exception) -> None:
        """Nothing of this engine's goes on: all that is told here is told the fault, also of a text that the engine
        itself has ended, and whose last piece was not told."""
        drafts = [draft.ticket for draft in self.drafts.values() if draft.stream.engine is engine]
        weighing = [one.ticket for one in self.weighing if one.weighed[0].engine is engine]
        for ticket in dict.fromkeys(drafts + weighing):
            self._fail(ticket, error)
        for stream in list(engine.streams.values()):
            engine.leave(stream)

    def _written(self, engine: Engine, stream: Stream, new: New) -> None:
        if (draft := self.drafts.get(stream)) is None:
            return
        piece = draft.take(new)
        if piece.finish and (fault := getattr(stream.request.grammar, "fault", None)):
            return self._fail(draft.ticket, Refusal(400, f"the answer cannot be completed by the schema: {fault}"))
        self.events.append((draft.ticket, piece))
        if piece.finish:
            engine.leave(stream)
            del self.drafts[stream]

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        self.events.append((ticket, error))
        self._leave(ticket)

    def _leave(self, ticket: Ticket) -> None:
        ticket.left = True
        for stream in ticket.streams:
            stream.engine.leave(stream)
            self.drafts.pop(stream, None)
        self.weighing = [one for one in self.weighing if one.ticket is not ticket]

    def _chore(self) -> None:
        """One forward for those whose texts are embedded, each in turn."""
        chore = self.chores.popleft()
        for _ in chore:
            self.chores.append(chore)
            break

    def _embed(self, ticket: Ticket, served: Served, rows: Sequence[Sequence[int]]) -> Iterator[None]:
        engine, soft = self.engines[served.engine], soft_ids(served.lm.model)
        model = engine.model
        try:
            vectors: list[list[float]] = []
            for row in rows:
                total = torch.zeros(model.cfg.width, dtype=torch.float64)
                for part in parts(model, row, len(soft)):
                    if ticket.left:
                        return
                    if engine.bank is not None:
                        engine.bank.rows([(served.adapter, len(soft) + len(part))])
                    total += summed(model, [*soft, *part], len(soft))
                    yield
                vectors.append((total / len(row)).float().tolist())
            self.events.append((ticket, vectors))
        except Exception as error:
            log.exception("texts could not be embedded")
            self.events.append((ticket, error))


# -- embeddings ----------------------------------------------------------------------------------------------------


def parts(model: Transformer, row: Sequence[int], soft: int) -> Iterator[Sequence[int]]:
    """A long text in pieces of the context, behind the soft prompt."""
    room = (model.cfg.encoder or model.cfg).context - soft
    for start in range(0, len(row), room):
        yield row[start : start + room]


@torch.inference_mode()
def summed(model: Transformer, ids: Sequence[int], soft: int) -> Tensor:
    """The last layer's vectors of a text's tokens, summed: (C) float64. Of an encoder-decoder, its encoder's."""
    tokens = torch.tensor([list(ids)], device=model.embed.tokens.weight.device)
    with evaluating(model):
        x = model.hidden(tokens) if model.encoder is None else model.encode(tokens).x  # (1, T, C)
    return x[0, soft:].double().sum(0).cpu()
