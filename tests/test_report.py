"""The report: what it decides, what it shows, that it is one safe file; and the plots and the profile in it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modelwright.data.examples import Example
from modelwright.evaluate.statistics import Interval
from modelwright.project import plots
from modelwright.project.curve import Point, fit_curve
from modelwright.project.evidence import compared, learning_curve
from modelwright.project.ladder import BASE, Climb, Cost, Entry, Limits, climb, nearest
from modelwright.project.page import marked, page
from modelwright.project.plots import CLOCK, Bar, Dot, apart, clock, log_scale
from modelwright.project.profile import profile
from modelwright.project.report import Evidence, build, short
from modelwright.project.spec import Project, parse_project
from modelwright.project.view import View
from modelwright.recipes.preflight import Unfit
from simulated import Simulated, bound, rule

EVIL = '<script>alert("x")</script>'
SAID: dict[str, Any] = {
    "name": f"desk {EVIL}",
    "task": {
        "kind": "summarise",
        "data": {"train": "notes.jsonl"},
        "columns": {"source": "dialogue", "target": "summary", "required": "facts"},
    },
    "metric": "mentions",
    "target": 0.8,
    "limits": {"time": "10min", "memory": "8GB"},
    "base": {"data": "desk", "time": "3min"},
}
VOID = {"meta", "br", "circle", "line", "rect", "polygon", "polyline"}


def project(**changes: Any) -> Project:
    return parse_project(SAID | changes, "p", Path("/nowhere"))


def climbed(everything: bool = False, **truth: float) -> Climb:
    scores = {name.replace("_", "-"): value for name, value in truth.items()}
    return climb(rule(candidates=(BASE,), everything=everything, limits=Limits(time=600)), Simulated(scores), bound)


def told(before: float, after: float) -> dict[str, Any]:
    sides = {name: {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 300}
             for name, value in (("before", before), ("after", after), ("difference", after - before))}  # fmt: skip
    return sides


def evidence(**changes: Any) -> Evidence:
    said: dict[str, Any] = {
        "test": [
            ("lora", BASE, Interval(0.91, 0.87, 0.94, 0.95, 300)),
            ("trivial", "majority", Interval(0.1, 0.05, 0.2, 0.95, 300)),
        ],
        "examples": [
            {
                "id": f"decide.jsonl:1{EVIL}",
                "input": f"Customer: my lamp is broken {EVIL}\nAgent: a Refund & sorry",
                "reference": "a refund",
                "required": ["lamp", "refund"],
                "outputs": [
                    {"name": "majority", "text": EVIL, "score": 0.0},
                    {"name": "lora", "text": "the lamp: refund", "score": 1.0},
                ],
            }
        ],
        "alignment": [
            {
                "rung": "lora+ppo", "below": "lora", "by": "ppo", "candidate": BASE, "met": False, "own_judge": True,
                "rows": [
                    {"name": "toxicity", "wanted": 0.1, **told(0.45, 0.15), "p": 0.001},
                    {"name": "mentions", "wanted": 0.8, **told(0.9, 0.88), "p": 0.4},
                ],
                "settings": {"reward": EVIL}, "stopped": f"gold fell {EVIL}", "alarms": [], "judged": None,
                "preferences": {"pairs": 106, "accuracy": {"value": 0.907, "low": 0.846, "high": 0.949}},
                "course": [{"step": at, "score": 0.1 * at, "kl": 0.02 * at} for at in range(1, 20)],
            }
        ],
        "forgetting": [
            {
                "rung": "lora",
                "candidate": BASE,
                "unit": "bits per byte",
                "before": {"value": 1.0},
                "after": {"value": 1.25},
                "difference": {"value": 0.25, "low": 0.2, "high": 0.3},
            }
        ],
        "profile": {
            "parts": {
                "train": {
                    "examples": 1000,
                    "input": {"median": 400, "p95": 700, "longest": 900},
                    "answer": {"median": 80, "p95": 120, "longest": 140},
                    "duplicates": 3,
                }
            },
            "overlap": [{"parts": ["train", "test"], "examples": 2, "named": ["test.jsonl:4"]}],
        },
        "reproduce": {
            "commands": ["modelwright run run.yaml --output other"],
            "seeds": {"seed": 0},
            "versions": {"torch": "2.13"},
            "machine": {"cores": 2},
            "digests": {"train": "ab12"},
        },
    }  # fmt: skip
    return Evidence(**said | changes)


class Reader(HTMLParser):
    """Checks that tags close in order, and gathers what is said."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.said.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return reader


