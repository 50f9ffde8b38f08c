"""The thread that owns the engines: texts and their tokens, who leaves, what goes wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from modelwright.infer.engine import Engine, New, Request
from modelwright.infer.sample import Likely, Sampling, generators
from modelwright.infer.text import writer
from modelwright.serve.registry import Order, Served
from modelwright.serve.reply import Piece
from modelwright.serve.worker import Draft, Event, Ticket, Worker
from served import build, until

LM = build()
ENDLESS = Sampling(max_new=200, temperature=1.0, logprobs=True)


class Asked:
    """A worker whose events are kept."""

    def __init__(self) -> None:
        self.engine = Engine(LM.model)
        self.worker = Worker({"a": self.engine}, {"a": LM.tokenizer}, self.post)
        self.batches: list[int] = []

    def post(self, events: list[tuple[Ticket, Event]]) -> None:
        self.batches.append(len(events))
        for ticket, event in events:
            ticket.put(event)

    def submit(
        self, *prompts: str, sampling: Sampling = ENDLESS, stop: tuple[str, ...] = ()
    ) -> tuple[Ticket, list[Event]]:
        found: list[Event] = []
        ticket = Ticket(found.append)
        ids = [LM.tokenizer.encode(prompt, special=True) for prompt in prompts]
        orders = [Order("a", Request(p, sampling, generator=g), ())
                  for p, g in zip(ids, generators(ids, 1, 7), strict=True)]  # fmt: skip
        self.worker.submit(ticket, orders)
        return ticket, found


@pytest.fixture
def asked() -> Iterator[Asked]:
    made = Asked()
    made.worker.start()
    yield made
    made.worker.stop()
    assert not made.worker.thread.is_alive()


def ended(found: list[Event], choices: int = 1) -> Callable[[], bool]:
    return lambda: sum(isinstance(one, Piece) and one.finish is not None for one in found) == choices


def test_choices_are_told_apart_and_counted(asked: Asked) -> None:
    _, found = asked.submit("the cat", "a dog", sampling=Sampling(max_new=9, temperature=1.0))
    until(ended(found, 2))
    pieces = [one for one in found if isinstance(one, Piece)]
    last = [piece for piece in pieces if piece.finish]
    assert sorted((piece.choice, piece.finish, piece.written) for piece in last) == [(0, "length", 9), (1, "length", 9)]
    assert not any(piece.tokens for piece in pieces)  # no log-probabilities were asked for
    assert max(asked.batches) == 2  # one message a step
    assert asked.engine.scheduler.idle


def test_whoever_leaves_is_gone_before_the_next_step_but_one(asked: Asked) -> None:
    ticket, found = asked.submit("the cat", "a dog")
    other, others = asked.submit("the end")
    until(lambda: len(found) > 4)
    before = asked.worker.steps
    gone: list[int] = []
    asked.worker.leave(ticket)
    asked.worker.asked.put(lambda: gone.append(asked.worker.steps))
    until(lambda: gone)
    after = len(found)
    assert gone[0] - before <= 2
    until(ended(others))
    assert len(found) == after
    assert asked.engine.scheduler.blocks.available == asked.engine.scheduler.blocks.count
    asked.worker.leave(ticket)  # again, and of one that has ended: nothing happens
    asked.worker.leave(other)
    _, more = asked.submit("the cat", sampling=Sampling(max_new=3, temperature=0.0))
    until(ended(more))


def test_who_left_before_the_beginning_is_never_begun(asked: Asked) -> None:
    ticket = Ticket(lambda event: pytest.fail("nobody waits"))
    asked.worker.asked.put(lambda: asked.worker._leave(ticket))
    asked.worker.submit(ticket, [Order("a", Request([5], ENDLESS), ())])
    _, found = asked.submit("the cat", sampling=Sampling(max_new=3, temperature=0.0))
    until(ended(found))
    assert len(asked.engine.streams) == 0


def test_what_cannot_be_begun_is_told_and_others_go_on(asked: Asked) -> None:
    found: list[Event] = []
    asked.worker.submit(Ticket(found.append), [Order("a", Request([5] * 999, ENDLESS), ())])
    _, other = asked.submit("the cat", sampling=Sampling(max_new=3, temperature=0.0))
    until(ended(other))
    assert isinstance(found[0], ValueError)
    assert "999 tokens" in str(found[0])


def test_a_fault_in_a_step_ends_what_is_under_way_and_nothing_else(asked: Asked, monkeypatch: Any, caplog: Any) -> None:
    _, first = asked.submit("the cat")
    until(lambda: len(first) > 3)
    monkeypatch.setattr(asked.engine.model, "logits", lambda hidden: 1 / 0)
    until(lambda: isinstance(first[-1], Exception))
    monkeypatch.undo()
    assert isinstance(first[-1], ZeroDivisionError)
    assert "a step of a failed" in caplog.text
    _, found = asked.submit("the cat", sampling=Sampling(max_new=3, temperature=0.0))
    until(ended(found))
    assert asked.engine.scheduler.blocks.available == asked.engine.scheduler.blocks.count


def test_a_fault_while_a_piece_is_told_is_told_to_all_who_are_under_way(asked: Asked, monkeypatch: Any) -> None:
    """Also to those whose last token came in that step, which the engine knows no more."""
    take, short = Draft.take, Sampling(max_new=3, temperature=0.0)
    found: list[list[Event]] = [[], [], []]
    tickets = [Ticket(one.append) for one in found]

    def failing(self: Draft, new: New) -> Piece:
        if self.ticket is tickets[0] and new.finish:
            raise RuntimeError("no piece")
        return take(self, new)

    monkeypatch.setattr(Draft, "take", failing)
    orders = [[Order("a", Request([5], sampling), ())] for sampling in (short, short, replace(short, max_new=99))]
    asked.worker.asked.put(lambda: [asked.worker._submit(*one) for one in zip(tickets, orders, strict=True)] and None)
    until(lambda: all(one and isinstance(one[-1], RuntimeError) for one in found))
    assert not asked.worker.drafts
    assert not asked.engine.streams
    _, other = asked.submit("the cat", sampling=short)
    until(ended(other))


LABELS = [(5, 9), (7, 9), (5, 6, 7, 9)]


def labelled() -> Order:
    return Order("a", Request([5, 6], Sampling(max_new=4, temperature=0.0), ends=[9]), (), LABELS)


def test_a_fault_while_labels_are_weighed_is_told(asked: Asked, monkeypatch: Any) -> None:
    found: list[Event] = []
    monkeypatch.setattr(asked.engine.model, "logits", lambda hidden: 1 / 0)
    asked.worker.submit(Ticket(found.append), [labelled()])
    until(lambda: found)
    monkeypatch.undo()
    assert isinstance(found[0], ZeroDivisionError)
    assert not asked.worker.weighing
    assert not asked.engine.streams


def test_a_label_that_cannot_be_written_is_told(asked: Asked, monkeypatch: Any) -> None:
    found: list[Event] = []
    monkeypatch.setattr(asked.worker, "tokenizers", {"a": None})
    asked.worker.submit(Ticket(found.append), [labelled()])
    until(lambda: found)
    monkeypatch.undo()
    assert isinstance(found[0], AttributeError)
    assert not asked.engine.streams


def test_whoever_leaves_while_labels_are_weighed_is_told_nothing(asked: Asked) -> None:
    ticket = Ticket(lambda event: pytest.fail("nobody waits"))

    def come_and_go() -> None:
        asked.worker._submit(ticket, [labelled()])
        asked.worker._leave(ticket)

    asked.worker.asked.put(come_and_go)
    found: list[Event] = []
    asked.worker.submit(Ticket(found.append), [labelled(), labelled()])
    until(ended(found, 2))
    assert not asked.worker.weighing
    assert asked.engine.scheduler.blocks.available == asked.engine.scheduler.blocks.count


def test_what_has_no_draft_leaves_nothing_behind(asked: Asked, monkeypatch: Any) -> None:
    monkeypatch.setattr(Draft, "__init__", lambda *said: 1 / 0)
    _, found = asked.submit("the cat")
    until(lambda: found)
    monkeypatch.undo()
    assert isinstance(found[0], ZeroDivisionError)
    assert asked.engine.scheduler.idle
    asked.worker.asked.put(lambda: asked.engine.submit(Request([5], ENDLESS)) and None)  # one that nobody told of
    until(lambda: asked.engine.streams)
    monkeypatch.setattr(asked.engine.model, "logits", lambda hidden: 1 / 0)
    until(lambda: not asked.engine.streams)
    monkeypatch.undo()
    _, other = asked.submit("the cat", sampling=Sampling(max_new=3, temperature=0.0))
    until(ended(other))


def test_embeddings_take_turns_with_steps(asked: Asked) -> None:
    vectors: list[Event] = []
    rows = [LM.tokenizer.encode("the cat"), [5 + at % 200 for at in range(600)]]  # longer than the context of 256
    asked.worker.embed(Ticket(vectors.append), Served("a", LM, engine="a"), rows)
    _, found = asked.submit("the cat", sampling=Sampling(max_new=20, temperature=0.0))
    until(lambda: vectors)
    until(ended(found))
    [[short, long]] = vectors
    with torch.no_grad():
        expected = LM.model.hidden(torch.tensor([rows[0]]))[0].mean(0)
        pieces = [LM.model.hidden(torch.tensor([rows[1][at : at + 256]]))[0].sum(0) for at in (0, 256, 512)]
    assert short == pytest.approx(expected.tolist(), abs=1e-5)
    assert long == pytest.approx((sum(pieces) / 600).tolist(), abs=1e-5)


# -- a draft, without a thread -----------------------------------------------------------------------------------


def drafted(ids: list[int], stop: tuple[str, ...], finish: Any = "length", ends: tuple[int, ...] = ()) -> list[Piece]:
    engine = Engine(LM.model)
    stream = engine.submit(Request([7], Sampling(max_new=len(ids), temperature=0.0), ends=ends))
    draft = Draft(Ticket(lambda event: None), 0, stream, LM.tokenizer, stop)
    pieces = []
    for at, token in enumerate(ids):
        stream.written += 1
        last = finish if at == len(ids) - 1 else None
        pieces.append(draft.take(New(token, last, -1.0, [Likely(token, -1.0, {})])))
        if pieces[-1].finish:
            break
    return pieces


def test_tokens_are_the_text_whatever_is_cut() -> None:
    """Of random tokens, many of them parts of characters, with stop strings that begin and end within tokens."""
    draw = random.Random(0)
    stopped = 0
    for _ in range(400):
        ids = [draw.randrange(3, LM.tokenizer.vocab) for _ in range(draw.randrange(1, 20))]
        stop = tuple(draw.choice(["e", "at", " d", "the m", "\ufffd", "sat on"]) for _ in range(draw.randrange(3)))
        pieces = drafted(ids, stop)
        text = "".join(piece.text for piece in pieces)
        plain = writer(LM.tokenizer, [7], stop)
        expected = "".join(plain.push(token) for token in ids) + plain.finish()
        assert text == expected
        assert "".join(token.text for piece in pieces for token in piece.tokens) == text
        shown = 0
        for piece in pieces:  # no token is told before all of its text is shown
            shown += len(piece.text)
            told = sum(len(token.text) for piece in pieces[: pieces.index(piece) + 1] for token in piece.tokens)
            assert told <= shown
        stopped += pieces[-1].finish == "stop"
    assert stopped > 50


def test_the_half_of_a_character_is_told_with_the_rest_of_it() -> None:
    half = LM.tokenizer.encode("é")[0]
    pieces = drafted([70, half, LM.tokenizer.eos or 0], (), "stop", (LM.tokenizer.eos or 0,))
    assert [token.text for piece in pieces for token in piece.tokens] == [LM.tokenizer.decode([70]), "\ufffd"]
    assert "".join(piece.text for piece in pieces) == LM.tokenizer.decode([70, half])
    assert (pieces[-1].finish, pieces[-1].written) == ("stop", 3)


def test_the_end_of_the_context_is_told_as_a_length() -> None:
    assert drafted([70], (), "context")[-1].finish == "length"
