"""The shapes of published models hold as many parameters as was published, and as another library builds of them."""

from __future__ import annotations

import pytest
import torch
import transformers

from modelwright.model.checkpoint import blank
from modelwright.model.families import family_of_model
from modelwright.model.presets import PRESETS
from modelwright.plan.cost import parameters

# What is further than 1% from the paper's rounded figure, and why: the missing relative positions; a vocabulary that is
# "about 37,000"; and figures of two digits.
FURTHER = {"chinchilla-70b": 64.69e9, "transformer-base": 63.05e6, "gpt3-2.7b": 2.652e9}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_as_large_as_was_published(name: str) -> None:
    preset = PRESETS[name]
    built = sum(p.numel() for p in blank(preset.config).parameters())
    assert parameters(preset.config) == built
    if preset.exact:
        assert built == preset.published
    else:
        assert built == pytest.approx(FURTHER.get(name, preset.published), rel=0.001 if name in FURTHER else 0.01)


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.exact])
def test_another_library_counts_as_many(name: str) -> None:
    """Of the config.json that we would write, on the meta device."""
    cfg = PRESETS[name].config
    config = dict(family_of_model(cfg).write(cfg))
    theirs = getattr(transformers, config["architectures"][0])
    with torch.device("meta"):
        model = theirs(transformers.AutoConfig.for_model(config.pop("model_type"), **config))
    assert model.num_parameters() == parameters(cfg)


def test_what_chinchilla_lacks_is_said_and_is_what_it_lacks() -> None:
    """One square matrix of the model's width in each layer (Dai et al. 2019, section 3.3)."""
    preset = PRESETS["chinchilla-70b"]
    missing = preset.config.layers * preset.config.width**2
    assert "5.4e9" in preset.source
    assert missing == pytest.approx(5.4e9, rel=0.01)
    assert parameters(preset.config) + missing == pytest.approx(preset.published, rel=0.01)


def test_each_count_of_the_table_is_that_of_a_preset() -> None:
    from modelwright.model import presets

    table = presets.__doc__ or ""
    for name, preset in PRESETS.items():
        assert preset.source
        assert not preset.exact or f"{preset.published:,}" in table, name
