"""A round of labelling: who sees what, in which order; over HTTP; and through a server that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from modelwright.data.judgements import Journal, read_judgements
from modelwright.data.rankings import Item
from modelwright.serve import labelling
from modelwright.serve.labelling import Round, shared_items, shown_order
from modelwright.serve.ranking import Service
from modelwright.serve.server import Limits

TEXTS = ("first", "second", "third")
ITEMS = [Item(f"p:{at}", f"Prompt {at}?", TEXTS, (("A",), ("B",), ("A", "B"))) for at in range(1, 9)]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "j.jsonl") as journal:
        yield journal


def begin(journal: Journal, items: list[Item] = ITEMS, **how: Any) -> Round:
    return Round("Which is better?", items, journal, **{"seed": 7, **how})


def judge_all(labelling: Round, who: str, most: int = 99) -> list[str]:
    """Rank all that comes, the first that is shown the best; the items in the order they came."""
    seen: list[str] = []
    while (item := labelling.turn(who).item) is not None and len(seen) < most:
        assert labelling.judge(f"{who}-{item.id}-{len(seen)}", who, item.id, (1, 2, 3), 1.0)
        seen.append(item.id)
    return seen


# -- blind ----------------------------------------------------------------------------------------


def test_the_order_is_another_for_each_labeller_and_prompt_and_the_same_again() -> None:
    orders = [shown_order(0, who, str(item), 3) for who in ("Anna", "Ben") for item in range(300)]
    assert orders == [shown_order(0, who, str(item), 3) for who in ("Anna", "Ben") for item in range(300)]
    assert orders[:300] != orders[300:]
    assert shown_order(1, "Anna", "0", 9) != shown_order(0, "Anna", "0", 9)
    counts = Counter(orders)
    assert len(counts) == 6
    assert all(60 < count < 140 for count in counts.values())  # of 600: no place is favoured


def test_the_order_does_not_hang_on_the_process() -> None:
    """Python hashes texts anew in each process; what is stored must be what was shown before a restart."""
    code = "from modelwright.serve.labelling import shown_order; print(shown_order(3, 'Zoë', 'p:1', 6))"
    env = os.environ | {"PYTHONHASHSEED": "5", "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(shown_order(3, "Zoë", "p:1", 6))


def test_ranks_are_kept_in_the_items_order_whatever_was_shown(journal: Journal) -> None:
    labelling = begin(journal)
    for who in ("Anna", "Ben", "Cleo"):
        turn = labelling.turn(who)
        assert turn.item is not None
        assert sorted(turn.completions) == sorted(TEXTS)
        wanted = {"second": 1, "first": 2, "third": 2}
        labelling.judge(f"id-{who}", who, turn.item.id, [wanted[text] for text in turn.completions], 2.0)
    assert {one.ranks for one in journal} == {(2, 1, 2)}
    assert [[TEXTS[at] for at in one.order] for one in journal] == [
        [TEXTS[at] for at in shown_order(7, who, "p:1", 3)] for who in ("Anna", "Ben", "Cleo")
    ]


def test_nothing_that_is_sent_says_who_wrote_what(journal: Journal) -> None:
    items = [Item("p:1", "Why?", TEXTS, (("secret-model",), ("other-model",), ("secret-model",)), {"gold": "hidden"})]
    client = TestClient(Service(begin(journal, items), Limits()).app, base_url="http://localhost")
    said = client.post("/turn", json={"labeller": "Anna"}).text + client.get("/round").text
    assert "model" not in said
    assert "hidden" not in said


# -- who judges what ------------------------------------------------------------------------------


def test_every_labeller_judges_every_prompt(journal: Journal) -> None:
    labelling = begin(journal)
    assert judge_all(labelling, "Anna") == judge_all(labelling, "Ben") == [item.id for item in ITEMS]
    turn = labelling.turn("Anna")
    assert (turn.item, turn.ranked, turn.skipped, turn.of) == (None, 8, 0, 8)


def test_with_an_overlap_the_other_prompts_go_to_whoever_comes_first(journal: Journal) -> None:
    labelling = begin(journal, overlap=0.25)
    shared = labelling.shared
    assert len(shared) == 2
    seen: dict[str, list[str]] = {"Anna": [], "Ben": []}
    for at in range(20):
        who = ("Anna", "Ben")[at % 2]
        seen[who] += judge_all(labelling, who, most=1)
    both = set(seen["Anna"]) & set(seen["Ben"])
    assert both == shared
    assert set(seen["Anna"]) | set(seen["Ben"]) == {item.id for item in ITEMS}
    assert labelling.turn("Anna").of == len(seen["Anna"])
    assert labelling.turn("Cleo").of == 2
    assert shared_items(ITEMS, 0.25, 8) != shared_items(ITEMS, 0.25, 9)


def test_a_prompt_before_one_labeller_is_given_to_no_other_until_he_has_long_been_away(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelling_ = begin(journal, ITEMS[:2], overlap=0.0)
    first, second = labelling_.turn("Anna").item, labelling_.turn("Ben").item
    assert first is not None
    assert second is not None
    assert first.id != second.id
    assert labelling_.turn("Anna").item == first  # a page that is loaded again
    assert labelling_.turn("Cleo").item is None
    monkeypatch.setattr(labelling, "HELD", -1.0)
    assert labelling_.turn("Cleo").item == first


def test_a_skipped_prompt_is_not_shown_again_and_another_labeller_gets_it(journal: Journal) -> None:
    labelling = begin(journal, ITEMS[:1], overlap=0.0)
    assert labelling.judge("skip-anna", "Anna", "p:1", None, 1.0)
    turn = labelling.turn("Anna")
    assert (turn.item, turn.ranked, turn.skipped, turn.of) == (None, 0, 1, 1)
    assert judge_all(labelling, "Ben") == ["p:1"]


def test_undo_brings_back_what_was_judged_last(journal: Journal) -> None:
    labelling = begin(journal)
    judge_all(labelling, "Ben", most=2)
    seen = judge_all(labelling, "Anna", most=3)
    for wanted in reversed(seen):
        last = labelling.turn("Anna").last or ""
        assert not labelling.undo("Anna", "another")
        assert labelling.undo("Anna", last)
        assert not labelling.undo("Anna", last)  # asked for twice, it happens once
        turn = labelling.turn("Anna")
        assert turn.item is not None
        assert turn.item.id == wanted
    assert labelling.turn("Anna").last is None
    assert labelling.turn("Ben").ranked == 2


def test_ranks_are_of_the_completions_as_they_were_shown_under_any_spelling(journal: Journal) -> None:
    """One window says anna before anything is judged, another Anna: the first window's ranks keep their meaning."""
    labelling = begin(journal)
    early = labelling.turn("anna")
    assert early.item is not None
    other = labelling.turn(" Anna ")
    assert early.order == other.order
    labelling.judge("first-one", "Anna", labelling.turn("Anna").item.id, None, 1.0)  # type: ignore[union-attr]
    labelling.undo("Anna", "first-one")
    assert labelling.turn("anna").order == early.order


