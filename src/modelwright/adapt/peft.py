"""PEFT's two files of an adapter, adapter_config.json and adapter_model.safetensors, to a model and back.

Its tensors carry the names of transformers' modules, so our names reach them through the family's table. Where a family
keeps several of our layers as one matrix (GPT-2's q, k and v), PEFT has one A for all of them and B's one over the
other. Written, one A that they share stands as it is; A's of their own stand one over the other, and B holds each
part's block, with zeros elsewhere: the product is the same.

Letters: I inputs and O outputs of a layer, R rank, P tokens of a soft prompt, C width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from modelwright.adapt.lora import LoRA, LoRALinear, freeze
from modelwright.adapt.prompt import SoftPrompt, put_prompt, soft_ids
from modelwright.adapt.swap import swap
from modelwright.model.checkpoint import read_json, write_json
from modelwright.model.families import family_of_model
from modelwright.model.family import Name
from modelwright.model.transformer import Transformer

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PROMPT = "prompt_embeddings"
# PEFT puts one wrapper round a model with a soft prompt and two round one with LoRA, and says so in each name.
WRAPPED, TWICE = "base_model.", "base_model.model."

# Settings that change nothing of what a finished adapter computes; every other must be off, or is refused.
HARMLESS = {
    "peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode",
    "modules_to_save", "target_modules", "exclude_modules", "layers_pattern", "layers_to_transform", "fan_in_fan_out",
    "r", "lora_alpha", "lora_dropout", "use_rslora", "megatron_core", "qalora_group_size", "runtime_config",
    "num_virtual_tokens", "token_dim", "num_attention_heads", "num_layers", "prompt_tuning_init",
    "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs",
}  # fmt: skip
SUPPORTED: dict[str, tuple[Any, ...]] = {  # what is not simply off, and still what we do
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian"),  # others take their start out of the base's weights
    "num_transformer_submodules": (1, None),
}
TASKS = {"decoder": "CAUSAL_LM", "encoder-decoder": "SEQ_2_SEQ_LM", "encoder": None}
LABELLED = {"text": "SEQ_CLS", "token": "TOKEN_CLS", "span": "QUESTION_ANS"}


@dataclass(frozen=True)
class Adapter:
    """The content of the two files, checked: `tensors` under the names of transformers' modules."""

    directory: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def base(self) -> str:
        return str(self.config.get("base_model_name_or_path") or "")


# -- reading ----------------------------------------------------------------------------------------------


