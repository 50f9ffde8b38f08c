"""What a grammar costs: microseconds to find the tokens that may come next, mean and 99th percentile.

    python bench/grammar.py VOCABULARY [--rounds 5]

VOCABULARY is a tokenizer's directory (GPT-2's has 50,257 tokens). For each schema valid texts are followed in the
tokenizer's own spelling, and `allowed()` is measured at each token, the conversion to a torch mask included; `take` and
the building of the grammar are measured apart. One thread, one process; the first round, which fills what llguidance
remembers of a grammar, is counted too. The bars: a mean of 100, a 99th percentile of 1,000.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from modelwright.data.tokenizer import Tokenizer
from modelwright.infer.constrain import json_grammar

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "mail": {"type": "string", "format": "email"},
        "kind": {"enum": ["customer", "agent", "guest"]},
    },
    "required": ["name", "age", "mail", "kind"],
    "additionalProperties": False,
}
LIST = {"type": "array", "items": PERSON, "maxItems": 50}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"v": {"type": "string"}, "next": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
            "required": ["v", "next"],
            "additionalProperties": False,
        }
    },
}
CODE = {"type": "string", "pattern": "^([A-Z]{2}-[0-9]{3,6} ?){1,40}$"}
ANN = {"name": "Ann Müller-Łukasz", "age": 42, "mail": "ann.mueller@example.org", "kind": "customer"}
LEAF: dict[str, Any] = {"v": "a leaf, with “quotes” and 漢字", "next": []}
CASES: dict[str, tuple[dict[str, Any] | None, Any]] = {
    "any object": (None, {"people": [ANN] * 5, "ok": True, "rate": -1.5e3, "none": None}),
    "a person": (PERSON, ANN),
    "20 people": (LIST, [ANN] * 20),
    "a tree": (TREE, {"v": "root", "next": [{"v": "inner node", "next": [LEAF] * 4}] * 4}),
    "a pattern": (CODE, "AB-123 " * 30 + "CD-4567"),
}


def follow(words: Tokenizer, schema: dict[str, Any] | None, text: str) -> dict[str, list[float]]:
    """Seconds of each step along a text that is valid."""
    taken: dict[str, list[float]] = {"build": [], "mask": [], "take": []}
    start = time.perf_counter()
    grammar = json_grammar(words, schema)
    taken["build"].append(time.perf_counter() - start)
    for token in words.encode(text):
        start = time.perf_counter()
        allowed = grammar.allowed()
        between = time.perf_counter()
        assert allowed[token], f"{words.decode([token])!r} is not allowed in {text}"
        again = time.perf_counter()
        grammar.take(token)
        taken["take"].append(time.perf_counter() - again)
        taken["mask"].append(between - start)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vocabulary", type=Path, nargs="?", help="a tokenizer's directory")
    parser.add_argument("--rounds", type=int, default=5)
    o = parser.parse_args()
    if not o.vocabulary:
        return print("grammar.py needs a vocabulary: the directory of a tokenizer")
    words = Tokenizer.load(o.vocabulary)
    start = time.perf_counter()
    json_grammar(words)
    print(f"{words.vocab:,} tokens; the vocabulary is read once, in {time.perf_counter() - start:.2f} s")
    everything: list[float] = []
    for name, (schema, value) in CASES.items():
        text = json.dumps(value, ensure_ascii=False)
        runs = [follow(words, schema, text) for _ in range(o.rounds)]
        masks = [second for run in runs for second in run["mask"]]
        everything += masks
        show(name, masks, [s for run in runs for s in run["take"]], [s for run in runs for s in run["build"]])
    show("all", everything, [], [])


def show(name: str, masks: list[float], takes: list[float], builds: list[float]) -> None:
    mean, p99 = statistics.mean(masks), statistics.quantiles(masks, n=100)[98]
    more = f"  take {1e6 * statistics.mean(takes):6.1f}  build {1e3 * statistics.mean(builds):6.2f} ms" if takes else ""
    print(f"{name:<11} {len(masks):>6} masks, us: mean {1e6 * mean:7.1f}  p99 {1e6 * p99:8.1f}{more}")


if __name__ == "__main__":
    main()
