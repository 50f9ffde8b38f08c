"""The rules of a round that its page does not show: what is shared, held, given again (the rest: test_ranking)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelwright.data.judgements import Journal
from modelwright.data.rankings import Item
from modelwright.serve import labelling
from modelwright.serve.labelling import Round, Turn, shared_items, shown_order

ITEMS = [Item(str(at), f"{at}?", ("a", "b", "c"), (("M",),) * 3) for at in range(10)]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "j.jsonl") as journal:
        yield journal


def next_of(turn: Turn) -> str | None:
    return None if turn.item is None else turn.item.id


def test_the_share_is_of_the_items_and_the_ends_are_none_and_all() -> None:
    sizes = {overlap: len(shared_items(ITEMS, overlap, 3)) for overlap in (0.0, 0.1, 0.34, 1.0)}
    assert sizes == {0.0: 0, 0.1: 1, 0.34: 3, 1.0: 10}
    assert shared_items(ITEMS, 0.34, 3) == shared_items(ITEMS, 0.34, 3)


def test_an_order_is_of_the_name_as_said_in_any_spelling() -> None:
    orders = {shown_order(1, name, "x", 9) for name in ("Anna Lee", " anna   lee", "ANNA LEE ")}
    assert len(orders) == 1
    assert sorted(orders.pop()) == list(range(9))


def test_ranks_with_gaps_are_kept_without_and_in_the_item_s_order(journal: Journal) -> None:
    round_ = Round("?", ITEMS, journal, seed=2)
    order = round_.turn("Anna").order
    assert round_.judge("one", "Anna", "0", [5, 9, 5], 1.26)
    (kept,) = journal
    assert kept.ranks is not None
    assert [kept.ranks[at] for at in order] == [1, 2, 1]
    assert (kept.order, kept.seconds) == (order, 1.3)


def test_what_was_put_aside_for_another_prompt_is_free_again(journal: Journal) -> None:
    """A labeller holds one prompt at a time: with 0 judged in another window, 1 is held, and 0 is held no more."""
    round_ = Round("?", ITEMS[:3], journal, seed=0, overlap=0.0)
    assert next_of(round_.turn("Anna")) == "0"
    round_.judge("skip", "Anna", "0", None, 1.0)
    assert next_of(round_.turn("Anna")) == "1"
    assert next_of(round_.turn("Ben")) == "0"  # which Anna skipped
    assert next_of(round_.turn("Cleo")) == "2"


def test_what_was_taken_back_and_judged_by_another_since_is_not_asked_again(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    round_ = Round("?", ITEMS[:2], journal, seed=0, overlap=0.0)
    round_.judge("one", "Anna", "0", [1, 2, 3], 1.0)
    assert round_.undo("Anna", "one")
    assert next_of(round_.turn("Anna")) == "0"
    monkeypatch.setattr(labelling, "HELD", -1.0)  # she has long been away
    assert next_of(round_.turn("Ben")) == "0"
    round_.judge("two", "Ben", "0", [1, 2, 3], 1.0)
    turn = round_.turn("Anna")
    assert (next_of(turn), turn.of) == ("1", 1)


def test_a_judgement_of_a_prompt_that_has_left_the_round_can_be_taken_back(journal: Journal) -> None:
    Round("?", ITEMS, journal, seed=0).judge("old", "Anna", "9", [1, 1, 2], 1.0)
    round_ = Round("?", ITEMS[:2], journal, seed=0)
    assert round_.undo("Anna", "old")
    assert list(journal) == []
    assert next_of(round_.turn("Anna")) == "0"


def test_agreement_is_told_of_the_judgements_that_stand(journal: Journal) -> None:
    round_ = Round("?", ITEMS, journal, seed=0, agreed=lambda judged: {"by": [one.id for one in judged]})
    for name in ("one", "two"):
        round_.judge(name, "Anna", round_.turn("Anna").item.id, [1, 2, 3], 1.0)  # type: ignore[union-attr]
    round_.undo("Anna", "two")
    assert round_.agreement() == {"by": ["one"]}


def test_what_there_is_not_is_refused_and_nothing_is_written(journal: Journal) -> None:
    round_ = Round("?", ITEMS, journal, seed=0)
    with pytest.raises(KeyError):
        round_.judge("one", "Anna", "99", [1, 2, 3], 1.0)
    with pytest.raises(ValueError, match="there are 3 completions and 2 ranks"):
        round_.judge("one", "Anna", "0", [1, 2], 1.0)
    assert list(journal) == []
