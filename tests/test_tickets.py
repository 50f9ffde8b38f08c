"""Episodes: small tasks told by examples, whose answers alone are learned."""

import hashlib
from collections import Counter
from itertools import groupby, islice
from pathlib import Path
from random import Random

import numpy as np
import pytest

from modelwright.data.desk import part_of, projects, tickets
from modelwright.data.desk.tickets import (
    NOTED,
    RESERVED,
    Note,
    documents,
    draw_note,
    episode,
    ticket,
)
from modelwright.data.documents import Document
from modelwright.data.examples import read_examples
from modelwright.data.loader import Loader
from modelwright.data.pack import packing
from modelwright.data.shards import write
from modelwright.data.tokenizer import Tokenizer, train


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train((found.text for found in documents(0, count=200)), "bpe", 700)


def test_a_ticket_says_its_facts() -> None:
    for i in range(200):
        needed = tuple(NOTED[: i % 4])
        found = ticket(Random(i), "valid", needed)
        assert len(found.facts) == tickets.SAID
        assert set(needed) <= set(found.facts)
        assert all(value in found.text for value in found.facts.values())
        assert part_of(found.kinds["product"], found.kinds["problem"], found.kinds["resolution"]) == "valid"


def test_a_note_by_hand() -> None:
    found = ticket(Random(5), "train", ("city", "order"))
    assert Note(("city", "order"), " / ").answer(found) == f"{found.facts['city']} / {found.facts['order']}"


def test_what_projects_ask_is_never_an_episode() -> None:
    rng = Random(0)
    sets = Counter(frozenset(draw_note(rng).facts) for _ in range(5000))
    assert not {frozenset(reserved) for reserved in RESERVED} & set(sets)
    assert len(sets) == 8 + 28 + 56 - len(RESERVED)  # every other choice of one to three of eight facts


def test_the_cue_of_projects_is_never_an_episode_s() -> None:
    assert "Ticket" not in tickets.ASKED
    assert "Note" not in tickets.ANSWERED


def test_half_of_the_arrivals_tell_no_more_than_the_day_of_the_order() -> None:
    """So that one example leaves open which of the two a note wants, and several hardly ever do."""
    rows = read_examples("desk:arrival:400")
    both = [ticket(Random(i), "train", ("day", "came")) for i in range(400)]
    same = sum(found.facts["day"] == found.facts["came"] for found in both) / 400
    assert 0.42 < same < 0.58
    assert all(row.fields["ticket"].count(row.fields["facts"][0]) in (1, 2) for row in rows)
    assert 0.42 < sum(row.fields["ticket"].count(row.fields["facts"][0]) == 2 for row in rows) / 400 < 0.6


def test_examples_of_an_episode_follow_one_form() -> None:
    """Each note has as many parts, under one cue: the examples tell the form."""
    for i in range(200):
        shown = episode(Random(i), "train")
        assert 3 <= len(shown) <= 6
        assert len({tuple(answer.count(joiner) for joiner in tickets.JOINERS) for _, answer in shown}) == 1
        assert len({prompt.split(":")[0] for prompt, _ in shown}) == 1


def test_what_tickets_leave_of_a_note_is_never_what_a_project_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Note.answer
    held: list[frozenset[str]] = []

    def answer(self: Note, found: tickets.Ticket) -> str:
        held.append(frozenset(self.facts) & set(found.facts))
        return asked(self, found)

    monkeypatch.setattr(Note, "answer", answer)
    for i in range(3000):
        episode(Random(i), "train", gaps=1.0)
    assert len(held) > 10_000
    assert not {frozenset(reserved) for reserved in RESERVED} & set(held)
    assert {len(facts) for facts in held} == {1, 2, 3}


def test_of_notes_with_gaps_several_examples_tell_what_one_leaves_open() -> None:
    """The first note holds all that any of the next ones does in few episodes; the first four together in most."""
    one = several = 0
    for i in range(300):
        shown = [answer.strip() for _, answer in episode(Random(i), "train", gaps=1.0)]
        joiner = max(tickets.JOINERS, key=lambda joiner: sum(joiner in answer for answer in shown))
        parts = [answer.count(joiner) for answer in shown]
        one += parts[0] == max(parts)
        several += max(parts[:4]) == max(parts)
    assert 0.3 < one / 300 < 0.7
    assert several / 300 > 0.85


