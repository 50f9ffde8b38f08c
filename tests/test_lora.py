"""LoRA: by hand, against the plain formula and peft, and the identities it must keep."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn

import tiny
from modelwright.adapt.lora import TARGETS, LoRA, LoRALinear, adapters_off, add_lora, merge, merged_copy
from modelwright.adapt.swap import learned, restore_learned
from modelwright.data.pack import Batch
from modelwright.infer.packed import PackedAttention, can_pack, prepare
from modelwright.model.checkpoint import load, save
from modelwright.model.kernels import _RMSNorm
from modelwright.model.logps import _TokenLogps, token_logps
from modelwright.model.transformer import Config, Memory, Rope, Transformer, initialise
from modelwright.train.optim import make
from modelwright.train.state import model_tensors, optimizer_tensors, restore_model, restore_optimizer

LLAMA = Config(vocab=61, width=24, layers=2, heads=6, kv_heads=2, head=4, ffn=40, context=96, rope=Rope())
TOKENS = tiny.tokens(2, 9)
THEIRS = {  # peft's names of q and v
    "llama": ["q_proj", "v_proj"],
    "bert": ["query", "value"],
    "t5": ["q", "v"],
}


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(cfg: Config = LLAMA) -> Transformer:
    return initialise(Transformer(cfg), draw())


def stir(model: nn.Module, seed: int = 7) -> None:
    """As if something had been learned: B is no longer 0."""
    generator = draw(seed)
    for module in model.modules():
        if isinstance(module, LoRALinear):
            with torch.no_grad():
                module.B.normal_(0.0, 0.3, generator=generator)


def adapters(model: nn.Module) -> dict[str, LoRALinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


# -- one layer --------------------------------------------------------------------------------------------


def test_by_hand() -> None:
    """x = (1, 2); W x = 1 + 2 = 3 and b = 0.5; A x = 3 - 2 = 1; B A x = 4; scaled by 0.25: 1. Together 4.5."""
    base = nn.Linear(2, 1)
    base.weight.data, base.bias.data = torch.ones(1, 2), torch.tensor([0.5])
    layer = LoRALinear(base, torch.tensor([[3.0, -1.0]]), torch.tensor([[4.0]]), 0.25)
    x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    y = layer(x)
    assert y.tolist() == [[4.5]]
    y.backward()
    assert x.grad.tolist() == [[1 + 0.25 * 4 * 3, 1 - 0.25 * 4 * 1]]
    assert layer.A.grad.tolist() == [[0.25 * 4 * 1, 0.25 * 4 * 2]]
    assert layer.B.grad.tolist() == [[0.25 * 1]]
    assert base.weight.grad is None
    merged = layer.merged()
    assert type(merged) is nn.Linear
    assert merged.weight.tolist() == [[4.0, 0.0]]
    assert merged(torch.tensor([[1.0, 2.0]])).tolist() == [[4.5]]
    assert base.weight.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("shape", [(5, 7), (2, 5, 7), (1, 1, 7), (2, 3, 5, 7)])
@pytest.mark.parametrize("biased", [True, False])
def test_the_written_out_gradient_is_the_plain_formulas(shape: tuple[int, ...], biased: bool) -> None:
    layer = LoRALinear(
        nn.Linear(7, 6, bias=biased), torch.randn(3, 7, generator=draw(1)), torch.randn(6, 3, generator=draw(2)), 0.7
    ).double()
    grads = []
    for f in (layer, layer.plain):
        x = torch.randn(shape, generator=draw(3), dtype=torch.float64, requires_grad=True)
        y = f(x)
        (y * torch.randn(y.shape, generator=draw(4), dtype=torch.float64)).sum().backward()
        grads.append((y.detach(), x.grad, layer.A.grad, layer.B.grad))
        layer.A.grad = layer.B.grad = None
    for ours, plain in zip(*grads, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-12, rtol=1e-12)


def test_under_autocast_the_product_is_narrow_and_the_gradients_are_wide() -> None:
    layer = LoRALinear(nn.Linear(16, 8), torch.randn(4, 16, generator=draw(1)), torch.randn(8, 4, generator=draw(2)), 2)
    x = torch.randn(3, 5, 16, generator=draw(3), requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer.plain(x), atol=0.3, rtol=2**-6)
    y.float().square().sum().backward()
    assert {t.grad.dtype for t in (x, layer.A, layer.B)} == {torch.float32}


def test_what_a_frozen_weight_does_not_need_is_not_kept() -> None:
    """Of a layer whose input needs no gradient W is not kept; of no layer a gradient of W is made."""
    layer = LoRALinear(nn.Linear(7, 6), torch.randn(3, 7), torch.randn(6, 3), 1.0)
    first, later = torch.randn(5, 7), torch.randn(5, 7, requires_grad=True)
    assert layer(first).grad_fn.saved_tensors[2] is None
    assert layer(later).grad_fn.saved_tensors[2] is not None
    layer(later).sum().backward()
    assert layer.base.weight.grad is None


def test_dropout_is_on_the_thin_way_alone() -> None:
    base = nn.Linear(64, 32, bias=False)
    layer = LoRALinear(base, torch.randn(4, 64, generator=draw(1)), torch.randn(32, 4, generator=draw(2)), 1.0, 0.5)
    x = torch.randn(3, 64, generator=draw(3))
    torch.manual_seed(0)
    dropped = layer(x)
    torch.manual_seed(0)
    kept = torch.nn.functional.dropout(x, 0.5)
    torch.testing.assert_close(dropped, base(x) + kept @ layer.A.T @ layer.B.T)
    assert not torch.equal(kept, x)
    for f in (layer.eval(), layer.plain):
        torch.testing.assert_close(f(x), base(x) + x @ layer.A.T @ layer.B.T, atol=1e-5, rtol=1e-5)


def test_no_gradient_is_made_for_a_frozen_head_or_norm() -> None:
    """Asked on the way back itself: autograd would throw away without a word what it did not want."""
    x, weight = torch.randn(5, 8, requires_grad=True), torch.randn(11, 8)
    for learns in (False, True):
        norm, head = torch.ones(8, requires_grad=learns), weight.clone().requires_grad_(learns)
        y = token_logps(_RMSNorm.apply(x, norm, 1e-5), head, None, torch.tensor([1, 2, 3, 4, 5]))
        with torch.no_grad():
            dx, dhead, *_ = _TokenLogps.backward(y.grad_fn, torch.ones(5))
        assert (dhead is not None) is learns
        normed = _RMSNorm.apply(x, norm, 1e-5)
        assert (_RMSNorm.backward(normed.grad_fn, torch.ones(5, 8))[1] is not None) is learns
        assert dx.shape == (5, 8)


# -- the whole model --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama-grouped-tied", "bert", "t5"])
def test_a_fresh_adapter_changes_nothing_to_the_bit(name: str, tmp_path: Any) -> None:
    tiny.make(name).save_pretrained(tmp_path / "m")
    model = load(tmp_path / "m")
    adapted = add_lora(copy.deepcopy(model), LoRA(4, targets=("q", "k", "v", "o", "up", "down")), draw())
    memory = None if model.encoder is None else model.encode(TOKENS)
    for context in (torch.autocast("cpu", torch.bfloat16, enabled=False), torch.autocast("cpu", torch.bfloat16)):
        with context, torch.no_grad():
            assert torch.equal(adapted(TOKENS, memory=memory), model(TOKENS, memory=memory))
    ours, twin = add_lora(build(), LoRA(), draw(1)), add_lora(build(), LoRA(), draw(1))
    assert all(torch.equal(a.A, b.A) for a, b in zip(adapters(ours).values(), adapters(twin).values(), strict=True))


def test_a_is_drawn_as_peft_draws_it() -> None:
    wide = add_lora(build(Config(**vars(LLAMA) | {"width": 400})), LoRA(64), draw())
    A = wide.stack.blocks[0].attn.q.A
    assert A.abs().max() <= 400**-0.5
    assert A.abs().max() > 0.99 * 400**-0.5
    assert A.std().item() == pytest.approx((400 * 3) ** -0.5, rel=0.01)
    assert wide.stack.blocks[0].attn.q.scale == 0.25


def test_only_the_adapters_learn() -> None:
    model = add_lora(build(), LoRA(2, targets=("q", "down")), draw())
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    layers = [f"stack.blocks.{i}.{layer}" for i in (0, 1) for layer in ("attn.q", "ffn.down")]
    assert trained == {f"{layer}.{leaf}" for layer in layers for leaf in "AB"}
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = make(model, "adamw", 0.1)
    for _ in range(2):
        model(TOKENS[:, :-1], TOKENS[:, 1:]).sum().neg().backward()
        assert {name for name, p in model.named_parameters() if p.grad is not None} == trained
        optimizer.step()
        optimizer.zero_grad()
    assert {name for name, p in model.named_parameters() if not torch.equal(p, before[name])} == trained


def test_every_tower_and_the_reading_of_the_other_are_adapted(tmp_path: Any) -> None:
    tiny.make("t5").save_pretrained(tmp_path / "m")
    model = add_lora(load(tmp_path / "m"), LoRA(), draw())
    encoder = [f"encoder.blocks.{i}.attn.{leaf}" for i in (0, 1) for leaf in "qv"]
    decoder = [f"stack.blocks.{i}.{part}.{leaf}" for i in (0, 1) for part in ("attn", "cross") for leaf in "qv"]
    assert list(adapters(model)) == encoder + decoder


def test_silent_adapters_are_the_base() -> None:
    base = build()
    model = add_lora(copy.deepcopy(base), LoRA(), draw())
    stir(model)
    with torch.no_grad():
        loud = model(TOKENS)
        with adapters_off(model) as silent:
            assert torch.equal(silent(TOKENS), base(TOKENS))
        assert torch.equal(model(TOKENS), loud)
        with pytest.raises(RuntimeError), adapters_off(model):
            raise RuntimeError
        assert torch.equal(model(TOKENS), loud)
    assert (loud - base(TOKENS)).abs().max() > 0.01


def test_merged_is_unmerged() -> None:
    model = add_lora(build(), LoRA(3, targets=("q", "k", "v", "o", "gate", "up", "down")), draw()).eval()
    stir(model)
    with torch.no_grad():
        expected = model(TOKENS)
        plain = merge(copy.deepcopy(model))
        torch.testing.assert_close(plain(TOKENS), expected, atol=2e-6, rtol=1e-5)
    assert not adapters(plain)
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in build().named_parameters()]
    assert all(p.requires_grad for p in plain.parameters())
    assert plain.head.proj.weight is plain.embed.tokens.weight


def test_a_merged_copy_shares_what_is_unchanged_and_leaves_the_model_alone() -> None:
    model = add_lora(build(), LoRA(), draw()).train()
    stir(model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    plain = merged_copy(model)
    assert model.training
    assert not plain.training
    assert len(adapters(model)) == 4
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert plain.stack.blocks[0].attn.k.weight is model.stack.blocks[0].attn.k.weight
    assert plain.embed.tokens.weight is model.embed.tokens.weight
    with torch.no_grad():
        torch.testing.assert_close(plain(TOKENS), model.eval()(TOKENS), atol=2e-6, rtol=1e-5)
    if can_pack(plain):
        assert isinstance(prepare(plain).stack.blocks[0].attn, PackedAttention)
        assert not isinstance(prepare(model).stack.blocks[0].attn, PackedAttention)


def test_a_narrow_weight_is_merged_in_float32() -> None:
    """1 + 2^-8 + 2^-9 is 1 + 2^-7 in bfloat16's 8 bits, which adding the two products one by one would not reach."""
    base = nn.Linear(1, 1, bias=False).bfloat16()
    base.weight.data.fill_(1.0)
    layer = LoRALinear(base, torch.tensor([[2.0**-8], [2.0**-9]]), torch.ones(1, 2), 1.0)
    assert layer.merged().weight.item() == 1 + 2.0**-7
    assert layer.merged().weight.dtype == torch.bfloat16
    assert layer.A.dtype == torch.float32


