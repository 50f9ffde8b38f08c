"""Soft prompts: ids beyond the vocabulary, in training, in reading and in writing; against peft."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

import tiny
from modelwright.adapt.lora import LoRA, add_lora, merged_copy
from modelwright.adapt.prompt import SoftPrompt, add_prompt, soft_ids
from modelwright.data.tokenizer import train
from modelwright.hub.open import LanguageModel
from modelwright.infer.complete import complete
from modelwright.infer.engine import Engine, Request
from modelwright.infer.fill import fill_mask
from modelwright.infer.packed import can_pack, prepare
from modelwright.infer.sample import Sampling
from modelwright.infer.text import encode_prompts
from modelwright.model.checkpoint import load
from modelwright.model.transformer import Config, Relative, Rope, Transformer, initialise
from modelwright.train.optim import make

V, P = tiny.VOCAB, 4
TOKENS = tiny.tokens(2, 9)
LLAMA = Config(vocab=V, width=24, layers=2, heads=6, kv_heads=2, head=4, ffn=40, context=96, rope=Rope())
PEFTS = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's, of transformers


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(cfg: Config = LLAMA) -> Transformer:
    return initialise(Transformer(cfg), draw())


def prompted(model: Transformer, seed: int = 0) -> Transformer:
    """With a soft prompt that has moved from where it began."""
    add_prompt(model, SoftPrompt(P, "random"), draw(seed))
    return model


def before(model: Transformer, tokens: Tensor) -> Tensor:
    """The soft prompt's ids put before each row: (B, T) -> (B, P + T)."""
    ids = torch.tensor(soft_ids(model))
    return torch.cat([ids.expand(tokens.size(0), -1), tokens], 1)


# -- what it is -------------------------------------------------------------------------------------------


def test_the_ids_are_those_beyond_the_vocabulary_and_the_head_does_not_grow() -> None:
    model = build()
    assert soft_ids(model) == ()
    with torch.no_grad():
        plain = model(TOKENS)
        add_prompt(model, SoftPrompt(P), draw())
        assert soft_ids(model) == (61, 62, 63, 64)
        assert torch.equal(model(TOKENS), plain)
        assert model(before(model, TOKENS)).shape == (2, P + 9, V)
    assert model.head.proj.weight is model.embed.tokens.weight
    assert model.head.proj.weight.shape == (V, 24)


def test_it_starts_as_words() -> None:
    """The model reads them as it reads the words, to the bit."""
    model = build()
    table = model.embed.tokens.weight.detach().clone()
    add_prompt(model, SoftPrompt(5, init_tokens=(7, 3)), draw())
    assert torch.equal(model.embed.tokens.soft, table[[7, 3, 7, 3, 7]])
    with torch.no_grad():
        words = torch.tensor([[7, 3, 7, 3, 7]]).expand(2, -1)
        assert torch.equal(model(before(model, TOKENS)), model(torch.cat([words, TOKENS], 1)))
    drawn = [add_prompt(build(), SoftPrompt(50), draw(seed)).embed.tokens.soft for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert all((row == table).all(1).any() for row in drawn[0])
    random = add_prompt(build(), SoftPrompt(50, "random"), draw()).embed.tokens.soft
    assert random.std().item() == pytest.approx(1.0, rel=0.1)


def test_only_the_soft_prompt_learns_and_does_not_decay() -> None:
    model = prompted(build())
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["embed.tokens.soft"]
    old = model.embed.tokens.soft.detach().clone()
    optimizer = make(model, "adamw", 0.1)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0]
    targets = torch.cat([torch.full((2, P), -1), TOKENS], 1)
    first = model(before(model, TOKENS)[:, :-1], targets[:, 1:]).sum()
    (-first).backward()
    optimizer.step()
    with torch.no_grad():
        assert model(before(model, TOKENS)[:, :-1], targets[:, 1:]).sum() > first
    assert (model.embed.tokens.soft - old).abs().min() > 0.09  # Adam's first step is the rate, everywhere
    assert model.embed.tokens.weight.grad is None


def test_each_row_reads_its_own() -> None:
    """The gradient of a soft token is the sum over the rows that hold it; mixed rows are the rows apart."""
    model = prompted(build())
    soft, hard = before(model, TOKENS)[:1], torch.cat([TOKENS[1:, :P], TOKENS[1:]], 1)
    with torch.no_grad():
        together = model(torch.cat([soft, hard]))
        torch.testing.assert_close(together, torch.cat([model(soft), model(hard)]), atol=1e-6, rtol=1e-5)
    model(torch.cat([soft, soft, hard])).square().sum().backward()
    twice = model.embed.tokens.soft.grad.clone()
    model.embed.tokens.soft.grad = None
    model(soft).square().sum().backward()
    torch.testing.assert_close(twice, 2 * model.embed.tokens.soft.grad, atol=1e-4, rtol=1e-4)


