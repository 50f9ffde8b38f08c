"""report.json -> report.html: one file that needs no network and no scripts, and reads in light, in dark and on paper.

The page is `page.html`, a template that escapes whatever is put into it; only the plots, which escape their own words,
and the marks round required strings are put in as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from modelwright.project import plots
from modelwright.project.ladder import BASE
from modelwright.project.plots import Bar, Dot
from modelwright.project.report import number
from modelwright.recipes.watch import moment, size

COURSES = {"score": "reward", "kl": "KL, nats", "length": "tokens", "accuracy": "pairs told right", "margin": "margin"}

TEMPLATE = Path(__file__).with_name("page.html")


def page(report: Mapping[str, Any]) -> str:
    """The whole page of a report as `report.build` makes it."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": number, "duration": moment, "size": size, "latency": latency, "marked": marked, "label": label,
    }  # fmt: skip
    template = environment.from_string(TEMPLATE.read_text("utf-8"))
    html: str = template.render(
        report=report, courses=list(COURSES), plots={name: Markup(svg) for name, svg in drawn(report).items()}
    )
    return html


def drawn(report: Mapping[str, Any]) -> dict[str, str]:
    entries, top = report["entries"], report["scale"]
    dots = [
        Dot(label(entry), entry["actual"]["seconds"], entry["score"]["value"], entry["score"]["low"],
            entry["score"]["high"], entry["lower"], entry["chosen"])
        for entry in entries
        if entry["score"] and entry["actual"]
    ]  # fmt: skip
    found = {"quality": plots.scatter(dots, report["target"], top, report["metric"])}
    for what, words in (("seconds", moment), ("memory", size)):
        rows = [Bar(label(entry), amount(entry, "planned", what), amount(entry, "actual", what)) for entry in entries]
        found[what] = plots.bars(rows, f"Planned and actual {'time' if what == 'seconds' else 'memory'}", words)
    for at, one in enumerate(report["alignment"]):
        for what in COURSES:
            points = [(row["step"], row[what]) for row in one["course"] if what in row]
            found[f"{what}-{at}"] = plots.course(COURSES[what], points)
    curve = report["curve"]
    found["curve"] = ""
    if curve:
        band = [(reach["n"], reach["value"], reach["low"], reach["high"]) for reach in curve["band"]]
        found["curve"] = plots.learning([(n, value) for n, value in curve["points"]], band, report["target"], top)
    return found


def amount(entry: Mapping[str, Any], which: str, what: str) -> float | None:
    cost = entry[which]
    return float(cost[what]) if cost else None


def label(entry: Mapping[str, Any]) -> str:
    """A rung's name for a plot: with the candidate's, unless it is the one that the project made."""
    if entry["rung"] == BASE:
        return "base, pretrained"
    if entry["rung"] == "trivial":
        return str(entry["candidate"])
    return str(entry["rung"]) + ("" if entry["candidate"] == BASE else f", {entry['candidate']}")


def latency(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:,.0f} ms"


def marked(text: str, required: Sequence[str]) -> Markup:
    """A text, escaped, with each required string that stands in it marked, whatever its case and spacing."""
    patterns = [r"\s+".join(re.escape(word) for word in words.split()) for words in required if words.split()]
    if not patterns:
        return escape(text)
    found = re.compile("|".join(sorted(patterns, key=len, reverse=True)), re.IGNORECASE)
    pieces: list[Markup] = []
    at = 0
    for match in found.finditer(text):
        pieces += [escape(text[at : match.start()]), Markup("<mark>") + escape(match[0]) + Markup("</mark>")]
        at = match.end()
    return Markup("").join([*pieces, escape(text[at:])])