def said(html: str) -> str:
    return " ".join(" ".join(read(html).said).split())


# -- the decision


def test_a_target_that_is_met_is_one_sentence() -> None:
    report = build(project(), climbed(lora=0.97), evidence())
    decision = report["decision"]
    lower = next(entry["lower"] for entry in report["entries"] if entry["chosen"])
    score = next(entry["score"]["value"] for entry in report["entries"] if entry["chosen"])
    assert decision["sentence"] == (
        f"Take lora on base: its mentions is {score:.3f} on 200 examples it had not seen, and at least {lower:.3f} "
        "with 95% confidence; the target is 0.8."
    )
    assert decision["test"] == (
        "On the test part, which nothing was chosen on, it scores 0.910 (0.870 to 0.940, 300 examples)."
    )
    assert len(decision["reasons"]) == 6  # majority, four rungs below, and the choice
    assert decision["reasons"][-1].endswith("meets 0.8.")
    assert all("is below 0.8." in reason for reason in decision["reasons"][:-1])


def test_what_was_not_spent() -> None:
    report = build(project(), climbed(lora=0.97), evidence())
    assert report["spared"]["sentence"] == (
        "Not spent: 1 step above the choice, planned at 1 min 20 s of computing and 1 GB of memory at the worst moment."
    )
    whole = build(project(), climbed(everything=True, lora=0.97), evidence(), everything=True)
    assert whole["spared"]["sentence"].startswith("Stopping at the choice would have spared 1 step (1 min 20 s")
    last = build(project(), climbed(full=0.97), evidence())
    assert last["spared"]["sentence"] == "Nothing was spared: the choice is the last rung of the ladder."


def test_a_target_that_no_rung_meets_says_what_came_closest_and_what_more_data_would_bring() -> None:
    luck = np.random.default_rng(0).random(4000)
    points = [Point(n, np.stack([luck < s, np.ones(4000)], -1).astype(float)) for n, s in ((250, 0.6), (500, 0.7))]
    curve = fit_curve(points, lambda sums: sums[..., 0] / sums[..., 1], 0.8)
    report = build(project(), climbed(lora=0.7, full=0.5), evidence(test=(), curve=curve))
    assert not report["decision"]["met"]
    assert report["decision"]["sentence"].startswith(
        "No rung meets the target of 0.8 in mentions: lora on base came closest"
    )
    assert report["decision"]["more"] == curve.said
    assert "The test part was not opened" in " ".join(report["caveats"])
    assert curve.said in said(page(report))
    assert curve.asks == ""
    without = build(project(), climbed(lora=0.7), evidence(test=(), no_curve="There was no time left for one."))
    assert "There was no time left for one." in said(page(without))


@pytest.mark.parametrize(
    ("truth", "shown"),
    [({"trivial": 0.7, "zero_shot": 0.1, "lora": 0.5}, ["trivial", "zero-shot", "lora"]),
     ({"trivial": 0.5, "lora": 0.7}, ["trivial", "zero-shot", "lora"]),
     ({"trivial": 0.5, "lora": 0.97}, ["trivial", "zero-shot", "lora"]),
     ({"trivial": 0.97}, ["trivial"])],
)  # fmt: skip
def test_whose_answers_stand_side_by_side(truth: dict[str, float], shown: list[str]) -> None:
    """The choice; or the model that came closest, even where a trivial answer came closer."""
    assert [entry.rung for entry in compared(climbed(**truth))] == shown


def test_of_bounds_that_are_the_same_the_better_score_came_closest() -> None:
    score = Interval(0.0, 0.0, 0.1, 0.95, 9)
    rows = [Entry("lora", "a", score=replace(score, value=v), lower=0.0) for v in (0.01, 0.05, 0.02)]
    assert nearest(rows) is rows[1]


def test_a_rung_that_reaches_the_target_beyond_the_limits_is_named() -> None:
    steps = Simulated({"lora": 0.99}, latency={"lora": 0.5})
    found = climb(rule(limits=Limits(latency=0.2)), steps, bound)
    report = build(project(limits={"latency": "200ms"}), found, evidence(test=()))
    assert report["decision"]["sentence"] == (
        "No rung meets the target within the limits: lora on small reaches it, but one answer takes 500 ms, over the "
        "limit of 200 ms."
    )