def test_in_bfloat16_it_stays_wide() -> None:
    model = build().bfloat16()
    prompted(model)
    assert model.embed.tokens.soft.dtype == torch.float32
    assert model(before(model, TOKENS)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ({"tokens": 0}, "at least 1 token, not 0"),
        ({"init": "text"}, "starts as 'vocab' or 'random', not 'text'"),
        ({"init": "random", "init_tokens": (1,)}, "init_tokens name the vocabulary's tokens"),
        ({"init_tokens": (5, V)}, r"init_tokens must be ids of the vocabulary, 0 to 60: \(5, 61\)"),
        ({"tokens": 96}, "a soft prompt of 96 tokens leaves no room in a context of 96"),
    ],
)
def test_mistakes(said: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        add_prompt(build(), SoftPrompt(**said), draw())


def test_one_soft_prompt_is_enough() -> None:
    with pytest.raises(ValueError, match="has a soft prompt already"):
        prompted(prompted(build()))


# -- peft -------------------------------------------------------------------------------------------------


@PEFTS
@pytest.mark.parametrize("name", ["gpt2", "llama", "llama-grouped-tied", "t5"])
def test_logits_and_gradients_are_pefts(name: str, tmp_path: Any) -> None:
    theirs = tiny.make(name)
    theirs.save_pretrained(tmp_path / "m")
    ours = prompted(load(tmp_path / "m"))
    kind = "SEQ_2_SEQ_LM" if name == "t5" else "CAUSAL_LM"
    cfg = peft.PromptTuningConfig(num_virtual_tokens=P, task_type=kind, num_transformer_submodules=1)
    theirs = peft.get_peft_model(theirs, cfg).eval()
    embedding = theirs.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        embedding.copy_(ours.embed.tokens.soft)
    mask = torch.ones_like(TOKENS)
    if name == "t5":
        decoder = TOKENS[:, :6].contiguous()
        found = theirs(input_ids=TOKENS, attention_mask=mask, decoder_input_ids=decoder).logits
        said = ours(decoder, memory=ours.encode(before(ours, TOKENS)))
    else:
        found = theirs(input_ids=TOKENS, attention_mask=mask).logits
        said = ours(before(ours, TOKENS))
    torch.testing.assert_close(said, found, atol=1e-5, rtol=1e-5)
    weight = torch.randn(found.shape, generator=draw(6)) / found.numel() ** 0.5
    (found * weight).sum().backward()
    (said * weight).sum().backward()
    assert embedding.grad.abs().max() > 1e-4
    torch.testing.assert_close(ours.embed.tokens.soft.grad, embedding.grad, atol=1e-5, rtol=1e-4)


@PEFTS
def test_an_encoder_reads_what_pefts_classifier_reads(tmp_path: Any) -> None:
    """Its classifier pools place 0, the first soft token: the hidden states before the pooler are compared there."""
    theirs = tiny.bert("BertForSequenceClassification", num_labels=3).eval()
    masked = tiny.bert()
    masked.bert.load_state_dict(theirs.bert.state_dict(), strict=False)
    masked.save_pretrained(tmp_path / "m")
    ours = prompted(load(tmp_path / "m"))
    cfg = peft.PromptTuningConfig(num_virtual_tokens=P, task_type="SEQ_CLS")
    theirs = peft.get_peft_model(theirs, cfg).eval()
    embedding = theirs.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        embedding.copy_(ours.embed.tokens.soft)
    found = theirs(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS)).logits  # (B, 3)
    first = ours.hidden(before(ours, TOKENS))[:, 0]  # (B, C)
    base = theirs.get_base_model()
    said = base.classifier(torch.tanh(base.bert.pooler.dense(first)))
    torch.testing.assert_close(said, found, atol=1e-5, rtol=1e-5)
    (found * torch.tensor([1.0, -2.0, 0.5])).sum().backward()
    (said * torch.tensor([1.0, -2.0, 0.5])).sum().backward()
    torch.testing.assert_close(ours.embed.tokens.soft.grad, embedding.grad, atol=1e-5, rtol=1e-4)


# -- writing ----------------------------------------------------------------------------------------------


GPT2 = replace(
    LLAMA, kv_heads=6, norm="layer", act="gelu_tanh", gated=False, attn_bias=True, ffn_bias=True, learned=True,
    rope=None, context=40,
)  # fmt: skip
TOWER = replace(LLAMA, kv_heads=6, rope=None, relative=Relative(8, 20), attn_scale=1.0)
T5 = replace(TOWER, encoder=replace(TOWER, causal=False))


def greedy(model: Transformer, prompts: list[list[int]], sampling: Sampling) -> list[list[int]]:
    reads = model.encoder is not None
    asked = [Request([0], sampling, prompt) if reads else Request(prompt, sampling) for prompt in prompts]
    return [[new.token for new in row] for row in Engine(model).run(asked)]


