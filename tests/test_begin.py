"""What `modelwright init` guesses from the data."""

import json
from pathlib import Path

import pytest

from modelwright import cli
from modelwright.project.spec import read_project


@pytest.mark.parametrize(
    ("sizes", "context", "fits"),
    [([30] * 20, 256, "100%"), ([900] * 19 + [9000], 384, "95%"), ([30] + [9000] * 19, 2048, "5%")],
)
def test_init_writes_a_context_that_holds_most_of_the_examples(
    sizes: list[int], context: int, fits: str, tmp_path: Path
) -> None:
    """At 3 characters a token, beside 64 that are kept for an answer: 900 / 3 + 64 is 364, and 6 x 64 is 384."""
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"in": "a" * n, "out": "b"}) + "\n" for n in sizes))
    data, output = str(tmp_path / "t.jsonl"), tmp_path / "a.yaml"
    assert cli.main(["init", "--task", "generate", "--data", data, "--output", str(output)]) == 0
    base = read_project(output).base
    assert base
    assert base.context == context
    assert f"# tokens that it can read at once: {fits} of the examples" in output.read_text()
