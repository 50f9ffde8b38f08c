"""Experts: the sorted path is the loop over tokens; capacity, padding and statistics by hand and against transformers;
and that plans, the optimizer, LoRA, packing, the loss and the pretraining command know of them.

Letters: B batch, T length, C width, F feed-forward width, E experts.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.models.mixtral import modeling_mixtral
from transformers.models.switch_transformers import modeling_switch_transformers as switch

import tiny
from modelwright import cli
from modelwright.adapt.lora import LoRA, add_lora
from modelwright.data.pack import Batch
from modelwright.infer.engine import Engine, Request
from modelwright.infer.packed import PackedExperts, can_int8, can_pack, prepare
from modelwright.infer.sample import Sampling
from modelwright.losses.language import language_model, weigh
from modelwright.model import checkpoint
from modelwright.model.experts import Experts, Rows, Traffic, evened
from modelwright.model.transformer import Config, FeedForward, Rope, Routing, Transformer, initialise
from modelwright.plan import cost, memory
from modelwright.plan.size import ByHand, build, decide, shape
from modelwright.recipes.methods import make_adapter
from modelwright.recipes.watch import Watch
from modelwright.train.optim import Muon, groups, orthogonal
from oracles import greedy
from pretrained import command, stopping_at, write_corpus

LLAMA = Config(
    vocab=61, width=24, layers=3, heads=3, kv_heads=3, head=8, ffn=40, context=96, rope=Rope(),
    experts=Routing(4, 2, normalised=True),
)  # fmt: skip
SWITCH = replace(LLAMA, experts=Routing(4, layers=(1,), capacity_factor=1.25))
PADDED = (torch.arange(10) < 7).long().expand(3, 10)  # the last three of each row


def layer(cfg: Routing, gated: bool = True, seed: int = 0) -> Experts:
    made = Experts(cfg, 6, 10, F.silu, gated)
    with torch.no_grad():
        for p in made.parameters():
            p.normal_(0.0, p.size(-1) ** -0.5, generator=torch.Generator().manual_seed(seed + p.numel()))
    return made


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model_of(cfg: Config) -> Transformer:
    return initialise(Transformer(cfg), torch.Generator().manual_seed(0)).eval()


# -- the sorted path is the loop --------------------------------------------------------------------------

RULES = [
    Routing(4),
    Routing(4, 2, normalised=True),
    Routing(5, 5),
    Routing(4, capacity=2),
    Routing(4, 2, capacity_factor=1.0),
    Routing(64, 2),  # more experts than choices: most have no token
]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("cfg", RULES, ids=str)
def test_by_groups_is_token_by_token(cfg: Routing, gated: bool, padded: bool) -> None:
    experts, x = layer(cfg, gated).double().train(), draw(3, 10, 6).double().requires_grad_()
    rows, way = Rows(PADDED if padded else None), draw(3, 10, 6, seed=2).double()
    got, want = experts(x, rows), experts.one_by_one(x, rows)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)  # weights are float32
    leaves = [x, *experts.parameters()]
    for ours, theirs in zip(*(torch.autograd.grad((y * way).sum(), leaves) for y in (got, want)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert not padded or not got[:, 7:].any()
    with torch.no_grad():  # another path to the weights
        torch.testing.assert_close(experts(x, rows), want, atol=1e-6, rtol=0)


def test_in_bfloat16_an_expert_is_asked_for_few_sizes_and_answers_the_same() -> None:
    """oneDNN keeps what it prepared for every size that it meets: a training grew by hundreds of MiB."""
    asked = set()

    def expert(e: int, x: torch.Tensor) -> torch.Tensor:
        asked.add(len(x))
        return 2 * x

    for n in range(1, 1000):
        x = torch.randn(n, 4).bfloat16()
        assert torch.equal(evened(expert, 0, x), 2 * x)
    assert len(asked) == 16 + 8 * 6
    assert all(n <= min(size for size in asked if size >= n) <= 1.125 * n for n in range(1, 1000))
    asked.clear()
    evened(expert, 0, torch.randn(99, 4))
    assert asked == {99}


def test_one_expert_is_the_dense_layer() -> None:
    dense = FeedForward(replace(LLAMA, experts=None))
    experts, x = Experts(Routing(1), 24, 40, F.silu, True), draw(2, 9, 24)
    with torch.no_grad():
        for name in ("gate", "up", "down"):
            getattr(experts, name)[0].copy_(getattr(dense, name).weight)
    assert torch.equal(experts(x), dense(x))


def test_a_row_is_as_it_is_alone_whatever_stands_beside_it() -> None:
    experts, x = layer(Routing(4, capacity_factor=1.0)).train(), draw(3, 10, 6)
    together = experts(x, Rows(PADDED))
    for row, got in zip(x, together, strict=True):
        torch.testing.assert_close(got[:7], experts(row[None, :7])[0], atol=1e-6, rtol=0)
    assert not layer(Routing(4)).eval()(x, Rows(torch.zeros(3, 10).long())).any(), "all padding"


# -- who finds a place ------------------------------------------------------------------------------------


def all_to_one(cfg: Routing) -> Experts:
    """Every token prefers expert 2, and after it expert 1."""
    experts = layer(cfg)
    with torch.no_grad():
        experts.router.weight.zero_()
        experts.router.weight[2], experts.router.weight[1] = 1.0, 0.5
    return experts


def test_a_full_expert_turns_away_who_comes_later_and_padding_takes_no_place() -> None:
    x = torch.ones(2, 8, 6)
    segment = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 2, 2, 0, 0, 0, 0]])
    came = all_to_one(Routing(4, capacity=3)).eval()(x, Rows(segment)).any(-1)
    assert came.tolist() == [[False] * 2 + [True] * 3 + [False] * 3, [True] * 4 + [False] * 4]
    experts = all_to_one(Routing(4, capacity_factor=1.5)).train()  # ceil(1.5 * 6 / 4) = 3 places, ceil(1.5 * 4 / 4) = 2
    came = experts(x, Rows(segment)).any(-1)
    assert came.tolist() == [[False] * 2 + [True] * 3 + [False] * 3, [True] * 2 + [False] * 6]
    both = all_to_one(Routing(4, 2, capacity_factor=1.0)).train()(x)  # ceil(8 * 2 / 4) = 4 places in each of the two
    assert both.any(-1).tolist() == [[True] * 4 + [False] * 4] * 2


def test_a_capacity_factor_is_of_training_alone_and_no_text_takes_anothers_place() -> None:
    experts, x = all_to_one(Routing(4, capacity_factor=1.0)), torch.ones(1, 8, 6)
    assert experts.train()(x).any(-1).sum() == 2
    assert experts.eval()(x).any(-1).sum() == 8
    always = all_to_one(Routing(4, capacity=3)).eval()
    assert always(x).any(-1).sum() == 3
    assert always(x, Rows(apart=True)).any(-1).sum() == 8


def test_what_a_router_did() -> None:
    traffic: list[Traffic] = []
    x = torch.ones(2, 8, 6)
    segment = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 2, 2, 0, 0, 0, 0]])
    all_to_one(Routing(4, capacity=3))(x, Rows(segment, traffic=traffic))
    (found,) = traffic
    assert found.share.tolist() == [0, 0, 1, 0]
    want = torch.tensor([0.0, 3.0, 6.0, 0.0]).softmax(0)  # x is ones, C = 6
    torch.testing.assert_close(found.probability, want)
    assert found.dropped.item() == pytest.approx(3 / 10)  # 3 of 6, and none of two texts of 2
    assert found.balance.item() == pytest.approx(4 * want[2].item())
    assert found.load.item() == 4
    even = Traffic(torch.full((8,), 1 / 8), torch.full((8,), 1 / 8), torch.zeros(()))
    assert even.balance.item() == even.load.item() == 1


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"count": 0}, "a token cannot pass 1 of 0 experts"),
        ({"count": 4, "top": 5}, "a token cannot pass 5 of 4 experts: choose from 1 to 4"),
        ({"count": 4, "capacity_factor": 0.5}, "drops tokens however evenly they are spread: choose 1 or more"),
        ({"count": 4, "capacity": 0}, "at least 1 token of a row, not 0"),
        ({"count": 4, "jitter": 1.0}, "from 0 to below 1"),
    ],
)
def test_rules_that_make_no_sense_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Routing(**wrong)


def test_shapes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"layers \(1, 3\) cannot all have experts in a tower of 3"):
        replace(LLAMA, experts=Routing(4, layers=(1, 3)))
    with pytest.raises(ValueError, match="experts stand in the place of feed-forwards, and those have no biases"):
        replace(LLAMA, ffn_bias=True)


# -- against transformers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [2, 100])
def test_switch_layer_under_capacity(capacity: int) -> None:
    config = transformers.SwitchTransformersConfig(d_model=6, d_ff=10, num_experts=4, expert_capacity=capacity)
    theirs = switch.SwitchTransformersSparseMLP(config).eval()
    ours = Experts(Routing(4, capacity=capacity), 6, 10, F.relu, False).eval()
    with torch.no_grad():
        theirs.router.classifier.weight.copy_(ours.router.weight)
        for e in range(4):
            theirs.experts[f"expert_{e}"].wi.weight.copy_(ours.up[e])
            theirs.experts[f"expert_{e}"].wo.weight.copy_(ours.down[e])
    x, traffic = draw(3, 20, 6), list[Traffic]()
    torch.testing.assert_close(ours(x, Rows(traffic=traffic)), theirs(x), atol=1e-6, rtol=0)
    assert (traffic[0].dropped > 0.3) == (capacity == 2), "tokens are really dropped"
    _, _, logits = theirs.router(x[:1])
    ours(x[:1], Rows(traffic=traffic))
    want = switch.load_balancing_loss_func(logits.softmax(-1), logits.argmax(-1))
    torch.testing.assert_close(traffic[1].balance, want)


def test_mixtral_layer_and_its_gradients() -> None:
    config = transformers.MixtralConfig(hidden_size=6, intermediate_size=10, num_local_experts=4)
    theirs, ours = modeling_mixtral.MixtralSparseMoeBlock(config), layer(Routing(4, 2, normalised=True))
    assert ours.gate is not None
    with torch.no_grad():
        theirs.gate.weight.copy_(ours.router.weight)
        theirs.experts.gate_up_proj.copy_(torch.cat([ours.gate, ours.up], 1))
        theirs.experts.down_proj.copy_(ours.down)
    x, traffic = draw(3, 20, 6), list[Traffic]()
    got, want = ours(x, Rows(traffic=traffic)), theirs(x)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    got.square().sum().backward()
    want.square().sum().backward()
    torch.testing.assert_close(ours.router.weight.grad, theirs.gate.weight.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.down.grad, theirs.experts.down_proj.grad, atol=1e-4, rtol=1e-4)
    logits = F.linear(x.flatten(0, 1), ours.router.weight)
    want = modeling_mixtral.load_balancing_loss_func((logits,), 4, 2)  # which counts both choices in full
    torch.testing.assert_close(traffic[0].balance, want / 2)


def test_reads_experts_that_a_file_holds_as_stacks(tmp_path: Path) -> None:
    theirs = tiny.make("mixtral")
    theirs.config.save_pretrained(tmp_path)
    save_file(dict(theirs.state_dict()), tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "model.layers.0.mlp.experts.gate_up_proj" in load_file(tmp_path / "model.safetensors")
    x = tiny.tokens(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(checkpoint.load(tmp_path)(x), tiny.logits(theirs, x), atol=1e-5, rtol=0)


def test_our_own_row_holds_what_no_family_does(tmp_path: Path) -> None:
    model = model_of(SWITCH)
    checkpoint.save(model, tmp_path / "own")
    assert json.loads((tmp_path / "own" / "config.json").read_text())["model_type"] == "modelwright-experts"
    back = checkpoint.load(tmp_path / "own")
    assert back.cfg == SWITCH
    assert all(torch.equal(p, q) for p, q in zip(back.parameters(), model.parameters(), strict=True))


# -- the loss ---------------------------------------------------------------------------------------------


def batch_of(rows: int, seed: int = 3) -> Batch:
    tokens = tiny.tokens(rows, 20, seed=seed)
    pos, one = torch.arange(20).expand(rows, 20), torch.ones(rows, 20)
    return Batch(tokens, tokens.roll(-1, 1), one, pos, one.long(), None)


def test_the_loss_of_a_model_with_experts_has_a_second_term() -> None:
    model, batch = model_of(LLAMA), batch_of(2)
    terms, metrics = language_model(model, batch)
    traffic: list[Traffic] = []
    said = model(batch.tokens, batch.targets, traffic=traffic)
    assert torch.equal(said, model(batch.tokens, batch.targets)), "to be asked changes nothing"
    assert len(traffic) == 3
    assert terms["loss"][0].item() == pytest.approx(-said.sum().item(), rel=1e-6)
    assert terms["balance"][0].item() == pytest.approx(sum(layer.balance.item() for layer in traffic) / 3)
    assert terms["balance"][1:] == (1.0, 0.01)
    assert metrics["load"] == pytest.approx(max(4 * layer.share.max().item() for layer in traffic))
    assert metrics["dropped"] == 0
    assert {name: float(w) for name, w in weigh(batch).items()} == {n: float(t[1]) for n, t in terms.items()}
    terms["balance"][0].backward()
    routers = [p.grad for name, p in model.named_parameters() if name.endswith("router.weight")]
    assert all(grad is not None and grad.any() for grad in routers)
    assert list(language_model(model_of(replace(LLAMA, experts=None)), batch)[0]) == ["loss"]


def test_steps_down_the_balance_spread_the_load() -> None:
    experts = layer(Routing(4), seed=5)
    with torch.no_grad():
        experts.router.weight[0] += experts.router.weight.norm()  # x has a mean, so one expert has the most
    x, optimizer = draw(4, 64, 6) + 1, torch.optim.Adam([experts.router.weight], lr=0.05)
    loads = []
    for _ in range(100):
        traffic: list[Traffic] = []
        experts(x, Rows(traffic=traffic))
        optimizer.zero_grad()
        traffic[0].balance.backward()
        optimizer.step()
        loads.append(traffic[0].load.item())
    assert loads[0] > 2.5
    assert loads[-1] < 1.5


# -- what else knows of them ------------------------------------------------------------------------------


def test_each_experts_matrix_is_drawn_as_a_layer_of_its_own() -> None:
    cfg = replace(LLAMA, width=96, ffn=256, head=32, layers=2)
    for name, p in model_of(cfg).named_parameters():
        if ".ffn." in name:
            variance = 1 / 256 / 4 if name.endswith("down") else 1 / 96
            assert p.std().item() == pytest.approx(variance**0.5, rel=0.1), name


def test_muon_turns_each_experts_matrix_by_itself_and_leaves_the_router() -> None:
    model = model_of(LLAMA)
    parts = groups(model)
    routers = [id(block.ffn.router.weight) for block in model.stack.blocks]  # type: ignore[union-attr]
    assert set(routers) <= {id(p) for p in parts["embeddings"]}
    assert sum(p.numel() for p in parts["matrices"]) == cost.matrices(LLAMA)
    stack = torch.nn.Parameter(draw(3, 8, 6))
    alone = [torch.nn.Parameter(matrix.clone()) for matrix in stack.detach()]
    stack.grad = draw(3, 8, 6, seed=4) * torch.tensor([1.0, 5.0, 0.0])[:, None, None]  # the last met no token
    for p, grad in zip(alone, stack.grad, strict=True):
        p.grad = grad.clone()
    for params in ([stack], alone):
        Muon([{"params": params, "muon": True}], lr=0.1, dtype=torch.float32).step()
    torch.testing.assert_close(stack, torch.stack(list(alone)))
    assert torch.isfinite(orthogonal(torch.zeros(2, 4, 3))).all()


@pytest.mark.parametrize(("arch", "objective"), [("mixtral", "causal"), ("switch", "causal"), ("switch", "span")])
def test_plans_count_what_is_built(arch: Any, objective: Any) -> None:
    cfg = shape(objective, 600, 3_000_000, ByHand(arch=arch, experts=4))
    model = checkpoint.blank(cfg)
    assert cost.parameters(cfg) == sum(p.numel() for p in model.parameters())
    assert cost.parameters(cfg) == pytest.approx(3e6, rel=0.05)
    idle = sum(p.numel() * (1 - cfg.routing.top / 4) for p in model.parameters() if p.ndim == 3)
    assert cost.active_parameters(cfg) == cost.parameters(cfg) - idle
    biases = sum(p.numel() for name, p in model.named_parameters() if name.endswith("relative.weight"))
    assert cost.matrices(cfg) == sum(p.numel() for p in groups(model)["matrices"]) - biases
    one = replace(cfg, experts=replace(cfg.experts, count=1, top=1)) if objective == "causal" else None
    if one is not None:  # a token passes k experts, and the router's products
        layers = cost.expert_layers(cfg)
        more = layers * ((cfg.routing.top - 1) * 3 * cfg.width * cfg.ffn + 3 * cfg.width)
        assert cost.forward_flops(cfg, 10) - cost.forward_flops(one, 10) == 2 * 10 * more
    assert memory.training(cfg, 1, 64).activations > memory.training(replace(cfg, experts=None), 1, 64).activations


def test_the_shapes_of_the_papers() -> None:
    said = build("causal", 600, 64, 4, ByHand(arch="switch"), 64).experts
    assert said == Routing(8, layers=(1, 3), capacity_factor=1.25, jitter=0.01)
    assert build("causal", 600, 64, 4, ByHand(arch="mixtral", experts=6), 64).experts == Routing(6, 2, normalised=True)
    span = build("span", 600, 64, 4, ByHand(arch="switch"), 64)
    assert (span.act, span.gated, span.experts) == ("relu", False, said)
    assert span.encoder is not None
    assert span.encoder.experts == said
    for objective, arch in (("masked", "switch"), ("span", "mixtral")):
        with pytest.raises(
            ValueError, match=f"--arch {arch} is of --objective causal.*, and --objective {objective} takes "
        ):
            build(objective, 600, 64, 4, ByHand(arch=arch), 64)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="say --arch switch or --arch mixtral beside it"):
        ByHand(experts=4)
    with pytest.raises(ValueError, match="--experts must be 2 or more with --arch mixtral"):
        ByHand(arch="mixtral", experts=1)
    plan = decide("causal", 600, 1e12, parameters=3_000_000, hand=ByHand(arch="mixtral"))
    assert plan.tokens == pytest.approx(20 * plan.active, rel=0.05)
    assert plan.active < plan.parameters / 2


def test_lora_adapts_attention_beside_experts() -> None:
    with pytest.raises(ValueError, match="gate, down are stacks with a matrix for each expert: choose among q"):
        add_lora(model_of(SWITCH), LoRA(targets=("q", "gate", "down")), torch.Generator())
    chosen = make_adapter("lora", model_of(SWITCH), rank=2, alpha=4, targets=None, tokens=0)
    assert isinstance(chosen.cfg, LoRA)
    assert chosen.cfg.targets == ("q", "k", "v", "o")


@pytest.mark.parametrize("cfg", [LLAMA, SWITCH, replace(LLAMA, gated=False)], ids=["mixtral", "switch", "plain"])
@torch.no_grad()
def test_packed_for_writing(cfg: Config) -> None:
    model = model_of(cfg)
    if not can_pack(model):
        pytest.skip("this machine does not pack")
    ready, x = prepare(model), tiny.tokens(2, 20)
    assert isinstance(ready.stack.blocks[1].ffn, PackedExperts)
    torch.testing.assert_close(ready(x), model(x), atol=1e-5, rtol=0)
    engine, prompts = Engine(ready), [tiny.tokens(1, n, seed=n) for n in (3, 9, 5)]
    streams = [engine.submit(Request(p[0].tolist(), Sampling(temperature=0, max_new=8))) for p in prompts]
    for stream, prompt in zip(streams, prompts, strict=True):
        assert [new.token for new in stream] == greedy(model, prompt, 8)[0, prompt.size(1) :].tolist()
    if can_int8():
        assert type(prepare(model, int8=True).stack.blocks[1].ffn) is Experts


# -- the command ------------------------------------------------------------------------------------------


def test_pretraining_with_experts_resumes_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = write_corpus(tmp_path)
    more = ["--arch", "switch", "--experts", "4", "--save-every", "4", "--accumulate", "2", "--precision", "fp32"]
    assert cli.main(command(corpus, tmp_path / "whole", "causal", *more)) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Watch, "step", stopping_at(5))
        assert cli.main(command(corpus, tmp_path / "parts", "causal", *more)) == 143
    assert cli.main(["pretrain", "--resume", "--output", str(tmp_path / "parts"), "--json"]) == 0
    ours, theirs = (load_file(tmp_path / name / "model/model.safetensors") for name in ("parts", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    lines = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert all(1 <= line["load"] <= 4 and 0 <= line["dropped"] < 1 and line["balance"] > 0.9 for line in lines)
    assert lines[-1]["weight/balance"] == 2  # a micro-batch is one
    assert checkpoint.load(tmp_path / "parts" / "model").cfg.experts == Routing(
        4, layers=(1,), capacity_factor=1.25, jitter=0.01
    )


def test_a_switch_of_two_towers_is_pretrained_and_opened_by_transformers(tmp_path: Path) -> None:
    assert cli.main(command(write_corpus(tmp_path), tmp_path / "run", "span", "--arch", "switch", "--steps", "2")) == 0
    there = tmp_path / "run" / "model"
    theirs, report = transformers.SwitchTransformersForConditionalGeneration.from_pretrained(
        there, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ours, source, x = checkpoint.load(there), tiny.tokens(2, 30), tiny.tokens(2, 12)
    with torch.no_grad():
        got = ours(x, memory=ours.encode(source))
        torch.testing.assert_close(got, tiny.logits(theirs.eval(), x, source), atol=1e-5, rtol=0)


def test_a_capacity_in_use_is_of_each_text_of_a_row() -> None:
    """Two texts in a row find the places that each finds alone: what stands before a text takes none of its."""
    mixed = layer(Routing(3, capacity=2), seed=4)
    one, two = draw(2, 1, 7, 6, seed=9).unbind()
    together = mixed(torch.cat([one, two], 1), Rows(torch.tensor([[1] * 7 + [2] * 7])))
    alone = [mixed(x, Rows(torch.ones(1, 7, dtype=torch.long))) for x in (one, two)]
    torch.testing.assert_close(together, torch.cat(alone, 1))
    assert any(bool((x == 0).all(-1).any()) for x in alone)  # some are turned away