@pytest.mark.parametrize("cfg", [GPT2, LLAMA, T5], ids=["gpt2", "llama", "t5"])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_writing_goes_on_from_it(cfg: Config, penalty: float) -> None:
    """Ragged prompts in one batch, one after the other, and packed; a penalty knows nothing of the soft ids."""
    model = prompted(build(cfg)).eval()
    soft = list(soft_ids(model))
    prompts = [[*soft, 5, 6, 7], [*soft, 9], [*soft, *range(10, 22)]]
    sampling = Sampling(12, 0.0, repetition_penalty=penalty, frequency_penalty=0.2 * (penalty > 1))
    alone = [greedy(model, [prompt], sampling)[0] for prompt in prompts]
    assert greedy(model, prompts, sampling) == alone
    if can_pack(model):
        assert greedy(prepare(model), prompts, sampling) == alone
        assert type(prepare(model).head.proj).__name__ == "PackedLinear"
    assert max(map(max, alone)) < V
    assert alone != [greedy(model, [prompt[P:]], sampling)[0] for prompt in prompts]


def test_greedy_is_the_slow_plain_way() -> None:
    model = prompted(build()).eval()
    row = [*soft_ids(model), 5, 6, 7]
    expected: list[int] = []
    with torch.no_grad():
        for _ in range(10):
            expected.append(int(model(torch.tensor([row + expected]))[0, -1].argmax()))
    assert greedy(model, [row], Sampling(10, 0.0)) == [expected]


def test_the_context_is_shared() -> None:
    model = prompted(build(GPT2)).eval()
    soft = list(soft_ids(model))
    assert len(greedy(model, [[*soft, *range(30)]], Sampling(50, 0.0))[0]) == 40 - P - 30
    with pytest.raises(ValueError, match="the prompt has 40 tokens, but the model's context is 40"):
        greedy(model, [[*soft, *range(36)]], Sampling(2, 0.0))


TEXTS = ["the cat sat on the mat, the dog did not and the end of it all"] * 3


def language_model(cfg: Config, objective: Any) -> LanguageModel:
    words = train(TEXTS, "wordpiece" if objective == "masked" else "bpe", 400, objective=objective)
    cfg = replace(cfg, vocab=words.vocab + 3, encoder=cfg.encoder and replace(cfg.encoder, vocab=words.vocab + 3))
    return LanguageModel(build(cfg).eval(), words, {})


@pytest.mark.parametrize(("cfg", "objective"), [(LLAMA, "causal"), (T5, "span")], ids=["decoder", "encoder-decoder"])
def test_text_is_put_behind_it(cfg: Config, objective: str) -> None:
    lm = language_model(cfg, objective)
    plain = encode_prompts(lm, ["the cat", "a"])
    prompted(lm.model)
    soft = list(soft_ids(lm.model))
    assert soft[0] == lm.tokenizer.vocab + 3
    found = encode_prompts(lm, ["the cat", "a"])
    if plain.sources is None:
        assert found.prompts == [soft + row for row in plain.prompts]
        assert encode_prompts(lm, [""]).prompts == [[*soft, lm.tokenizer.eos]]
    else:
        assert found.prompts == plain.prompts
        assert found.sources == [soft + row for row in plain.sources]
    rows = found.prompts if plain.sources is None else found.sources
    said = complete(lm, ["the cat", "a"], max_new=40, temperature=0)  # as many as pay for packing
    assert [done.tokens for done in said] == greedy_text(lm, rows or [])
    sampled = complete(lm, ["the cat"], max_new=8, temperature=1.0, seed=1, repetition_penalty=1.2)
    assert len(sampled[0].tokens) <= 8


def greedy_text(lm: LanguageModel, rows: list[list[int]]) -> list[list[int]]:
    reads, start = lm.model.encoder is not None, [lm.tokenizer.pad or 0]
    eos = [lm.tokenizer.eos] if lm.tokenizer.eos is not None else []
    pairs = [(start, row) if reads else (row, None) for row in rows]
    found = Engine(lm.model).run(Request(prompt, Sampling(40, 0.0), source, eos) for prompt, source in pairs)
    return [[new.token for new in row] for row in found]


def test_masks_are_filled_behind_it() -> None:
    bert = replace(GPT2, causal=False, pre_norm=False, final_norm=False, embed_norm=True, head_transform=True,
                   head_bias=True, types=2, act="gelu")  # fmt: skip
    lm = language_model(bert, "masked")
    text = "the [MASK] sat on"
    plain = fill_mask(lm, text, top=3)
    prompted(lm.model)
    found = fill_mask(lm, text, top=3)
    row = torch.tensor([[*soft_ids(lm.model), *lm.tokenizer.encode("the", special=True)[:2], lm.tokenizer.mask,
                         *lm.tokenizer.encode("sat on", special=True)[1:]]])  # fmt: skip
    with torch.no_grad():
        logits = lm.model(row)[0, P + 2]
    assert [c.token for c in found[0]] == logits.topk(3).indices.tolist()
    assert [c.probability for c in found[0]] != [c.probability for c in plain[0]]


def test_copies_keep_it() -> None:
    model = prompted(build()).eval()
    with torch.no_grad():
        for twin in (merged_copy(model), copy.deepcopy(model)):
            assert soft_ids(twin) == soft_ids(model)
            assert torch.equal(twin(before(model, TOKENS)), model(before(model, TOKENS)))
    assert merged_copy(model).embed.tokens.soft is model.embed.tokens.soft
    both = add_lora(build(), LoRA(2), draw())
    prompted(both)
    assert [name for name, p in both.named_parameters() if p.requires_grad] == ["embed.tokens.soft"]
