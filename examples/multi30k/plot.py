"""What beams add to greedy decoding, by how many there are and by the length penalty: python plot.py RUNS PICTURE."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOUR = "#1b6ca8"


def measured(runs: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(runs.glob("beams*/result.json"))]


def line(at: Any, said: list[dict[str, Any]], over: str) -> None:
    """The paired difference in BLEU, with its interval."""
    said = sorted(said, key=lambda one: one[over])
    gains = [one["against"]["difference"]["bleu"] for one in said]
    y = [gain["value"] for gain in gains]
    ends = [[gain["value"] - gain["low"] for gain in gains], [gain["high"] - gain["value"] for gain in gains]]
    at.errorbar([one[over] for one in said], y, yerr=ends, fmt="o-", color=COLOUR, ecolor="0.5", capsize=3)
    at.axhline(0, color="0.4", linestyle="--", linewidth=1)
    at.spines[["top", "right"]].set_visible(False)


def main() -> None:
    said = measured(Path(sys.argv[1]))
    found = Figure(figsize=(7, 3.2), layout="constrained")
    FigureCanvasAgg(found)
    width, penalty = found.subplots(1, 2, sharey=True)
    line(width, [one for one in said if one["length_penalty"] == 0.6], "beams")
    line(penalty, [one for one in said if one["beams"] == 4], "length_penalty")
    width.set_xscale("log", base=2)
    width.set(xlabel="beams, at a length penalty of 0.6", ylabel="BLEU more than greedy", xticks=[2, 4, 8])
    width.set_xticklabels(["2", "4", "8"])
    penalty.set(xlabel="length penalty, of 4 beams", xticks=[0, 0.6, 1, 2])
    found.savefig(sys.argv[2])


main()
