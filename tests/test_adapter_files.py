"""Adapter directories: PEFT's files both ways, and opening them with the base that they belong to."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft as library
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import tiny
from modelwright.adapt import peft
from modelwright.adapt.lora import LoRA, LoRALinear, add_lora
from modelwright.adapt.merge import merge_adapter
from modelwright.adapt.open import digest, is_adapter, method, open_model, save_adapter
from modelwright.adapt.prompt import SoftPrompt, add_prompt, soft_ids
from modelwright.data.tokenizer import Tokenizer, train
from modelwright.hub.open import LanguageModel, load, save
from modelwright.model import checkpoint
from modelwright.model.config import SPAN
from modelwright.model.families import FAMILIES as FAMILY
from modelwright.model.heads import relabel
from modelwright.model.transformer import Config, Labels, Rope, Transformer, initialise
from modelwright.recipes.methods import Adapter, put_on

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's, of transformers
TOKENS = tiny.tokens(2, 9)
SHORT = tiny.tokens(2, 6, seed=1)
FAMILIES = ["gpt2", "llama-grouped-tied", "bert", "roberta", "distilbert", "t5", "t5-v1.1", "bloom", "gemma3_text"]


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bases(name: str, folder: Path) -> tuple[Any, Transformer]:
    """The other library's model, and ours of the same weights."""
    theirs = tiny.make(name)
    theirs.save_pretrained(folder / "base")
    return theirs, checkpoint.load(folder / "base")


def adapters(model: torch.nn.Module) -> dict[str, LoRALinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


@torch.no_grad()
def stir(model: torch.nn.Module, only: str = "") -> None:
    generator = draw(7)
    for name, module in adapters(model).items():
        if name.endswith(only):
            module.B.normal_(0.0, 0.3, generator=generator)


@torch.no_grad()
def stir_theirs(model: Any) -> None:
    generator = draw(9)
    for name, p in model.named_parameters():
        if ".lora_B." in name or "prompt_encoder" in name:
            p.normal_(0.0, 0.3, generator=generator)


def said_by(model: Transformer) -> torch.Tensor:
    if model.encoder is None:
        soft = torch.tensor(soft_ids(model), dtype=torch.long).expand(2, -1)
        return model(torch.cat([soft, TOKENS], 1))
    soft = torch.tensor(soft_ids(model), dtype=torch.long).expand(2, -1)
    return model(SHORT, memory=model.encode(torch.cat([soft, TOKENS], 1)))


def said_by_theirs(model: Any) -> torch.Tensor:
    mask = torch.ones_like(TOKENS)
    if getattr(model.config, "is_encoder_decoder", False):
        found = model(input_ids=TOKENS, attention_mask=mask, decoder_input_ids=SHORT).logits
    else:
        found = model(input_ids=TOKENS, attention_mask=mask).logits
    return found


def same(ours: Transformer, theirs: Any) -> None:
    with torch.no_grad():
        torch.testing.assert_close(said_by(ours), said_by_theirs(theirs), atol=1e-5, rtol=1e-5)


def back(folder: Path) -> Any:
    """What peft makes of the files in `folder / "adapter"`, on the base beside it."""
    kind = json.loads((folder / "base" / "config.json").read_text())["architectures"][0]
    base = getattr(transformers, kind).from_pretrained(folder / "base")
    return library.PeftModel.from_pretrained(base, str(folder / "adapter")).eval()


# -- LoRA -------------------------------------------------------------------------------------------------

CHOICES = [("q", "v"), ("q", "k", "v"), ("k", "o", "down"), ("q", "k", "v", "o", "up", "down")]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("targets", CHOICES, ids=["-".join(choice) for choice in CHOICES])
def test_peft_opens_ours_and_we_open_ours(name: str, targets: tuple[str, ...], tmp_path: Path) -> None:
    _, model = bases(name, tmp_path)
    cfg = LoRA(3, 6.0, targets=targets)
    with torch.no_grad():
        plain = said_by(model)
    add_lora(model, cfg, draw())
    stir(model)
    (tmp_path / "adapter").mkdir()
    peft.write(model, cfg, tmp_path / "adapter", str(tmp_path / "base"))
    same(model, back(tmp_path))
    again = peft.put_on(checkpoint.load(tmp_path / "base"), peft.read(tmp_path / "adapter"))
    with torch.no_grad():
        torch.testing.assert_close(said_by(again), said_by(model), atol=1e-6, rtol=1e-6)
        assert (said_by(model) - plain).abs().max() > 0.01
    assert list(adapters(again)) == list(adapters(model))
    for ours, found in zip(adapters(model).values(), adapters(again).values(), strict=True):
        assert torch.equal(found.A, ours.A)
        assert torch.equal(found.B, ours.B)
        assert found.scale == pytest.approx(ours.scale)
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }


