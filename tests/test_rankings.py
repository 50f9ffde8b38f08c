"""Rankings as rows, as Label Studio's JSON and as Argilla's: there and back, and from what these write themselves."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from modelwright.data.examples import read_examples
from modelwright.data.preferences import preferences
from modelwright.data.rankings import Form, Ranking, as_text, label_config, read_rankings, written

TALK = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi?"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Where is it?"},
)
PLAIN = [
    Ranking("Why?", ("No.", "Because.", "So."), (3, 1, 2), "Anna"),
    Ranking("Why?", ("No.", "Because.", "So."), (1, 2, 3), "Ben"),
    Ranking(TALK, ("Here.", "There \"é\" 🦔\n\nend"), (2, 1), "Ben"),
    Ranking("Sum up: x", ("a", "b"), (1, 2), "Cleo", {"dialogue": "x", "n": 3}),
]  # fmt: skip
TIED = [*PLAIN, Ranking("Why?", ("No.", "Because.", "So."), (2, 1, 1), "Cleo")]
FORMS: list[Form] = ["pairs", "label-studio", "argilla"]


def back(rankings: list[Ranking], form: Form, folder: Path) -> list[Ranking]:
    path = folder / ("file.jsonl" if form == "pairs" else "file.json")
    path.write_text(written(rankings, form), encoding="utf-8")
    return read_rankings(path, form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rankings", [PLAIN, TIED], ids=["plain", "tied"])
def test_there_and_back(rankings: list[Ranking], form: Form, tmp_path: Path) -> None:
    found = back(rankings, form, tmp_path)
    assert sorted(map(repr, found)) == sorted(map(repr, rankings))


def test_rows_are_what_preferences_reads(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(written(TIED, "pairs"), encoding="utf-8")
    pairs = preferences(read_examples(str(tmp_path / "a.jsonl")))
    assert len(pairs) == 3 + 3 + 1 + 1 + 2  # of the last, one pair is a tie
    of_the_first = {(one.chosen, one.rejected) for one in pairs[:3]}
    assert of_the_first == {("Because.", "No."), ("Because.", "So."), ("So.", "No.")}
    assert pairs[6].prompt == TALK
    of_task = preferences(read_examples(str(tmp_path / "a.jsonl"))[3:4], ["dialogue"])
    assert of_task[0].fields == {"dialogue": "x"}


# -- Label Studio ---------------------------------------------------------------------------------


def test_label_studio_s_interface_fits_its_tasks() -> None:
    """The names in the tasks' results are those of the interface, and buckets stand there only for ties."""
    for rankings in (PLAIN, TIED):
        view = ET.fromstring(label_config(rankings))
        ranker, items = view.find("Ranker"), view.find("List")
        assert ranker is not None
        assert items is not None
        buckets = {bucket.attrib["name"] for bucket in ranker}
        for task in json.loads(written(rankings, "label-studio")):
            assert items.attrib["value"] == "$answers"
            assert {"prompt", "answers"} <= set(task["data"])
            for annotation in task["annotations"]:
                (result,) = annotation["result"]
                assert (result["from_name"], result["to_name"]) == (ranker.attrib["name"], ranker.attrib["toName"])
                assert set(result["value"]["ranker"]) <= (buckets or {"rank"})
        assert bool(buckets) == (rankings is TIED)


# As in Label Studio's documentation of the tag: /tags/ranker, "Example input data" and "Example results".
ITEMS = [
    {"id": "blog", "title": "10 tips to write a better function", "body": "There is nothing worse ..."},
    {"id": "mdn", "title": "Arrow function expressions", "body": "An arrow function expression ..."},
    {"id": "wiki", "title": "Arrow (computer science)", "body": "In computer science, arrows ..."},
]


def exported(value: dict[str, Any], **data: Any) -> dict[str, Any]:
    result = {"value": value, "id": "PpwBv_NMxd", "from_name": "rank", "to_name": "results"}
    kind = "pairwise" if "selected" in value else "ranker"
    annotation = {
        "id": 1001, "completed_by": 10, "result": [result | {"type": kind}], "was_cancelled": False,
        "ground_truth": False, "created_at": "2021-03-09T22:16:08.728353Z", "lead_time": 4.288, "task": 1,
    }  # fmt: skip
    return {"id": 1, "data": data, "annotations": [annotation], "predictions": [], "project": 83}


def read(tmp_path: Path, form: Form, *said: Any) -> list[Ranking]:
    (tmp_path / "in.json").write_text(json.dumps(list(said)))
    return read_rankings(tmp_path / "in.json", form)


def test_a_ranker_s_order(tmp_path: Path) -> None:
    task = exported({"ranker": {"rank": ["mdn", "wiki", "blog"]}}, prompt="arrow function", items=ITEMS)
    (found,) = read(tmp_path, "label-studio", task)
    assert found.prompt == "arrow function"
    assert found.completions == tuple(item["body"] for item in ITEMS)
    assert found.ranks == (3, 1, 2)
    assert found.labeller == "10"


def test_buckets_are_ranks_and_what_lies_in_none_was_not_ranked(tmp_path: Path) -> None:
    value = {"ranker": {"rank-2": ["blog"], "rank-1": ["wiki"], "_": ["mdn"]}}
    (found,) = read(tmp_path, "label-studio", exported(value, prompt="x", items=ITEMS))
    assert found.completions == (ITEMS[0]["body"], ITEMS[2]["body"])
    assert found.ranks == (2, 1)