def read(directory: Path) -> Adapter:
    """Read and check an adapter's files.

    Raises ValueError naming the setting that we do not have, for pickled weights and for damaged ones, and
    FileNotFoundError where a file is missing.
    """
    config = read_json(directory / CONFIG)
    kind = config.get("peft_type")
    if kind not in ("LORA", "PROMPT_TUNING"):
        raise ValueError(f"{directory / CONFIG}: peft_type = {kind!r}; supported: 'LORA' or 'PROMPT_TUNING'")
    for key, value in config.items():
        if key not in HARMLESS and value not in SUPPORTED.get(key, (None, False, "", [], {})):
            supported = " or ".join(map(repr, SUPPORTED.get(key, (None,))))
            raise ValueError(f"{directory / CONFIG}: {key} = {value!r}; supported: {supported}")
    if not (directory / WEIGHTS).is_file():
        if (directory / PICKLED).is_file():
            raise ValueError(f"{directory} holds only a pickled adapter ({PICKLED}), which can run code: save it again "
                             "with peft, save_pretrained(directory)")  # fmt: skip
        raise FileNotFoundError(f"{directory / WEIGHTS} is missing: an adapter directory holds it beside {CONFIG}")
    try:
        tensors = load_file(directory / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{directory / WEIGHTS} is truncated or damaged ({error}): fetch or save it again") from error
    prefix = TWICE if kind == "LORA" else WRAPPED
    return Adapter(directory, config, {name.removeprefix(prefix): tensor for name, tensor in tensors.items()})


def put_on(model: Transformer, adapter: Adapter) -> Transformer:
    """Give the model, in place, the adapter that was read; all else is frozen but what the adapter itself brings.

    Raises ValueError where the adapter is for a model of another shape.
    """
    put = _put_lora if adapter.config["peft_type"] == "LORA" else _put_soft
    _put_whole(model, adapter, put(model, adapter))
    return model


def _put_lora(model: Transformer, adapter: Adapter) -> dict[str, Tensor]:
    """Puts on what is LoRA -> the tensors that are not."""
    if any(isinstance(module, LoRALinear) for module in model.modules()):
        raise ValueError("the model has a LoRA already: merge it first, or go on training that one")
    today = family_of_model(model.cfg).today  # a model without its head is one wrapper less deep
    rest, scale = {today(name): tensor for name, tensor in adapter.tensors.items()}, _scale(adapter)
    made: dict[str, LoRALinear] = {}
    for their, places in _linears(model).items():
        pair = [rest.pop(key, None) for key in _keys(their)]
        if pair == [None, None]:
            continue
        A, B = pair
        if A is None or B is None:
            raise ValueError(f"{adapter.directory / WEIGHTS} holds only one of {their}'s lora_A and lora_B")
        made |= _split(model, adapter, places, A.float(), B.float(), scale)
    if left := [name for name in rest if ".lora_" in name]:
        raise _other_shape(adapter, f"it has no layer for {left[0]}")
    if not made:
        raise _other_shape(adapter, "it has no layer that the adapter is for")
    freeze(model)
    names = {id(model.get_submodule(name)): name for name in made}
    swap(model, set(made), lambda base: made[names[id(base)]])
    return rest


def _split(
    model: Transformer, adapter: Adapter, places: Sequence[Name], A: Tensor, B: Tensor, scale: float
) -> dict[str, LoRALinear]:
    """The layers of ours that A (R, I) and B (all O, R) adapt. They share A, as one parameter, unless B has blocks.

    A column of B that is 0 adds nothing, and is left out of a part; so the blocks come apart again as they were put
    together. Where all of B is 0 nothing was learned yet, and nothing tells blocks from it.
    """
    layers = {name.ours: model.get_submodule(name.ours) for name in places}
    outputs = [layer.out_features for layer in layers.values() if isinstance(layer, nn.Linear)]
    inputs = next(layer.in_features for layer in layers.values() if isinstance(layer, nn.Linear))
    if A.dim() != 2 or A.shape != (B.size(1), inputs) or B.size(0) != sum(outputs):
        found = f"{tuple(A.shape)} and {tuple(B.shape)}"
        raise _other_shape(adapter, f"{places[0].ours} takes {inputs} to {sum(outputs)}, and the adapter is {found}")
    B = _regroup(B, places[0].groups, places[0].parts)
    shared, dropout, made = nn.Parameter(A), float(adapter.config.get("lora_dropout") or 0.0), {}
    for (ours, layer), part in zip(layers.items(), torch.split(B, outputs), strict=True):
        assert isinstance(layer, nn.Linear)
        used = part.any(0) if bool(B.any()) else torch.ones(len(A), dtype=torch.bool)  # (R)
        if bool(used.any()):
            own = shared if bool(used.all()) else A[used]
            made[ours] = LoRALinear(layer, own, part[:, used].clone(), scale, dropout)
    return made


def _regroup(B: Tensor, outer: int, inner: int) -> Tensor:
    """B (outer * inner * n, R) with its rows as (inner * outer * n): BLOOM's file has the three parts of each head side
    by side, and we the heads of each part."""
    return B.view(outer, inner, -1, B.size(1)).transpose(0, 1).flatten(0, 2)


def _scale(adapter: Adapter) -> float:
    """What multiplies the update: alpha / R, or alpha / sqrt(R) where it is rank-stabilised (Kalajdzievski 2023)."""
    rank, alpha = adapter.config.get("r"), adapter.config.get("lora_alpha")
    if type(rank) is not int or rank < 1 or not isinstance(alpha, int | float):
        raise ValueError(f"{adapter.directory / CONFIG} must have a whole number r above 0 and a number lora_alpha")
    return float(alpha / (rank**0.5 if adapter.config.get("use_rslora") else rank))


def _put_soft(model: Transformer, adapter: Adapter) -> dict[str, Tensor]:
    """Puts on the soft prompt -> the other tensors."""
    rest = dict(adapter.tensors)
    soft = rest.pop(PROMPT, None)
    if soft is None:
        raise ValueError(f"{adapter.directory / WEIGHTS} holds no {PROMPT}, though its config says PROMPT_TUNING")
    if soft.dim() != 2 or soft.size(1) != model.cfg.width:
        raise _other_shape(adapter, f"its width is {model.cfg.width}, and the soft prompt is {tuple(soft.shape)}")
    put_prompt(model, soft.float() / model.cfg.embed_scale)  # a scale of embeddings is in theirs already (Gemma)
    return rest


def _put_whole(model: Transformer, adapter: Adapter, rest: Mapping[str, Tensor]) -> None:
    """Parameters that the adapter brings whole (modules_to_save): a head over labels."""
    family = family_of_model(model.cfg)
    ours = {their: name for name, p in model.named_parameters() if not _is_adapter(name) and ".base." not in name
            for their in family.place(name, model.cfg).theirs}  # fmt: skip
    own = dict(model.named_parameters())
    for their, tensor in rest.items():
        today = family.today(their)
        if today not in ours:
            raise _other_shape(adapter, f"it has no place for {their}")
        p = own[ours[today]]
        if p.shape != tensor.shape:
            raise _other_shape(adapter, f"{their} is {tuple(tensor.shape)}, and there {tuple(p.shape)}")
        with torch.no_grad():
            p.requires_grad_(True).copy_(tensor)


def lacking(model: Transformer, prefix: str, adapter: Adapter) -> list[str]:
    """The parameters of ours under `prefix` that the adapter does not bring whole."""
    family = family_of_model(model.cfg)
    names = [name for name, _ in model.named_parameters() if name.startswith(prefix)]
    brought = {family.today(their) for their in adapter.tensors}
    return [name for name in names if not brought.intersection(family.place(name, model.cfg).theirs)]


def _other_shape(adapter: Adapter, why: str) -> ValueError:
    return ValueError(f"the adapter in {adapter.directory} is for a model of another shape than its base: {why}")


# -- names ------------------------------------------------------------------------------------------------


def _linears(model: Transformer) -> dict[str, list[Name]]:
    """The linear layers of the blocks by the name of their module in transformers; several of ours may be one there."""
    family = family_of_model(model.cfg)
    found: dict[str, list[Name]] = {}
    for ours, module in model.named_modules():
        if ".blocks." in ours and isinstance(module, nn.Linear | LoRALinear):
            ours = ours.removesuffix(".base")
            name = family.place(f"{ours}.weight", model.cfg)
            place = replace(name, ours=ours)
            places = found.setdefault(name.theirs[0].removesuffix(".weight"), [])
            places += [place] if place not in places else []
    return {their: sorted(places, key=lambda place: place.part) for their, places in found.items()}


def _keys(their: str) -> tuple[str, str]:
    return f"{their}.lora_A.weight", f"{their}.lora_B.weight"


def _is_adapter(name: str) -> bool:
    return name.rpartition(".")[2] in ("A", "B") or name == "embed.tokens.soft"


# -- writing ----------------------------------------------------------------------------------------------


def write(model: Transformer, cfg: LoRA | SoftPrompt, directory: Path, base: str) -> None:
    """Write the two files into an existing directory. Raises ValueError where the model has no such adapter."""
    wholes = _wholes(model)
    common = {
        "base_model_name_or_path": base,
        "inference_mode": True,
        "modules_to_save": sorted(set(map(_kept_whole, wholes))) or None,
        "task_type": _task(model),
    }
    if isinstance(cfg, LoRA):
        found, config = _lora_files(model, cfg)
        prefix = TWICE
    else:
        found, config = _soft_files(model, cfg)
        prefix = WRAPPED
    tensors = {f"{prefix}{name}" if name != PROMPT else name: tensor for name, tensor in (found | wholes).items()}
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, directory / WEIGHTS,
              metadata={"format": "pt"})  # fmt: skip
    write_json(directory / CONFIG, common | config)
    (directory / WEIGHTS).chmod((directory / CONFIG).stat().st_mode & 0o777)  # the library's file is its owner's alone