def test_a_part_of_the_examples_that_cannot_be_learned_is_no_curve_and_the_report_is_made() -> None:
    def refused(rung: str, candidate: str, n: int) -> Any:
        raise Unfit(f"too much of {n} examples is cut")

    work: Any = SimpleNamespace(project=project(), parts={"train": [None] * 100}, point=refused)
    assert learning_curve(work, climbed(lora=0.5)) == (
        None, "A learning curve was not made: too much of 25 examples is cut."
    )  # fmt: skip


def test_what_is_trained_for_a_learning_curve_is_told_as_the_rungs_are(capsys: pytest.CaptureFixture[str]) -> None:
    right = np.random.default_rng(0).random(200)

    def point(rung: str, candidate: str, n: int) -> Any:
        return np.stack([right < n / 200, np.ones(200)], -1)

    measured = SimpleNamespace(stats=point("lora", BASE, 100))
    work: Any = SimpleNamespace(
        project=project(), parts={"train": [None] * 100}, point=point, measure=lambda *place: measured,
        metric=SimpleNamespace(value=lambda sums: sums[..., 0] / sums[..., 1]),
    )  # fmt: skip
    found, view = climbed(lora=0.5), View(0.8, "mentions", plain=True)
    view.tell(found.entries)
    capsys.readouterr()
    assert learning_curve(work, found, view.tell)[0]
    assert capsys.readouterr().err.splitlines() == [
        "lora on 25 examples base: running, planned (18 s, 1 GB)", "lora on 25 examples base: done",
        "lora on 50 examples base: running, planned (35 s, 1 GB)", "lora on 50 examples base: done",
    ]  # fmt: skip


def test_the_caveats_follow_from_what_was_done() -> None:
    told = " ".join(build(project(), climbed(lora=0.97), evidence(opened=2))["caveats"])
    assert "7 comparisons with the target could be made, each with its share of an error of 0.05" in told
    assert "opened for 2 different models in this directory" in told
    assert "Earlier runs" not in told
    assert "There is no test part" in " ".join(build(project(), climbed(lora=0.97), evidence(opened=0))["caveats"])
    assert "2 inputs of the test part stand in the train part too (test.jsonl:4)" in told
    assert "Not tried: full on base." in told
    assert "one seed" in told


def test_a_test_part_that_was_opened_before_is_not_said_to_be_new() -> None:
    said = build(project(), climbed(lora=0.97), evidence(opened=3))["decision"]["test"]
    assert said.startswith("On the test part, which was opened for 2 other models before it and may have led to it, it")


def test_earlier_comparisons_on_the_same_decide_part_are_said() -> None:
    told = " ".join(build(project(), climbed(lora=0.97), evidence(earlier=1))["caveats"])
    assert "Earlier runs in this directory had 1 other comparison on the same decide part" in told


def test_what_a_reader_of_a_score_should_know_stands_beside_it() -> None:
    lost = "37 of 60 prompts lost 80 shots, since the model's context is short"
    found = climb(rule(), Simulated({"lora": 0.97}, notes={"few-shot": (lost,)}), bound)
    report = build(project(), found, evidence())
    assert report["entries"][3]["notes"] == [lost]
    assert any(f"({lost})" in reason for reason in report["decision"]["reasons"])
    assert said(page(report)).count(lost) == 2  # among the reasons, and in the table


# -- the page


def test_the_report_is_json_and_the_page_is_built_of_it_alone() -> None:
    report = build(project(), climbed(lora=0.97), evidence())
    assert page(json.loads(json.dumps(report))) == page(report)


@pytest.mark.parametrize("truth", [{"lora": 0.97}, {"trivial": 1.0}, {"lora": 0.5}])
def test_the_page_is_whole_and_needs_nothing_from_outside(truth: dict[str, float]) -> None:
    html = page(build(project(), climbed(**truth), evidence()))
    reader = read(html)
    assert html.startswith("<!doctype html>")
    names = {tag for tag, _ in reader.tags}
    assert names.isdisjoint({"script", "link", "iframe", "img", "object", "embed", "form", "base"})
    for _, attributes in reader.tags:
        assert not {"src", "href", "srcset", "onload", "onclick", "onerror", "style"} & set(attributes)
    assert not re.search(r"url\(|@import|https?:", html)
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_a_column_of_long_names_keeps_a_width() -> None:
    """Text that may be broken anywhere would else be broken letter by letter, to make room for the other columns."""
    html = page(build(project(), climbed(lora=0.97), evidence()))
    assert re.search(r"^\.wrap \{ overflow-wrap: anywhere; min-width: \d+rem; \}", html, re.MULTILINE)


