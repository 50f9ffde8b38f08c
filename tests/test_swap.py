"""Surgery by name, and the tensors that are trained."""

import pytest
import torch
from torch import nn

from modelwright.adapt.swap import learned, restore_learned, swap


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Linear(4, 1))


def wide(layer: nn.Module) -> nn.Module:
    return nn.Sequential(layer)


def test_a_pattern_matches_whole_names() -> None:
    model = small()
    inner = model[1][0]
    assert swap(model, r"1\..*", wide) is model
    assert isinstance(model[0], nn.Linear)
    assert isinstance(model[1][0], nn.Sequential)
    assert model[1][0][0] is inner
    assert isinstance(model[1][1], nn.ReLU)


def test_names_and_another_kind() -> None:
    model = swap(small(), {"0", "2"}, wide)
    assert [type(part) for part in model] == [nn.Sequential] * 3
    assert isinstance(model[1][0], nn.Linear)
    assert isinstance(swap(small(), ".*", lambda _: nn.GELU(), nn.ReLU)[1][1], nn.GELU)


def test_nothing_that_matches_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"^the model has no Linear whose name matches 1$"):
        swap(small(), "1", wide)
    with pytest.raises(ValueError, match=r"no ReLU whose name matches 0, 2"):
        swap(small(), {"2", "0"}, wide, nn.ReLU)


def test_what_is_learned_comes_back() -> None:
    model, other = small(), small()
    for one in (model, other):
        one[0].requires_grad_(False)
        one[2].bias.requires_grad_(False)
    saved = learned(model)
    assert list(saved) == ["1.0.weight", "1.0.bias", "2.weight"]
    before = other[0].weight.clone()
    restore_learned(other, saved)
    assert torch.equal(other[1][0].weight, model[1][0].weight)
    assert torch.equal(other[0].weight, before)
    saved["2.weight"] = torch.zeros(2, 2)
    saved["x"] = saved.pop("1.0.bias")
    with pytest.raises(ValueError, match=r"1\.0\.bias is missing, x is unknown, 2\.weight is \(2, 2\), not \(1, 4\)$"):
        restore_learned(other, saved)