def _lora_files(model: Transformer, cfg: LoRA) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and settings of a LoRA. PEFT knows one rank and one scale: narrower layers are filled up with zeros."""
    linears = _linears(model)
    joined: dict[str, tuple[Tensor, Tensor]] = {}
    scales: set[float] = set()
    for their, places in linears.items():
        parts = [model.get_submodule(place.ours) for place in places]
        if adapted := [part for part in parts if isinstance(part, LoRALinear)]:
            A, B = _join(parts)
            joined[their] = A, _regroup(B, places[0].parts, places[0].groups)
            scales |= {part.scale for part in adapted}
    if not joined:
        raise ValueError("the model has no LoRA to be saved: add_lora first")
    if len(scales) > 1:
        raise ValueError(f"the model's LoRAs have several scales ({', '.join(map(str, sorted(scales)))}): PEFT has one")
    rank = max(len(A) for A, _ in joined.values())
    tensors: dict[str, Tensor] = {}
    for their, (A, B) in joined.items():
        missing = rank - len(A)
        a, b = _keys(their)
        tensors |= {a: nn.functional.pad(A, (0, 0, 0, missing)), b: nn.functional.pad(B, (0, missing))}
    turned = any(linears[their][0].turned for their in joined)
    return tensors, {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": _whole(scales.pop() * rank),
        "lora_dropout": cfg.dropout,
        "target_modules": _shortest(set(joined), _modules(model)),
        "fan_in_fan_out": turned,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
    }


def _join(parts: Sequence[nn.Module]) -> tuple[Tensor, Tensor]:
    """One A (R, I) and B (all O, R) for the layers that are one matrix in the file, adapted or not."""
    adapted = [part for part in parts if isinstance(part, LoRALinear)]
    first = adapted[0]
    shared = len(adapted) == len(parts) and all(part.A is first.A for part in adapted)
    if shared:
        return first.A.detach(), torch.cat([part.B.detach() for part in adapted])
    rows, start, ranks = [], 0, sum(len(part.A) for part in adapted)
    for part in parts:
        outputs = (part.base if isinstance(part, LoRALinear) else part).out_features
        block = first.B.new_zeros(int(outputs), ranks)  # type: ignore[arg-type]
        if isinstance(part, LoRALinear):
            block[:, start : start + len(part.A)] = part.B.detach()
            start += len(part.A)
        rows.append(block)
    return torch.cat([part.A.detach() for part in adapted]), torch.cat(rows)


def _soft_files(model: Transformer, cfg: SoftPrompt) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not soft_ids(model):
        raise ValueError("the model has no soft prompt to be saved: add_prompt first")
    soft = model.embed.tokens.soft
    assert isinstance(soft, Tensor)
    return {PROMPT: soft * model.cfg.embed_scale}, {
        "peft_type": "PROMPT_TUNING",
        "num_virtual_tokens": len(soft),
        "token_dim": model.cfg.width,
        "num_transformer_submodules": 1,  # before an encoder-decoder's source, and not before its decoder too
        "num_attention_heads": model.cfg.heads,
        "num_layers": model.cfg.layers,
        "prompt_tuning_init": "SAMPLE_VOCAB" if cfg.init == "vocab" else "RANDOM",
    }


def _wholes(model: Transformer) -> dict[str, Tensor]:
    """The parameters that learned and are no adapter's, a head over labels: whole, under their names in a file."""
    family = family_of_model(model.cfg)
    return {
        family.place(name, model.cfg).theirs[0]: p.detach()
        for name, p in model.named_parameters()
        if p.requires_grad and not _is_adapter(name)
    }