def test_everything_is_escaped() -> None:
    report = build(project(), climbed(lora=0.97), evidence())
    html = page(report)
    assert "<script" not in html
    assert (
        html.count("&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;") == 7
    )  # title, heading, id, input, output; a setting, an alarm
    assert EVIL in said(html)


def test_the_page_says_what_the_report_holds() -> None:
    report = build(project(), climbed(lora=0.97), evidence())
    told = said(page(report))
    assert report["decision"]["sentence"] in told
    assert report["spared"]["sentence"] in told
    for words in [*report["decision"]["reasons"], *report["caveats"]]:
        assert words in told
    for words in ("soft-prompt", "not needed", "chosen", "below the target", "bits per byte", "+0.250", "1,000"):
        assert words in told
    assert "modelwright run run.yaml --output other" in told
    assert "+0.200 to +0.300" in told
    assert "2 inputs stand both in train and in test: test.jsonl:4" in told
    assert "Limits: time 10 min 0 s; memory 8 GB." in told


def test_an_empty_report_is_a_page_too() -> None:
    nothing = Simulated({}, misfits=dict.fromkeys(("zero-shot",), "it does not fit"))
    found = climb(rule(ladder=("zero-shot",)), nothing, bound)
    told = said(page(build(project(ladder=["zero-shot"]), found, Evidence())))
    assert "none could be measured" in told
    assert "zero-shot on small was not tried: it does not fit." in told
    assert "No rung was measured." in told


# -- marks


def test_required_strings_are_marked_whatever_their_case_and_spacing() -> None:
    assert marked("a FULL\nrefund & more", ["full refund"]) == "a <mark>FULL\nrefund</mark> &amp; more"
    assert marked("<b>", []) == "&lt;b&gt;"
    assert marked("<b> is b", ["<b>", ""]) == "<mark>&lt;b&gt;</mark> is b"
    assert marked("order 12 of 123", ["12", "123"]) == "order <mark>12</mark> of <mark>123</mark>"


# -- plots


def test_places_on_a_log_scale() -> None:
    x = log_scale([1, 100], 0, 230)  # 0.15 of a decade on either side
    assert x(1) == pytest.approx(15)
    assert x(10) == pytest.approx(115)
    assert x.ticks == (1, 3, 10, 30, 100)
    times = log_scale([2.0, 7000.0], 0, 1, CLOCK)
    assert [clock(tick) for tick in times.ticks] == [
        "3 s", "10 s", "30 s", "1 min", "3 min", "10 min", "30 min", "1 h",
    ]  # fmt: skip


def test_names_are_moved_apart_and_stay_in_order() -> None:
    placed = apart([50, 51, 52, 100], 16, 0, 200)
    assert placed == [50, 66, 82, 100]
    crowded = apart([10.0] * 30, 16, 0, 100)
    assert min(b - a for a, b in pairwise(crowded)) > 3
    assert max(crowded) <= 100 + 1e-9
    assert apart([], 16, 0, 100) == []


def test_plots_say_what_they_show_and_escape_it() -> None:
    dot = Dot(f"lora{EVIL}", 60, 0.9, 0.85, 0.93, 0.84, True)
    for svg in (
        plots.scatter([dot], 0.8, 1.0, "mentions"),
        plots.bars([Bar(f"lora{EVIL}", 50, 60)], "Time", lambda seconds: f"{seconds} s"),
        plots.learning([(250, 0.6), (500, 0.7)], [(250, 0.6, 0.55, 0.65), (2000, 0.8, 0.7, 0.9)], 0.85, 1.0),
    ):
        assert "<script" not in svg
        assert read(svg).tags[1][0] == "title"
        assert "<desc>" in svg
    assert plots.scatter([], 0.8, 1.0, "m") == plots.bars([Bar("a", None, None)], "t", str) == ""


def test_a_higher_score_stands_higher() -> None:
    dots = [Dot("a", 1, 0.2, 0.1, 0.3, 0.1, False), Dot("b", 10, 0.8, 0.7, 0.9, 0.7, True)]
    low, high = re.findall(r'<circle class="([^"]+)" cx="([\d.]+)" cy="([\d.]+)"', plots.scatter(dots, 0.5, 1.0, "m"))
    assert (low[0], high[0]) == ("dot", "dot chosen")
    assert float(low[1]) < float(high[1])
    assert float(low[2]) > float(high[2])


