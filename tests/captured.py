"""What another library said of its own models, as recorded: numbers, weights and gradients (tests/recorded)."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from modelwright.model import checkpoint
from modelwright.model.transformer import Transformer

RECORDED = Path(__file__).parent / "recorded"


def opened(name: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Settings and tensors of a fixture."""
    with safe_open(RECORDED / f"{name}.safetensors", "pt") as file:
        return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def model_of(name: str, config: str, tensors: dict[str, Tensor], directory: Path) -> Transformer:
    """A model of the tensors `name.*`; gradients have the weights' names, and are read by the same table."""
    where = directory / name
    where.mkdir()
    (where / "config.json").write_text(config)
    own = {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}
    save_file(own, where / "model.safetensors", {"format": "pt"})
    return checkpoint.load(where)