def _kept_whole(name: str) -> str:
    """The module that PEFT keeps for a tensor: of itself it keeps a `classifier`, all of it where it has parts."""
    module = name.rpartition(".")[0]
    return "classifier" if module.startswith("classifier.") else module


def _modules(model: Transformer) -> set[str]:
    """The modules of transformers' model that hold a weight of ours."""
    family = family_of_model(model.cfg)
    names = [name.replace(".base.", ".") for name, _ in model.named_parameters() if not _is_adapter(name)]
    return {their.rpartition(".")[0] for name in names for their in family.place(name, model.cfg).theirs}


def _shortest(wanted: set[str], every: set[str]) -> list[str]:
    """The shortest ends of the wanted names that no other name ends with: PEFT chooses its modules by their ends.

    >>> _shortest({"h.0.attn.c_proj"}, {"h.0.attn.c_proj", "h.0.mlp.c_proj", "h.0.mlp.c_fc"})
    ['attn.c_proj']
    """
    for length in range(1, max(name.count(".") for name in wanted) + 2):
        ends = {".".join(name.split(".")[-length:]) for name in wanted}
        if not any(f".{name}".endswith(f".{end}") for name in every - wanted for end in ends):
            return sorted(ends)
    return sorted(wanted)


def _whole(value: float) -> float:
    return int(value) if value == int(value) else value


def _task(model: Transformer) -> str | None:
    """What PEFT calls the model's purpose; of a masked language model it has no word."""
    if (labels := model.cfg.labels) is not None:
        return LABELLED[labels.each]
    return TASKS[model.cfg.shape]
