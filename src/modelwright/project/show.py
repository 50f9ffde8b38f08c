"""`modelwright report`: the page of a run, built again from its report.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import jinja2
import tyro

from modelwright.project.page import page
from modelwright.project.report import FORMAT
from modelwright.recipes.flags import parse
from modelwright.recipes.watch import write_whole

REPORT, PAGE = "report.json", "report.html"


@dataclasses.dataclass(frozen=True)
class Report:
    """Build report.html of a run again."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run directory that `modelwright run` wrote."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=("-o",))] = None
    """Where to write the page; without a word, report.html in the run directory."""
    json: bool = False
    """Print the report as one JSON object, and write nothing."""


def write_report(report: Mapping[str, Any], directory: Path) -> None:
    """report.json, and the page that is built of it."""
    html = page(report)
    write_whole(directory / REPORT, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    write_whole(directory / PAGE, html)


def read_report(directory: Path) -> dict[str, Any]:
    """Raises FileNotFoundError where there is none, ValueError for what is no report of this program's."""
    path = directory / REPORT
    if not path.is_file():
        raise FileNotFoundError(f"there is no {REPORT} in {directory}: `modelwright run` writes one as it ends")
    try:
        said: dict[str, Any] = json.loads(path.read_text("utf-8"))
        right = said["format"] == FORMAT
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not a report as this program writes it") from None
    if not right:
        raise ValueError(
            f"{path} is a report of format {said['format']}, and this program reads {FORMAT}: run it again"
        )
    return said


def main(argv: list[str]) -> int:
    args = parse(Report, argv, "modelwright report")
    report = read_report(args.run)
    if args.json:
        print(json.dumps(report, ensure_ascii=False))
        return 0
    path = args.output or args.run / PAGE
    try:
        write_whole(path, page(report))
    except (jinja2.UndefinedError, KeyError, TypeError) as error:
        raise ValueError(f"{args.run / REPORT} is not a report as this program writes it: {error}") from None
    print(path)
    return 0
