"""What each way of tuning does to a model before the first step, and what is left of the base."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modelwright.adapt.lora import LoRA, LoRALinear, merged_copy
from modelwright.adapt.open import open_model
from modelwright.adapt.prompt import SoftPrompt
from modelwright.hub.open import LanguageModel
from modelwright.model.transformer import Labels
from modelwright.recipes.methods import Adapter, default_rate, make_adapter, put_on, speaking, with_dropout
from tasks import SHAPES, model_in

TOKENS = torch.arange(20).view(2, 10)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LanguageModel]:
    return {shape: open_model(model_in(tmp_path_factory.mktemp("m") / shape, shape, dropout=0.3)) for shape in SHAPES}


def draw() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def adapter(method: str, lm: LanguageModel, targets: tuple[str, ...] | None = None) -> Adapter:
    return make_adapter(method, lm.model, rank=4, alpha=8.0, targets=targets, tokens=5)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", SHAPES)
def test_dropout_reaches_every_part(shape: str, opened: dict[str, LanguageModel]) -> None:
    """Without dropout a model in training says what it says in evaluation; with it, never."""
    model = opened[shape].model
    changed = with_dropout(model, 0.0)
    assert {id(p) for p in changed.parameters()} == {id(p) for p in model.parameters()}, "the very same tensors"
    memory = changed.encode(TOKENS) if changed.encoder is not None else None
    plain = changed(TOKENS, memory=memory)
    changed.train()
    memory = changed.encode(TOKENS) if changed.encoder is not None else None
    assert torch.equal(changed(TOKENS, memory=memory), plain)
    assert changed.cfg.dropout == 0.0
    assert changed.cfg.encoder is None or changed.cfg.encoder.dropout == 0.0
    rates = [m.dropout for m in with_dropout(model, 0.5).modules() if isinstance(getattr(m, "dropout", None), float)]
    assert set(rates) <= {0.5, 0.0}, "a head over the vocabulary has none"
    assert rates.count(0.0) == 1


def test_rates_by_hand() -> None:
    assert [default_rate(method, 64) for method in ("full", "lora", "prompt")] == [0.002, 0.02, 0.05]  # type: ignore[arg-type]
    assert [default_rate(method, 768) for method in ("full", "lora", "prompt")] == [1e-4, 1e-3, 4e-3]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "there"),
    [("decoder", ("q", "k", "v", "o", "gate", "up", "down")), ("encoder", ("q", "k", "v", "o", "up", "down"))],
)
def test_a_lora_is_beside_every_layer_that_the_model_has(
    shape: str, there: tuple[str, ...], opened: dict[str, LanguageModel]
) -> None:
    found = adapter("lora", opened[shape])
    assert found == Adapter("lora", LoRA(4, 8.0, targets=there))
    with pytest.raises(ValueError, match="this model has no layer 'gate' for LoRA: choose among q, k, v, o, up, down"):
        put_on(copy.deepcopy(opened["encoder"].model), adapter("lora", opened["encoder"], ("q", "gate")), None, draw())
    assert adapter("prompt", opened[shape]) == Adapter("prompt", SoftPrompt(5))
    assert adapter("full", opened[shape]) == Adapter("full", None)


@pytest.mark.parametrize("method", ["full", "lora", "prompt"])
def test_what_learns(method: str, opened: dict[str, LanguageModel]) -> None:
    lm = opened["encoder"]
    model = put_on(copy.deepcopy(lm.model), adapter(method, lm), Labels(("no", "yes")), draw())
    assert model.training
    learns = {name for name, p in model.named_parameters() if p.requires_grad}
    head = {name for name, _ in model.named_parameters() if name.startswith("head.")}
    assert head == {"head.pooler.weight", "head.pooler.bias", "head.proj.weight", "head.proj.bias"}
    if method == "full":
        assert learns == {name for name, _ in model.named_parameters()}
    elif method == "prompt":
        assert learns == head | {"embed.tokens.soft"}
    else:
        assert {name.rpartition(".")[2] for name in learns - head} == {"A", "B"}


def test_a_head_is_put_on_once(opened: dict[str, LanguageModel]) -> None:
    labels, full = Labels(("no", "yes")), Adapter("full", None)
    model = put_on(copy.deepcopy(opened["encoder"].model), full, labels, draw())
    assert put_on(model, full, labels, draw()) is model
    with pytest.raises(ValueError, match=r"labels no, yes, and the task yes, no: list them in that order"):
        put_on(model, full, Labels(("yes", "no")), draw())
    with pytest.raises(ValueError, match=r"labels no, yes, and the task a, b: begin with a model without a head"):
        put_on(model, full, Labels(("a", "b")), draw())
    with pytest.raises(ValueError, match="head labels each text, which is not what the task asks"):
        put_on(model, full, Labels(("no", "yes"), "token"), draw())


def test_what_a_labelled_encoder_still_says(opened: dict[str, LanguageModel]) -> None:
    """Its body as it was tuned, under the head that the base fills gaps with."""
    lm = replace(opened["encoder"], model=copy.deepcopy(opened["encoder"].model))
    base = replace(lm, model=merged_copy(lm.model))
    before = base.model(TOKENS)
    model = put_on(lm.model, adapter("lora", lm), Labels(("no", "yes")), draw())
    tuned = replace(lm, model=model)
    assert torch.equal(speaking(tuned, base).model(TOKENS), before), "a fresh LoRA changes nothing"
    assert model(TOKENS).shape == (2, 10, 2)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LoRALinear):
                module.B.normal_(generator=draw())
    hidden = merged_copy(model).hidden(TOKENS)
    assert torch.equal(speaking(tuned, base).model(TOKENS), base.model.head(hidden))
    assert torch.equal(base.model(TOKENS), before), "the base is as it was"
    assert model.cfg.labels is not None


def test_the_base_shares_its_tensors(opened: dict[str, LanguageModel], tmp_path: Path) -> None:
    """A second model of the same size would be a second one in memory."""
    model = copy.deepcopy(opened["decoder"].model)
    base = merged_copy(model)
    put_on(model, adapter("full", opened["decoder"]), None, draw())
    assert {id(p) for p in base.parameters()} == {id(p) for p in model.parameters()}