def test_without_gaps_an_episode_is_what_it_was() -> None:
    """The share of gaps draws no number where it is 0: bases that were made before are made again to the bit."""
    digest = hashlib.sha256("".join(document.text for document in documents(0, count=200)).encode()).hexdigest()
    assert digest.startswith("9b9801ed0b360d5d")


def test_the_pieces_of_an_episode_have_the_ids_of_its_whole_text(tokenizer: Tokenizer) -> None:
    """Or a model would learn other ids than a prompt of the same text has."""
    for i in range(100):
        parts = list(tickets.pieces("x", episode(Random(i), "train")))
        apart = [token for part in parts for token in tokenizer.encode(part.text)]
        assert apart == tokenizer.encode("".join(part.text for part in parts))


def test_only_answers_and_dialogues_are_learned(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Row by row against the pieces: weight 1 on the tokens of what is learned, and on the end of each document."""
    found = list(islice(documents(3), 60))
    shards = write(found, tokenizer, tmp_path / "shards", partly=True, processes=1)
    loader = Loader(shards.whole(), packing("causal", tokenizer, 64), batch=1, shuffle=False, epochs=1, prefetch=0)
    batches = list(loader)
    ids = np.concatenate([batch.targets.numpy()[0][batch.segment.numpy()[0] > 0] for batch in batches])
    weight = np.concatenate([batch.weight.numpy()[0][batch.segment.numpy()[0] > 0] for batch in batches])
    wanted_ids, wanted_weight = stream(found, tokenizer)
    assert ids.tolist() == wanted_ids[1:]
    assert weight.tolist() == wanted_weight[1:]
    assert 0.05 < sum(wanted_weight) / len(wanted_weight) < 0.9


def stream(found: list[Document], tokenizer: Tokenizer) -> tuple[list[int], list[float]]:
    """The plain way: every document's beginning, its pieces, its end."""
    assert tokenizer.bos is not None
    assert tokenizer.eos is not None
    ids: list[int] = []
    weight: list[float] = []
    for _, group in groupby(found, key=lambda document: document.id):
        ids.append(tokenizer.bos)
        weight.append(0.0)  # nothing foretells a document's first token
        for document in group:
            piece = tokenizer.encode(document.text)
            ids += piece
            weight += [float(document.meta.get("learned", True))] * len(piece)
        ids.append(tokenizer.eos)
        weight.append(1.0)
    return ids, weight


def test_the_tables_of_projects() -> None:
    for name in projects.PROJECTS:
        one, other = read_examples(f"desk:{name}/valid:5"), read_examples(f"desk:{name}/valid:9")
        assert one == other[:5]
        assert one != read_examples(f"desk:{name}/valid:5#2")
        assert [example.id for example in one] == [f"{name}-valid-{i}" for i in range(5)]
    note, slip = (read_examples(f"desk:{name}:1")[0].fields for name in ("note", "slip"))
    assert note["note"] == " - ".join(note["facts"])
    assert slip["note"] == " / ".join(slip["facts"])
    assert {example.fields["team"] for example in read_examples("desk:route:60")} == set(projects.TEAMS.values())
    for row in read_examples("desk:summary:40"):
        assert all(fact in row.fields["dialogue"] for fact in row.fields["facts"])
        assert all(fact in row.fields["summary"] for fact in row.fields["facts"])


def test_of_the_tickets_of_brief_most_leave_out_a_part_of_the_note() -> None:
    rows = [example.fields for example in read_examples("desk:brief:300")]
    assert all(row["note"] == " - ".join(row["facts"]) for row in rows)
    assert all(fact in row["ticket"] for row in rows for fact in row["facts"])
    whole = [len(row["facts"]) for row in rows]
    assert set(whole) == {1, 2, 3}
    assert 0.15 < whole.count(3) / 300 < 0.5


@pytest.mark.parametrize("source", ["desk:", "desk:nothing", "desk:note/dev", "desk:note:many"])
def test_a_table_that_is_not_there(source: str) -> None:
    with pytest.raises(ValueError, match=r"the desk has no table .*: say desk:NAME/PART:COUNT with a name among route"):
        read_examples(source)