def test_a_name_is_the_same_whatever_its_case_and_spaces(journal: Journal) -> None:
    labelling = begin(journal)
    judge_all(labelling, "Anna  Lee", most=2)
    turn = labelling.turn(" anna lee ")
    assert (turn.labeller, turn.ranked) == ("Anna Lee", 2)


def test_many_labellers_at_once_are_all_kept(journal: Journal) -> None:
    labelling = begin(journal)
    names = [f"labeller {at}" for at in range(6)]
    threads = [threading.Thread(target=judge_all, args=(labelling, name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(one.labeller for one in journal) == dict.fromkeys(names, 8)
    assert read_judgements(journal.path)[0] == list(journal)


# -- over HTTP ------------------------------------------------------------------------------------


@pytest.fixture
def client(journal: Journal) -> TestClient:
    agreed = {"alpha": 0.5}
    return TestClient(
        Service(begin(journal, ITEMS[:2], agreed=lambda judged: agreed), Limits()).app, base_url="http://localhost"
    )


def said(who: str = "Anna", item: str = "p:1", ranks: Any = (1, 2, 2), **more: Any) -> dict[str, Any]:
    ranks = None if ranks is None else list(ranks)
    return {"id": f"judgement-{who}-{item}", "labeller": who, "item": item, "ranks": ranks, "seconds": 4.25, **more}


def test_from_the_first_turn_to_the_agreement(client: TestClient, journal: Journal) -> None:
    assert client.get("/round").json() == {"criterion": "Which is better?", "prompts": 2}
    first = client.post("/turn", json={"labeller": "Anna"}).json()
    assert first["progress"] == {"ranked": 0, "skipped": 0, "of": 2}
    assert first["item"]["prompt"] == "Prompt 1?"
    second = client.post("/judge", json=said()).json()
    assert (second["kept"], second["item"]["id"], second["progress"]["ranked"]) == (True, "p:2", 1)
    end = client.post("/judge", json=said(item="p:2", ranks=None)).json()
    assert (end["item"], end["agreement"], end["progress"]["skipped"]) == (None, {"alpha": 0.5}, 1)
    again = client.post("/undo", json={"labeller": "Anna", "judgement": end["last"]}).json()
    assert (again["item"]["id"], again["progress"]) == ("p:2", {"ranked": 1, "skipped": 0, "of": 2})
    assert [one.seconds for one in journal] == [4.2]


def test_sent_again_it_is_kept_once_and_another_judgement_of_it_is_not(client: TestClient, journal: Journal) -> None:
    for _ in range(2):
        assert client.post("/judge", json=said()).json()["kept"] is True
    other = client.post("/judge", json=said(ranks=(3, 2, 1)) | {"id": "another-window"}).json()
    assert (other["kept"], other["item"]["id"]) == (False, "p:2")
    assert len(list(journal)) == 1


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (said(ranks=(1, 2)), 400, "there are 3 completions and 2 ranks"),
        (said(item="p:9"), 404, "there is no prompt 'p:9'"),
        (said(who=" "), 400, "labeller"),
        (said(ranks=(0, 1, 2)), 400, "ranks.0"),
        ({"labeller": "Anna"}, 400, "id"),
        ([1], 400, "body"),
    ],
)
def test_faults_are_sentences(client: TestClient, body: Any, status: int, sentence: str) -> None:
    answer = client.post("/judge", json=body)
    assert answer.status_code == status
    assert sentence in answer.json()["error"]["message"]


def test_a_disk_that_is_full_is_told_and_nothing_counts_as_kept(
    client: TestClient, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    answer = client.post("/judge", json=said())
    assert answer.status_code == 503
    assert "could not be written down: No space left" in answer.json()["error"]["message"]
    monkeypatch.undo()
    assert client.post("/judge", json=said()).json()["kept"] is True


def test_a_key_guards_all_but_the_page_and_without_one_other_sites_are_refused(journal: Journal) -> None:
    locked = TestClient(Service(begin(journal), Limits(keys=("k",))).app, base_url="http://example.org")
    assert locked.get("/").status_code == 200
    assert locked.get("/round").status_code == 401
    assert locked.get("/round", headers={"authorization": "Bearer k"}).status_code == 200
    opened = TestClient(Service(begin(journal), Limits()).app, base_url="http://localhost")
    assert opened.post("/turn", json={"labeller": "A"}, headers={"origin": "http://evil.org"}).status_code == 403
    assert TestClient(opened.app, base_url="http://evil.org").get("/round").status_code == 403
    assert opened.get("/nothing").json()["error"]["message"] == "there is nothing here: the page is at /"


# -- through kills --------------------------------------------------------------------------------


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def start(folder: Path) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "modelwright.cli", "rank", "--completions", "answers.jsonl", "--port", "0"]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    process = subprocess.Popen(
        [*command, "--criterion", "Which?", "-o", "out"], cwd=folder, env=env, text=True, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    return process, line.split()[2]


@pytest.mark.slow
def test_whatever_was_answered_is_there_after_the_server_is_killed(tmp_path: Path) -> None:
    rows = [{"prompt": f"Prompt {at}?", "completions": ["a", "b", "c"]} for at in range(12)]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told: list[str] = []
    for kill in range(3):
        process, url = start(tmp_path)
        try:
            turn = post(f"{url}/turn", {"labeller": "Anna"})
            assert turn["progress"]["ranked"] == len(told)
            for _ in range(3):
                item = turn["item"]["id"]
                assert item not in told
                turn = post(f"{url}/judge", said(item=item, ranks=(2, 1, 1)))
                told.append(item)
        finally:
            process.send_signal(signal.SIGKILL if kill < 2 else signal.SIGTERM)
            code = process.wait(30)
            assert process.stdout is not None
            process.stdout.close()
        assert code == (-signal.SIGKILL if kill < 2 else 0)
    found, torn = read_judgements(tmp_path / "out" / "judgements.jsonl")
    assert [one.item for one in found] == told
    assert len(told) == 9
    assert torn == []
