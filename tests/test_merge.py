"""An adapter merged into its base: what is written says the same, or nothing is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modelwright.adapt import merge as merging
from modelwright.adapt.lora import LoRA, LoRALinear, add_lora
from modelwright.adapt.merge import compare, merge_adapter
from modelwright.adapt.open import digest, open_model, save_adapter
from modelwright.adapt.prompt import SoftPrompt, add_prompt
from modelwright.cli import main
from modelwright.data.tokenizer import train
from modelwright.hub.open import LanguageModel, load, save
from modelwright.infer.complete import complete
from modelwright.model.transformer import Config, Relative, Rope, Transformer, initialise

TEXT = "The agent asks for the order number, and the customer gives the order number at once."
LLAMA = Config(vocab=400, width=16, layers=2, heads=2, kv_heads=1, head=8, ffn=24, context=64, rope=Rope())
GPT2 = replace(
    LLAMA, kv_heads=2, norm="layer", act="gelu_tanh", gated=False, attn_bias=True, ffn_bias=True, learned=True,
    rope=None, context=20,
)  # fmt: skip
BERT = replace(GPT2, causal=False, pre_norm=False, final_norm=False, embed_norm=True, head_transform=True,
               head_bias=True, types=2, act="gelu")  # fmt: skip
TOWER = replace(LLAMA, kv_heads=2, context=512, rope=None, relative=Relative(8, 20), attn_scale=1.0)
T5 = replace(TOWER, scale_logits=0.25, encoder=replace(TOWER, scale_logits=0.25, causal=False))
SHAPES = {"llama": (LLAMA, "causal"), "gpt2": (GPT2, "causal"), "bert": (BERT, "masked"), "t5": (T5, "span")}


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def adapter(folder: Path, shape: str = "llama", cfg: LoRA | SoftPrompt | None = None) -> Path:
    """A base and an adapter that has moved, in `folder` -> the adapter's directory."""
    config, objective = SHAPES[shape]
    words = train([TEXT] * 3, "wordpiece" if shape == "bert" else "bpe", 390, objective=objective)  # type: ignore[arg-type]
    lm = LanguageModel(initialise(Transformer(config), draw()).eval(), words, {"eos_token_id": 1, "temperature": 0.7})
    save(lm, folder / "base")
    cfg = cfg or LoRA(2, targets=("q", "k", "down"))
    if isinstance(cfg, LoRA):
        add_lora(lm.model, cfg, draw())
        for module in lm.model.modules():
            if isinstance(module, LoRALinear):
                module.B.data.normal_(0.0, 0.1, generator=draw(3))
    else:
        add_prompt(lm.model, cfg, draw())
    lineage = {"contract": "abc"}
    save_adapter(lm, cfg, folder / "a", base=str(folder / "base"), base_digest=digest(folder / "base"), lineage=lineage)
    return folder / "a"


@pytest.mark.parametrize("shape", SHAPES)
def test_the_merged_model_says_what_the_adapted_one_says(shape: str, tmp_path: Path) -> None:
    directory = adapter(tmp_path, shape)
    proofs = merge_adapter(directory, tmp_path / "out")
    assert proofs["relative"] < 5e-5  # rounding alone is 1e-6, and 1e-5 where scores are not scaled, as T5's are not
    assert proofs["diverged"] == 0
    assert (proofs["greedy"], proofs["prompts"]) == ((0, 0) if shape == "bert" else (5, 5))
    merged, unmerged, base = (open_model(tmp_path / name) for name in ("out", "a", "base"))
    assert not any(isinstance(module, LoRALinear) for module in merged.model.modules())
    found = compare(unmerged.model, merged.model)
    assert found == proofs
    assert compare(unmerged.model, base.model)["relative"] > 0.01
    assert merged.generation == base.generation
    record = json.loads((tmp_path / "out" / "modelwright.json").read_text())
    assert [parent["digest"] for parent in record["parents"]] == [digest(tmp_path / "base"), digest(directory)]
    assert record["adapter"]["contract"] == "abc"
    assert record["merged"] == proofs
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "base", "out"]