THEIR_CHOICES = {
    "gpt2": [["c_attn"], ["c_attn", "c_proj", "c_fc"], ["attn.c_proj"]],
    "llama-grouped-tied": [["q_proj", "v_proj"], "all-linear"],
    "bloom": [["query_key_value"], "all-linear"],
    "bert": [["query", "value"], ["dense", "key"]],
    "t5": [["q", "v"], ["o", "wi", "wo"], ["EncDecAttention.k"]],
}


@pytest.mark.parametrize(("name", "targets"), [(n, t) for n, choices in THEIR_CHOICES.items() for t in choices])
@pytest.mark.parametrize("rslora", [False, True])
def test_we_open_pefts(name: str, targets: Any, rslora: bool, tmp_path: Path) -> None:
    theirs, model = bases(name, tmp_path)
    turned = name == "gpt2"
    cfg = library.LoraConfig(
        r=3, lora_alpha=5, target_modules=targets, use_rslora=rslora, fan_in_fan_out=turned, lora_dropout=0.1,
        exclude_modules=r"cls.*" if name == "bert" else None,
    )  # fmt: skip
    theirs = library.get_peft_model(theirs, cfg).eval()
    stir_theirs(theirs)
    theirs.save_pretrained(tmp_path / "adapter")
    peft.put_on(model, peft.read(tmp_path / "adapter"))
    same(model, theirs)
    first = next(iter(adapters(model).values()))
    assert first.scale == pytest.approx(5 / 3**0.5 if rslora else 5 / 3)
    assert first.dropout == 0.1


@pytest.mark.parametrize(("name", "targets"), [("gpt2-bare-names", ["c_attn"]), ("bert-model", ["query", "value"])])
def test_an_adapter_of_a_model_without_its_head(name: str, targets: list[str], tmp_path: Path) -> None:
    theirs, model = bases(name, tmp_path)
    cfg = library.LoraConfig(r=3, target_modules=targets, fan_in_fan_out=name.startswith("gpt2"))
    theirs = library.get_peft_model(theirs, cfg).eval()
    stir_theirs(theirs)
    theirs.save_pretrained(tmp_path / "adapter")
    adapter = peft.read(tmp_path / "adapter")
    peft.put_on(model, adapter)
    with torch.no_grad():
        found = theirs(TOKENS).last_hidden_state
        torch.testing.assert_close(model.hidden(TOKENS), found, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="has a LoRA already"):
        peft.put_on(model, adapter)


