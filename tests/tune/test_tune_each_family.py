"""Each family by the commands: opened, tuned in full, saved as what it was, and served as it is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from modelwright import cli
from modelwright.hub.open import LanguageModel, load, save
from modelwright.infer.complete import complete
from modelwright.model.families import family_of_model
from modelwright.model.transformer import Transformer, initialise
from modelwright.plan.arch import STYLES, ByHand, build
from modelwright.serve.registry import Served
from served import serving
from tasks import COLOURS, TEXTS, task_in, tokenizer

WRITERS = [(objective, arch) for objective in ("causal", "span", "denoise") for arch in STYLES[objective]]
LEARNS = {"switch": (160, 0.01), "lstm": (600, 0.003)}  # steps, rate
SHAPES = {"causal": "decoder", "span": "encoder-decoder", "denoise": "encoder-decoder"}


def begun(directory: Path, objective: Any, arch: Any) -> LanguageModel:
    """A model of random weights with a tokenizer of the task's words."""
    words = tokenizer(SHAPES[objective])
    cfg = build(objective, words.vocab, 64, 2, ByHand(arch=arch), 48)
    model = initialise(Transformer(cfg), torch.Generator().manual_seed(0)).eval()
    ids = {"eos_token_id": words.eos, "pad_token_id": words.pad}
    ids |= {"decoder_start_token_id": words.pad} if cfg.encoder else {}
    lm = LanguageModel(model, words, {name: token for name, token in ids.items() if token is not None})
    save(lm, directory)
    return lm


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "arch"), WRITERS)
def test_a_family_is_tuned_saved_and_served(
    objective: str, arch: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = begun(tmp_path / "base", objective, arch)
    task = str(task_in(tmp_path, prompt="{{ source }}"))
    run = tmp_path / "run"
    steps, rate = map(str, LEARNS.get(arch, (80, 0.005)))
    tune = ["tune", str(tmp_path / "base"), "--task", task, "--method", "full", "--steps", steps, "--rate", rate]
    assert cli.main([*tune, "--general", task, "--output", str(run), "--json"]) == 0
    lm = load(run / "model")
    assert family_of_model(lm.model.cfg) is family_of_model(base.model.cfg)
    prompts = [TEXTS[i] for i in (3, 40, 77, 106)]
    wanted = [f" {COLOURS[text.split()[-1]]}" for text in prompts]
    said = [one.text for one in complete(lm, prompts, max_new=6)]
    assert sum(want.strip() in text for want, text in zip(wanted, said, strict=True)) >= 3
    capsys.readouterr()
    with serving([Served("tuned", lm)]) as running:
        asked = {"model": "tuned", "prompt": prompts, "max_tokens": 6, "temperature": 0, "raw": True}
        answer = httpx.post(f"{running.url}/v1/completions", json=asked, timeout=30).json()
    assert [choice["text"] for choice in answer["choices"]] == said, json.dumps(answer)