@pytest.mark.parametrize("whole", [False, True], ids=["what-is-learned", "all"])
def test_a_run_goes_on_to_the_bit(whole: bool) -> None:
    """Three steps in one go, or two, a checkpoint, and the third: of all tensors, or of those that learn."""

    def steps(model: Transformer, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            model(TOKENS[:, :-1], TOKENS[:, 1:]).sum().neg().backward()
            optimizer.step()
            optimizer.zero_grad()

    one, other = (add_lora(build(), LoRA(), draw(seed)) for seed in (1, 2))
    optimizer, again = make(one, "adamw", 0.1), make(other, "adamw", 0.1)
    steps(one, optimizer, 2)
    saved = model_tensors(one) if whole else learned(one)
    saved, moments = ({k: t.clone() for k, t in group.items()} for group in (saved, optimizer_tensors(one, optimizer)))
    (restore_model if whole else restore_learned)(other, saved)
    restore_optimizer(other, again, moments)
    steps(one, optimizer, 1)
    steps(other, again, 1)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))
    assert not torch.equal(one.stack.blocks[0].attn.q.B, saved["stack.blocks.0.attn.q.B"])


# -- peft -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's, of transformers
@pytest.mark.parametrize(("name", "towers"), [("llama", 4), ("bert", 4), ("t5", 12)])
def test_logits_and_gradients_are_pefts(name: str, towers: int, tmp_path: Any) -> None:
    theirs = tiny.make(name)
    theirs.save_pretrained(tmp_path / "m")
    ours = add_lora(load(tmp_path / "m"), LoRA(3, 6.0), draw())
    theirs = peft.get_peft_model(theirs, peft.LoraConfig(r=3, lora_alpha=6, target_modules=THEIRS[name])).eval()
    parts = [module for module in theirs.modules() if isinstance(module, peft.tuners.lora.Linear)]
    mine = list(adapters(ours).values())
    assert len(parts) == len(mine) == towers
    for their, my in zip(parts, mine, strict=True):
        with torch.no_grad():
            my.B.normal_(0.0, 0.3, generator=draw(5))
            their.lora_A["default"].weight.copy_(my.A)
            their.lora_B["default"].weight.copy_(my.B)
    if name == "t5":
        found = theirs(input_ids=TOKENS, decoder_input_ids=TOKENS[:, :6]).logits
        said = ours(TOKENS[:, :6], memory=ours.encode(TOKENS))
    else:
        found, said = theirs(input_ids=TOKENS).logits, ours(TOKENS)
    torch.testing.assert_close(said, found, atol=1e-5, rtol=1e-5)
    weight = torch.randn(found.shape, generator=draw(6)) / found.numel() ** 0.5
    (found * weight).sum().backward()
    (said * weight).sum().backward()
    for their, my in zip(parts, mine, strict=True):
        assert my.A.grad.abs().max() > 1e-4
        torch.testing.assert_close(my.A.grad, their.lora_A["default"].weight.grad, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(my.B.grad, their.lora_B["default"].weight.grad, atol=1e-5, rtol=1e-4)


# -- mistakes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ({"rank": 0}, "rank must be at least 1, not 0"),
        ({"alpha": 0}, "alpha must be above 0, not 0"),
        ({"dropout": 1.0}, "dropout must be from 0 to below 1"),
        ({"targets": ("q_proj",)}, "no target 'q_proj': choose among q, k, v, o, gate, up, down"),
        ({"targets": ()}, "at least one target"),
    ],
)
def test_settings_out_of_range(said: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        LoRA(**said)


def test_a_target_that_the_model_has_not_and_a_second_adapter() -> None:
    ungated = Config(**vars(LLAMA) | {"gated": False})
    with pytest.raises(ValueError, match=r"no layer 'gate' for LoRA: choose among q, k, v, o, up, down$"):
        add_lora(build(ungated), LoRA(targets=("q", "gate")), draw())
    model = add_lora(build(), LoRA(), draw())
    with pytest.raises(ValueError, match="has a LoRA already"):
        add_lora(model, LoRA(), draw())


def test_a_frozen_head_and_frozen_norms_get_no_gradient_and_change_none() -> None:
    """The loss's and the norms' own way back leave out what is frozen, and the rest stays as it was."""
    batch = Batch(
        TOKENS[:, :-1], TOKENS[:, 1:], torch.ones(2, 8), torch.arange(8).expand(2, -1), torch.ones(2, 8).long()
    )
    grads = []
    for frozen in (True, False):
        model = add_lora(build(), LoRA(), draw())
        stir(model)
        for name, p in model.named_parameters():
            if not frozen and name.rpartition(".")[2] not in "AB":
                p.requires_grad_(True)
        model(batch.tokens, batch.targets, pos=batch.pos, segment=batch.segment).sum().backward()
        grads.append([layer.A.grad for layer in adapters(model).values()])
        assert (model.head.proj.weight.grad is None) is frozen
        assert (model.stack.norm.weight.grad is None) is frozen
    for ours, whole in zip(*grads, strict=True):
        torch.testing.assert_close(ours, whole, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "bloom", "llama", "mistral", "qwen2", "qwen3", "gemma3_text", "bert", "t5"])