def test_gradients_of_a_matrix_for_three_are_pefts(tmp_path: Path) -> None:
    """GPT-2's c_attn: one A for q, k and v; and written again it is the same file."""
    theirs, model = bases("gpt2", tmp_path)
    theirs = library.get_peft_model(theirs, library.LoraConfig(r=3, target_modules=["c_attn"], fan_in_fan_out=True))
    stir_theirs(theirs.eval())
    theirs.save_pretrained(tmp_path / "adapter")
    peft.put_on(model, peft.read(tmp_path / "adapter"))
    q, k, v = (getattr(model.stack.blocks[1].attn, leaf) for leaf in "qkv")
    assert q.A is k.A is v.A
    weight = torch.randn(2, 9, tiny.VOCAB, generator=draw(6)) / 30
    (said_by(model) * weight).sum().backward()
    (said_by_theirs(theirs) * weight).sum().backward()
    layer = theirs.base_model.model.transformer.h[1].attn.c_attn
    torch.testing.assert_close(q.A.grad, layer.lora_A["default"].weight.grad, atol=1e-5, rtol=1e-4)
    B = torch.cat([q.B.grad, k.B.grad, v.B.grad])
    torch.testing.assert_close(B, layer.lora_B["default"].weight.grad, atol=1e-5, rtol=1e-4)
    (tmp_path / "again").mkdir()
    peft.write(model, LoRA(3, 8, targets=("q", "k", "v")), tmp_path / "again", "base")
    one, other = (load_file(tmp_path / name / peft.WEIGHTS) for name in ("adapter", "again"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_block_form_by_hand(tmp_path: Path) -> None:
    """q and v of GPT-2 with A's of their own: A's one over the other, B with a block each, and the scale unchanged."""
    _, model = bases("gpt2", tmp_path)
    add_lora(model, LoRA(2, 6.0), draw())
    stir(model)
    peft.write(model, LoRA(2, 6.0), tmp_path, "somewhere")
    config = json.loads((tmp_path / peft.CONFIG).read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (4, 12, ["c_attn"])
    assert config["fan_in_fan_out"] is True
    assert config["base_model_name_or_path"] == "somewhere"
    stored = load_file(tmp_path / peft.WEIGHTS)
    key = "base_model.model.transformer.h.1.attn.c_attn.lora_{}.weight"
    q, v = model.stack.blocks[1].attn.q, model.stack.blocks[1].attn.v
    assert torch.equal(stored[key.format("A")], torch.cat([q.A, v.A]))
    B = stored[key.format("B")]
    assert torch.equal(B[:24, :2], q.B)
    assert torch.equal(B[48:, 2:], v.B)
    assert B[:24, 2:].abs().max() == B[24:48].abs().max() == B[48:, :2].abs().max() == 0
    assert len(stored) == 4


def test_modules_are_named_by_the_shortest_end_that_tells_them_apart(tmp_path: Path) -> None:
    found = {}
    for name, targets in (("gpt2", ("o",)), ("bert", ("o",)), ("bert", ("up",)), ("t5", ("q", "up")), ("bert", ("q",))):
        _, model = bases(name, tmp_path / f"{name}-{targets}")
        cfg = LoRA(2, targets=targets)
        peft.write(add_lora(model, cfg, draw()), cfg, tmp_path, "base")
        found[name, targets] = json.loads((tmp_path / peft.CONFIG).read_text())["target_modules"]
    assert list(found.values()) == [["attn.c_proj"], ["attention.output.dense"], ["intermediate.dense"], ["q", "wi"],
                                    ["query"]]  # fmt: skip


NAME = st.tuples(*[st.sampled_from("ab")] * 4).map(".".join)


@given(st.sets(NAME, min_size=1), st.sets(NAME))
def test_the_ends_choose_the_wanted_modules_and_no_others(wanted: set[str], others: set[str]) -> None:
    """By peft's rule: a module is chosen where its name is a target, or ends with a dot and a target."""
    ends = peft._shortest(wanted, wanted | others)
    chosen = {name for name in wanted | others if any(name == end or name.endswith(f".{end}") for end in ends)}
    assert chosen == wanted


# -- soft prompts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama-grouped-tied", "t5", "gemma3_text", "bloom"])
def test_soft_prompts_both_ways(name: str, tmp_path: Path) -> None:
    theirs, model = bases(name, tmp_path)
    kind = "SEQ_2_SEQ_LM" if name == "t5" else "CAUSAL_LM"
    cfg = library.PromptTuningConfig(num_virtual_tokens=4, task_type=kind, num_transformer_submodules=1)
    theirs = library.get_peft_model(theirs, cfg).eval()
    stir_theirs(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    peft.put_on(model, peft.read(tmp_path / "theirs"))
    assert soft_ids(model) == (61, 62, 63, 64)
    same(model, theirs)
    (tmp_path / "adapter").mkdir()
    peft.write(model, SoftPrompt(4), tmp_path / "adapter", str(tmp_path / "base"))
    same(model, back(tmp_path))
    assert list(load_file(tmp_path / "adapter" / peft.WEIGHTS)) == [peft.PROMPT]


# -- heads over labels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", ["Bert", "Roberta", "DistilBert"])
@pytest.mark.parametrize("each", ["text", "token"])
@pytest.mark.parametrize("cfg", [LoRA(2, 4.0), SoftPrompt(3)], ids=["lora", "prompt"])
def test_a_head_over_labels_goes_with_the_adapter(each: Any, cfg: LoRA | SoftPrompt, stem: str, tmp_path: Path) -> None:
    """The base has none: peft gives it one of its own drawing, which the adapter's replaces, pooler and all."""
    _, plain = bases(stem.lower(), tmp_path)
    model = relabel(plain, Labels(("a", "b", "c"), each), draw()).eval()
    add = add_lora(model, cfg, draw()) if isinstance(cfg, LoRA) else add_prompt(model, cfg, draw())
    assert add is model
    stir(model)
    learns = {name for name, p in model.named_parameters() if p.requires_grad and name.startswith("head.")}
    assert learns == {name for name, _ in model.named_parameters() if name.startswith("head.")}
    (tmp_path / "adapter").mkdir()
    peft.write(model, cfg, tmp_path / "adapter", str(tmp_path / "base"))
    kind = "Sequence" if each == "text" else "Token"
    base = getattr(transformers, f"{stem}For{kind}Classification").from_pretrained(tmp_path / "base", num_labels=3)
    theirs = library.PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    with torch.no_grad():
        found, said = said_by_theirs(theirs), said_by(model)  # (2, 3) or (2, P + 9, 3), and (2, P + 9, 3)
        torch.testing.assert_close(said[:, 0] if each == "text" else said, found, atol=1e-5, rtol=1e-5)
    again = relabel(checkpoint.load(tmp_path / "base"), Labels(("a", "b", "c"), each), draw(5))
    peft.put_on(again, peft.read(tmp_path / "adapter"))
    with torch.no_grad():
        torch.testing.assert_close(said_by(again), said)
    theirs.save_pretrained(tmp_path / "theirs")
    again = relabel(checkpoint.load(tmp_path / "base"), Labels(("a", "b", "c"), each), draw(5))
    peft.put_on(again, peft.read(tmp_path / "theirs"))
    with torch.no_grad():
        torch.testing.assert_close(said_by(again), said)


@pytest.mark.parametrize("cfg", [LoRA(2), SoftPrompt(3)], ids=["lora", "prompt"])
def test_a_labelled_adapter_opens_with_its_labels(cfg: Any, tmp_path: Path) -> None:
    shape = FAMILY["bert"].read(tiny.BERT | {"vocab_size": 288})
    words = train([TEXT] * 3, "wordpiece", 280, objective="masked")
    save(LanguageModel(initialise(Transformer(shape), draw()).eval(), words), tmp_path / "base")
    lm = load(tmp_path / "base")
    lm = replace(lm, model=relabel(lm.model, Labels(("good", "bad"), "text"), draw()).eval())
    add_lora(lm.model, cfg, draw()) if isinstance(cfg, LoRA) else add_prompt(lm.model, cfg, draw())
    save_adapter(lm, cfg, tmp_path / "a", base=str(tmp_path / "base"), base_digest=digest(tmp_path / "base"))
    found = open_model(tmp_path / "a")
    assert found.model.cfg.labels == Labels(("good", "bad"), "text")
    assert torch.equal(says(found), says(lm))
    if isinstance(cfg, LoRA):
        assert merge_adapter(tmp_path / "a", tmp_path / "out")["relative"] < 1e-5
        assert open_model(tmp_path / "out").model.cfg.labels == Labels(("good", "bad"), "text")
    stored = load_file(tmp_path / "a" / peft.WEIGHTS)
    save_file({name: t for name, t in stored.items() if "pooler" not in name}, tmp_path / "a" / peft.WEIGHTS)
    with pytest.raises(ValueError, match=r"lacks head\.pooler\.weight, a weight of the head over its labels"):
        open_model(tmp_path / "a")


@pytest.mark.parametrize("each", ["text", "token"])
def test_an_encoders_labels_that_nothing_names(each: Any, tmp_path: Path) -> None:
    """As PEFT leaves an adapter of a classifier: merged by PEFT, as is said, it opens."""
    tiny.make("bert").save_pretrained(tmp_path / "base")
    words = train([TEXT], "wordpiece", 60, objective="masked")
    words.save(tmp_path / "base")
    kind, task = ("Sequence", "SEQ_CLS") if each == "text" else ("Token", "TOKEN_CLS")
    base = getattr(transformers, f"BertFor{kind}Classification").from_pretrained(
        tmp_path / "base", id2label={0: "good", 1: "bad"}, label2id={"good": 0, "bad": 1}
    )
    theirs = library.get_peft_model(base, library.LoraConfig(task_type=task, r=2))
    theirs.save_pretrained(tmp_path / "a")
    with pytest.raises(ValueError, match=rf"a head over labels \(task_type {task}\), and its files do not name the"):
        open_model(tmp_path / "a")
    theirs.merge_and_unload().save_pretrained(tmp_path / "merged")
    words.save(tmp_path / "merged")
    assert open_model(tmp_path / "merged").model.cfg.labels == Labels(("good", "bad"), each)


def test_a_head_over_spans_needs_no_names(tmp_path: Path) -> None:
    tiny.make("bert").save_pretrained(tmp_path / "base")
    train([TEXT], "wordpiece", 60, objective="masked").save(tmp_path / "base")
    base = transformers.BertForQuestionAnswering.from_pretrained(tmp_path / "base")
    theirs = library.get_peft_model(base, library.LoraConfig(task_type="QUESTION_ANS", r=2, init_lora_weights=False))
    theirs.save_pretrained(tmp_path / "a")
    ours = open_model(tmp_path / "a")
    assert ours.model.cfg.labels == SPAN
    with torch.no_grad():
        said = theirs.eval()(TOKENS)
        want = torch.stack([said.start_logits, said.end_logits], -1)
        torch.testing.assert_close(ours.model.eval()(TOKENS), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("cfg", [LoRA(2, targets=("q", "v")), SoftPrompt(3)], ids=["lora", "soft"])
def test_a_head_over_spans_is_kept_with_an_adapter(cfg: LoRA | SoftPrompt, tmp_path: Path) -> None:
    tiny.make("bert").save_pretrained(tmp_path / "base")
    train([TEXT], "wordpiece", 60, objective="masked").save(tmp_path / "base")
    lm = open_model(tmp_path / "base")
    lm = replace(lm, model=put_on(lm.model, Adapter("lora", cfg), SPAN, draw()).eval())
    kept = digest(tmp_path / "base")
    save_adapter(lm, cfg, tmp_path / "a", base=str(tmp_path / "base"), base_digest=kept)
    assert json.loads((tmp_path / "a" / peft.CONFIG).read_text())["task_type"] == "QUESTION_ANS"
    found = open_model(tmp_path / "a")
    assert found.model.cfg.labels == SPAN
    with torch.no_grad():
        assert torch.equal(found.model.eval()(TOKENS), lm.model(TOKENS))


def test_a_decoders_labels(base: Path, tmp_path: Path) -> None:
    adapted(base, LoRA(2), tmp_path / "a")
    (tmp_path / "a/modelwright.json").unlink()
    config = json.loads((tmp_path / "a" / peft.CONFIG).read_text())
    (tmp_path / "a" / peft.CONFIG).write_text(json.dumps(config | {"task_type": "SEQ_CLS"}))
    with pytest.raises(ValueError, match=r"which a decoder has not here: tune it to answer with the label as text"):
        open_model(tmp_path / "a")


# -- what is refused --------------------------------------------------------------------------------------


def pefts(folder: Path, **changes: Any) -> Path:
    """Files as peft writes them, with a changed config."""
    theirs = library.get_peft_model(tiny.make("llama"), library.LoraConfig(r=2, target_modules=["q_proj"]))
    theirs.save_pretrained(folder)
    config = json.loads((folder / peft.CONFIG).read_text())
    (folder / peft.CONFIG).write_text(json.dumps(config | changes))
    return folder


def test_settings_that_we_have_not_are_named(tmp_path: Path) -> None:
    for key, value in {
        "bias": "all",
        "lora_bias": True,
        "use_dora": True,
        "rank_pattern": {"q_proj": 4},
        "alpha_pattern": {"q_proj": 4},
        "init_lora_weights": "pissa",
        "layer_replication": [[0, 2]],
        "trainable_token_indices": [1],
        "num_transformer_submodules": 2,
        "something_new": True,
    }.items():
        folder = pefts(tmp_path / key, **{key: value})
        with pytest.raises(ValueError, match=rf"adapter_config\.json: {key} = .*; supported: "):
            peft.read(folder)
    for kind in ("IA3", None):
        with pytest.raises(ValueError, match=rf"peft_type = {kind!r}; supported: 'LORA' or 'PROMPT_TUNING'"):
            peft.read(pefts(tmp_path / f"kind-{kind}", peft_type=kind))
    with pytest.raises(ValueError, match="must have a whole number r above 0"):
        peft.put_on(bases("llama", tmp_path)[1], peft.read(pefts(tmp_path / "r", r=0)))


def test_files_that_are_missing_damaged_or_pickled(tmp_path: Path) -> None:
    folder = pefts(tmp_path / "a")
    data = (folder / peft.WEIGHTS).read_bytes()
    (folder / peft.WEIGHTS).write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="is truncated or damaged"):
        peft.read(folder)
    (folder / peft.WEIGHTS).rename(folder / peft.PICKLED)
    with pytest.raises(ValueError, match="holds only a pickled adapter"):
        peft.read(folder)
    (folder / peft.PICKLED).unlink()
    with pytest.raises(FileNotFoundError, match=r"adapter_model\.safetensors is missing"):
        peft.read(folder)


def test_an_adapter_for_another_shape(tmp_path: Path) -> None:
    adapter = peft.read(pefts(tmp_path / "adapter"))
    said = f"the adapter in {tmp_path / 'adapter'} is for a model of another shape than its base: "
    wide = initialise(Transformer(Config(61, 32, 2, 6, 6, 4, 40, 96, rope=Rope())), draw())
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        peft.put_on(wide, adapter)
    assert str(caught.value) == said + "stack.blocks.0.attn.q takes 32 to 24, and the adapter is (2, 24) and (24, 2)"
    assert not adapters(wide)
    shallow = initialise(Transformer(Config(61, 24, 1, 6, 6, 4, 40, 96, rope=Rope())), draw())
    with pytest.raises(ValueError, match=r"it has no layer for model\.layers\.1\.self_attn\.q_proj\.lora_A\.weight$"):
        peft.put_on(shallow, adapter)
    with pytest.raises(ValueError, match="it has no layer for"):
        peft.put_on(bases("gpt2", tmp_path)[1], adapter)
    soft = replace(adapter, config={"peft_type": "PROMPT_TUNING"}, tensors={peft.PROMPT: torch.zeros(3, 24)})
    with pytest.raises(ValueError, match=r"its width is 32, and the soft prompt is \(3, 24\)$"):
        peft.put_on(wide, soft)
    whole = replace(adapter, tensors={**adapter.tensors, "score.weight": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"it has no place for score\.weight$"):
        peft.put_on(bases("llama", tmp_path / "x")[1], whole)


def test_a_model_without_an_adapter_is_not_saved_as_one(tmp_path: Path) -> None:
    model = bases("llama", tmp_path)[1]
    for cfg, fault in ((LoRA(), "has no LoRA to be saved"), (SoftPrompt(), "has no soft prompt to be saved")):
        with pytest.raises(ValueError, match=fault):
            peft.write(model, cfg, tmp_path, "base")


# -- opening ----------------------------------------------------------------------------------------------

TEXT = "The agent asks for the order number, and the customer gives the order number at once."


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train([TEXT] * 3, "bpe", 280)


@pytest.fixture
def base(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    cfg = Config(vocab=288, width=16, layers=1, heads=2, kv_heads=1, head=8, ffn=24, context=32, rope=Rope())
    model = initialise(Transformer(cfg), draw()).eval()
    save(LanguageModel(model, tokenizer, {"eos_token_id": 0}), tmp_path / "base")
    return tmp_path / "base"


def adapted(base: Path, cfg: LoRA | SoftPrompt, directory: Path, **lineage: Any) -> LanguageModel:
    lm = load(base)
    if isinstance(cfg, LoRA):
        add_lora(lm.model, cfg, draw())
        stir(lm.model)
    else:
        add_prompt(lm.model, cfg, draw())
    save_adapter(lm, cfg, directory, base=str(base), base_digest=digest(base), lineage=lineage)
    return lm


@torch.no_grad()
def says(lm: LanguageModel) -> torch.Tensor:
    return lm.model(torch.tensor([[*soft_ids(lm.model), *lm.tokenizer.encode(TEXT)]]))


@pytest.mark.parametrize("cfg", [LoRA(2), SoftPrompt(3)], ids=["lora", "prompt"])
def test_an_adapter_directory_opens_as_the_model_that_was_saved(cfg: Any, base: Path, tmp_path: Path) -> None:
    lm = adapted(base, cfg, tmp_path / "adapter", contract="abc", seed=5)
    found = open_model(tmp_path / "adapter")
    assert torch.equal(says(found), says(lm.__class__(lm.model.eval(), lm.tokenizer)))
    assert not found.model.training
    assert found.path == tmp_path / "adapter"
    assert found.generation == {"eos_token_id": 0}
    assert method(found) == ("lora" if isinstance(cfg, LoRA) else "prompt")
    record = json.loads((tmp_path / "adapter" / "modelwright.json").read_text())
    assert record["base"] == {"name": str(base), "digest": digest(base), "beside": "../base"}
    assert record["method"]["name"] == method(found)
    assert (record["contract"], record["seed"]) == ("abc", 5)
    assert set(record["versions"]) == {"modelwright", "torch", "python"}
    plain = open_model(base)
    assert method(plain) == ""
    assert torch.equal(says(plain), says(load(base)))
    assert open_model(tmp_path / "adapter", dtype=torch.bfloat16).model.embed.tokens.weight.dtype == torch.bfloat16


def test_the_base_is_found_after_a_move_and_where_it_is_said(base: Path, tmp_path: Path) -> None:
    expected = says(adapted(base, LoRA(2), tmp_path / "adapter"))
    (tmp_path / "moved").mkdir()
    for part in ("base", "adapter"):
        (tmp_path / part).rename(tmp_path / "moved" / part)
    adapter = tmp_path / "moved" / "adapter"
    assert torch.equal(says(open_model(adapter)), expected)
    shutil.copytree(tmp_path / "moved" / "base", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "moved" / "base")
    with pytest.raises(
        FileNotFoundError, match=rf"the base of the adapter in {adapter} is gone: there is no {base}; set"
    ):
        open_model(adapter)
    assert torch.equal(says(open_model(adapter, base=tmp_path / "elsewhere")), expected)
    config = json.loads((adapter / peft.CONFIG).read_text())
    (adapter / peft.CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": "../../elsewhere"}))
    assert torch.equal(says(open_model(adapter)), expected)
    (adapter / peft.CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(ValueError, match="does not name the adapter's base: set base_model_name_or_path"):
        open_model(adapter)
    (adapter / peft.CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": "./no/such/place"}))
    with pytest.raises(FileNotFoundError, match="there is no directory no/such/place"):
        open_model(adapter)


def test_another_base_is_refused_unless_there_is_no_record(base: Path, tmp_path: Path) -> None:
    adapted(base, LoRA(2), tmp_path / "adapter")
    old = digest(base)
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"] += 1e-3
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    assert digest(base) != old
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        open_model(tmp_path / "adapter")
    assert str(caught.value) == (
        f"the adapter in {tmp_path / 'adapter'} was trained on another base than {base}: its record says sha256 "
        f"{old[:12]}…, and that model has {digest(base)[:12]}…; open it with the base it was trained on"
    )
    (tmp_path / "adapter" / "modelwright.json").unlink()
    assert method(open_model(tmp_path / "adapter")) == "lora"
    (tmp_path / "adapter" / "modelwright.json").write_text('{"base": "x"}')
    with pytest.raises(ValueError, match="base must be an object"):
        open_model(tmp_path / "adapter")


def test_a_digest_is_of_weights_tokenizer_and_config_alone(base: Path, tmp_path: Path) -> None:
    old = digest(base)
    (base / "README.md").write_text("x")
    (base / "generation_config.json").write_text("{}")
    assert digest(base) == old
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        data = (base / name).read_bytes()
        (base / name).write_bytes(data + b" ")
        assert digest(base) != old
        (base / name).write_bytes(data)
    assert digest(base) == old
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds neither a model nor an adapter"):
        digest(tmp_path / "empty")
    adapted(base, LoRA(2), tmp_path / "adapter")
    found = digest(tmp_path / "adapter")
    assert found not in (old, "")
    record = json.loads((tmp_path / "adapter" / "modelwright.json").read_text())
    record["base"]["digest"] = "another"
    (tmp_path / "adapter" / "modelwright.json").write_text(json.dumps(record))
    assert digest(tmp_path / "adapter") != found


def test_an_adapter_replaces_an_adapter_and_nothing_else(base: Path, tmp_path: Path) -> None:
    adapted(base, LoRA(2), tmp_path / "adapter")
    adapted(base, SoftPrompt(2), tmp_path / "adapter")
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "modelwright.json"
    ]  # fmt: skip
    assert soft_ids(open_model(tmp_path / "adapter").model) == (288, 289)
    with pytest.raises(FileExistsError, match="exists and is no adapter directory"):
        adapted(base, LoRA(2), base)
    assert not is_adapter(base)
    lm = load(base)
    with pytest.raises(ValueError, match="has no LoRA to be saved"):
        save_adapter(lm, LoRA(), tmp_path / "new", base=str(base), base_digest="")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]