def test_a_merge_that_changes_what_is_said_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = adapter(tmp_path)
    right = LoRALinear.merged

    def wrong(self: LoRALinear) -> Any:
        layer = right(self)
        layer.weight.data[0, 0] += 0.01
        return layer

    monkeypatch.setattr(LoRALinear, "merged", wrong)
    with pytest.raises(ValueError, match=r"^the merged model does not say what .*/a says with its base: logits differ"):
        merge_adapter(directory, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "base"]


def test_what_is_written_is_what_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is in the file alone, not in memory."""
    directory = adapter(tmp_path)
    right = merging.hub.save

    def wrong(lm: LanguageModel, path: Path) -> None:
        right(replace(lm, model=load(tmp_path / "base").model), path)

    monkeypatch.setattr(merging.hub, "save", wrong)
    with pytest.raises(ValueError, match="nothing was written"):
        merge_adapter(directory, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tie_is_no_divergence_and_a_clear_choice_is(tmp_path: Path) -> None:
    model = open_model(adapter(tmp_path)).model
    with torch.no_grad():
        (high, low), (best, second) = (found.tolist() for found in model(torch.tensor([[5]]))[0, -1].topk(2))
        bound, said = (high - low) / (2 * merging.TOLERANCE), ([best, 1], [second, 2])
        assert merging._tie(model, [5], None, *said, largest=bound * 1.01)
        assert not merging._tie(model, [5], None, *said, largest=bound * 0.99)


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    model = open_model(adapter(tmp_path)).model
    broken = open_model(tmp_path / "a").model
    broken.head.proj.weight.data.fill_(float("nan"))
    assert compare(model, broken)["relative"] == 1.0


def test_only_lora_is_merged_and_nothing_is_overwritten(tmp_path: Path) -> None:
    directory = adapter(tmp_path / "soft", cfg=SoftPrompt(3))
    with pytest.raises(ValueError, match=r"holds a soft prompt, which no weight of a model can take up: only LoRA"):
        merge_adapter(directory, tmp_path / "out")
    with pytest.raises(ValueError, match=r"base is no adapter directory: it has no adapter_config\.json$"):
        merge_adapter(tmp_path / "soft" / "base", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    directory = adapter(tmp_path)
    with pytest.raises(FileExistsError, match="already holds a model"):
        merge_adapter(directory, tmp_path / "base")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = adapter(tmp_path)
    assert main(["merge", str(directory), "--output", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = compare(open_model(directory).model, load(tmp_path / "out").model)
    assert told == {"output": str(tmp_path / "out"), **found}
    assert main(["merge", str(directory), "--output", str(tmp_path / "two")]) == 0
    assert "5 of 5 greedy continuations are the same, token for token\n" in capsys.readouterr().out
    assert main(["merge", str(directory), "--output", str(tmp_path / "two")]) == 2
    assert "already holds a model" in capsys.readouterr().err


@pytest.mark.parametrize("cfg", [LoRA(2), SoftPrompt(3)], ids=["lora", "prompt"])
def test_generate_reads_an_adapter_directory(cfg: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = adapter(tmp_path, cfg=cfg)
    flags = ["The agent", "--max-new", "12", "--json"]
    assert main(["generate", str(directory), *flags, "--greedy"]) == 0
    expected = complete(open_model(directory), ["The agent"], max_new=12, temperature=0)
    assert json.loads(capsys.readouterr().out)["tokens"] == expected[0].tokens
    counts = []
    for model in (directory, tmp_path / "base"):
        assert main(["generate", str(model), *flags, "--dry-run"]) == 0
        counts.append(json.loads(capsys.readouterr().out)["prompt_tokens"][0])
    assert counts[0] - counts[1] == (0 if isinstance(cfg, LoRA) else 3)