def test_every_family_learns_merges_and_is_saved(name: str, tmp_path: Path) -> None:
    tiny.make(name).save_pretrained(tmp_path / "theirs")
    model = load(tmp_path / "theirs")
    memory = model.encode(TOKENS).x.detach() if model.cfg.encoder else None
    reads = None if memory is None else Memory(memory)
    before = model(TOKENS, memory=reads).detach()
    add_lora(model, LoRA(3, 6.0, targets=tuple(t for t in TARGETS if t != "gate" or model.cfg.gated)), draw())
    stir(model)
    model(TOKENS, TOKENS.roll(-1, 1), memory=reads).sum().backward()
    layers = {name: layer for name, layer in adapters(model).items() if not name.startswith("encoder.")}
    assert len(layers) == model.cfg.layers * (4 + 2 + model.cfg.gated + (4 if model.cfg.encoder else 0))
    assert all(layer.A.grad.abs().max() > 0 and layer.B.grad.abs().max() > 0 for layer in layers.values())
    with torch.no_grad():
        said = model(TOKENS, memory=reads)
        assert (said - before).abs().max() > 0.1
        merge(model)
        torch.testing.assert_close(model(TOKENS, memory=reads), said, atol=2e-5, rtol=1e-5)
        save(model, tmp_path / "ours")
        torch.testing.assert_close(load(tmp_path / "ours")(TOKENS, memory=reads), model(TOKENS, memory=reads))