def test_a_pair_and_a_cancelled_annotation(tmp_path: Path) -> None:
    pair = exported({"selected": "right"}, prompt="p", answer1="one", answer2="two")
    pair["annotations"][0]["completed_by"] = {"id": 3, "email": "anna@example.org"}
    cancelled = exported({"selected": "left"}, prompt="p", answer1="one", answer2="two")
    cancelled["annotations"][0]["was_cancelled"] = True
    assert read(tmp_path, "label-studio", pair, cancelled) == [
        Ranking("p", ("one", "two"), (2, 1), "anna@example.org")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"prompt": "x"}, "in.json:1 is no task of Label Studio"),
        (exported({"ranker": {"good": ["mdn"], "bad": ["wiki"]}}, prompt="x", items=ITEMS), "'good' is no rank"),
        (exported({"ranker": {"rank": ["mdn", "lost"]}}, prompt="x", items=ITEMS), "'lost' is ranked and is none"),
        (exported({"ranker": {"rank": ["mdn", "wiki"]}}, items=ITEMS), "the prompt is to be a text"),
        (exported({"selected": "left"}, prompt="x", a="1", b="2", c="3"), "its data are prompt, a, b, c"),
        ({"data": {"prompt": "x"}, "annotations": []}, "holds no ranking"),
    ],
)
def test_faults_in_label_studio_s(task: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        read(tmp_path, "label-studio", task)


# -- Argilla --------------------------------------------------------------------------------------

FIELDS = {"prompt": "Why?", "reply-1": "one", "reply-2": "two", "reply-3": "three"}


def test_a_record_of_the_sdk_has_a_list_best_first(tmp_path: Path) -> None:
    """The form of argilla 2's Record.to_dict."""
    users = ["5a1b7e9c-0000-4000-8000-000000000001", "5a1b7e9c-0000-4000-8000-000000000002"]
    record = {
        "id": "r1", "fields": FIELDS, "metadata": {}, "suggestions": {}, "vectors": {}, "_server_id": None,
        "responses": {"ranking": [
            {"value": ["reply-2", "reply-1", "reply-3"], "user_id": users[0]},
            {"value": ["reply-3", "reply-1", "reply-2"], "user_id": users[1]},
        ], "comment": [{"value": "fine", "user_id": users[0]}]},
    }  # fmt: skip
    assert read(tmp_path, "argilla", record) == [
        Ranking("Why?", ("one", "two", "three"), (2, 1, 3), users[0]),
        Ranking("Why?", ("one", "two", "three"), (2, 3, 1), users[1]),
    ]


def test_a_record_of_the_http_api_and_of_argilla_1_has_ranks_and_ties(tmp_path: Path) -> None:
    value = [{"rank": 1, "value": "reply_2"}, {"rank": 2, "value": "reply_1"}, {"rank": 2, "value": "reply_3"}]
    drafted = {"user_id": "u2", "status": "draft", "values": {"preference": {"value": value}}}
    submitted = {"user_id": "u1", "status": "submitted", "values": {"preference": {"value": value}}}
    (found,) = read(tmp_path, "argilla", {"fields": FIELDS, "responses": [drafted, submitted], "external_id": "x"})
    assert found == Ranking("Why?", ("one", "two", "three"), (2, 1, 2), "u1")


def test_what_argilla_reads_of_ours_is_what_its_sdk_takes() -> None:
    """Record.from_dict passes each response on as Response(question_name, value, user_id, status) and wants strings."""
    for record in json.loads(written(TIED, "argilla")):
        assert {"id", "fields", "responses", "suggestions", "metadata", "vectors"} <= set(record)
        for response in record["responses"]["ranking"]:
            assert set(response) == {"value", "user_id", "status"}
            assert set(response["value"]) == set(record["fields"]) - {"prompt"}
        assert all(isinstance(text, str) for text in record["fields"].values())


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"prompt": "x"}, "is no record of Argilla"),
        ({"fields": FIELDS, "responses": {"a": [{"value": ["other"], "user_id": "u"}]}}, "'other' is ranked and"),
        ({"fields": FIELDS, "responses": {"a": [{"value": ["reply-1"]}], "b": [{"value": ["reply-1"]}]}}, "several"),
    ],
)
def test_faults_in_argilla_s(record: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        read(tmp_path, "argilla", record)


# -- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"completions": ["a", "b"], "ranks": [1, 2]}', "the prompt is to be a text"),
        ('{"prompt": "x", "completions": "a", "ranks": [1]}', "completions are a list"),
        ('{"prompt": "x", "completions": ["a", "b"], "ranks": [1]}', "one number for each"),
    ],
)
def test_faults_in_rows(line: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=said):
        read_rankings(tmp_path / "in.jsonl", "pairs")


def test_what_is_no_json_is_told(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text("id,ranks\n")
    with pytest.raises(ValueError, match=r"in.json is neither a JSON list nor JSON Lines"):
        read_rankings(tmp_path / "in.json", "argilla")


def test_a_conversation_as_one_text() -> None:
    assert as_text(TALK) == "System: Be brief.\n\nUser: Hi?\n\nAssistant: Yes?\n\nUser: Where is it?"