# -- the profile


def test_the_profile_counts() -> None:
    task = project(
        task={"kind": "classify", "data": {"train": "t.tsv"}}, metric="accuracy", base={"data": "desk", "time": "1min"}
    ).task

    def examples(part: str, *texts: str) -> list[Example]:
        return [Example(f"{part}:{i}", {"text": text, "label": "ab"[i % 2]}) for i, text in enumerate(texts)]

    parts = {"train": examples("train", "one", "Two ", "two", "threeee"), "test": examples("test", "TWO", "new", "one")}
    found = profile(task, parts)
    asked = replace(task, prompts=("{{ text }} is {{ label }}?",))
    assert profile(asked, parts | {"test": examples("test", "new", "one")})["overlap"] == [], "it is asked otherwise"
    assert found["parts"]["train"]["examples"] == 4
    assert found["parts"]["train"]["duplicates"] == 1
    assert found["parts"]["train"]["input"] == {"median": 3, "p95": 6, "longest": 7}
    assert found["labels"] == {"train": {"a": 2, "b": 2}, "test": {"a": 2, "b": 1}}
    assert found["overlap"] == [{"parts": ["train", "test"], "examples": 2, "named": ["test:0", "test:2"]}]


def test_costs_are_bytes_and_seconds() -> None:
    entry = build(project(), climbed(lora=0.97), evidence())["entries"][0]
    assert entry["actual"] == Cost(20.0, 10**9)._asdict()


@pytest.mark.parametrize(
    ("candidate", "said"),
    [("base", "base"), ("org/name", "org/name"), ("runs/mine/model", "mine"), ("/far/away/runs/mine/model", "mine"),
     ("/far/away/gpt2", "away/gpt2")],
)  # fmt: skip
def test_models_are_named_in_short(candidate: str, said: str) -> None:
    assert short(candidate) == said


# -- what is asked beside the target


def test_the_decision_says_what_is_asked_beside_the_target_and_what_came_of_it() -> None:
    steps = Simulated({"lora": 0.97, "lora+dpo": 0.97}, toxic={"lora": 0.4, "lora+dpo": 0.01})
    found = climb(rule(ladder=("trivial", "lora"), align=("dpo", "ppo")), steps, bound)
    report = build(project(), found, evidence())
    decision = report["decision"]
    assert decision["met"]
    assert decision["sentence"].startswith("Take lora+dpo on small")
    assert re.search(
        r"Of 200 answers 0\.0\d\d are toxic, at most 0\.0\d\d of all; the limit is 0\.1\.", decision["sentence"]
    )
    assert any("lora on small scores" in why and "but of its answers 0." in why for why in decision["reasons"])
    told = {entry["rung"]: entry for entry in report["entries"]}
    assert told["lora+dpo"]["line"] == "lora, aligned with preferences, by DPO"
    assert [one["met"] for one in told["lora"]["demands"]] == [False]
    assert told["lora+ppo"]["state"] == "spared"
    html = page(report)
    assert "toxic: 0.0" in html
    assert re.search(r"reaches the target<span class=.note.>of its answers 0\.\d+ are toxic", html)


def test_where_an_aligned_rung_fails_too_the_sentence_says_which_came_how_far() -> None:
    steps = Simulated({"lora": 0.97, "lora+dpo": 0.97}, toxic={"lora": 0.4, "lora+dpo": 0.3})
    found = climb(rule(ladder=("lora",), align=("dpo",)), steps, bound)
    said = build(project(), found, evidence())["decision"]["sentence"]
    assert said.startswith(
        "No rung meets the target within the limits: lora+dpo on small reaches it, but of its answers"
    )


def test_the_page_shows_the_gain_its_price_and_its_course() -> None:
    html = page(build(project(), climbed(lora=0.97), evidence()))
    section = html[html.index("Alignment: what was gained") :]
    section = section[: section.index("</section>")]
    text = re.sub(r"<[^>]+>", " ", section)
    assert re.search(r"toxic\s+at most 0.1\s+0.450\s+0.400 to 0.500\s+0.150\s+0.100 to 0.200\s+-0.300", text)
    assert re.search(r"mentions, of the task\s+at least 0.8", text)
    assert "not all is met" in text
    assert "the very judge that it is measured by" in text
    assert section.count("<svg") == 2  # the reward and the KL
    assert "Of 106 pairs kept apart it tells 0.907 right" in text
    assert EVIL not in html
