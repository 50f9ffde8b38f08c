"""Heads for labels: against another library both ways, against numbers by hand, and as parts of the whole.

Letters: B batch, T length, L labels.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import tiny
import toy
from modelwright.data.pack import Source
from modelwright.data.tokenizer import train as learn
from modelwright.hub.open import LanguageModel
from modelwright.infer.complete import generate
from modelwright.infer.fill import fill_mask
from modelwright.losses.language import language_model
from modelwright.model import checkpoint
from modelwright.model.config import SPAN
from modelwright.model.heads import Critic, policy_of, relabel
from modelwright.model.transformer import Config, Labels, Transformer, initialise
from modelwright.plan.cost import forward_flops, parameters

SENTIMENT = Labels(("bad", "so-so", "good"))
TAGS = Labels(("O", "B-person", "I-person", "B-place"), "token")
THEIRS = {"text": "ForSequenceClassification", "token": "ForTokenClassification", "span": "ForQuestionAnswering"}
ENCODERS = pytest.mark.parametrize("stem", ["Bert", "Roberta", "DistilBert"])
BOTH = pytest.mark.parametrize("labels", [SENTIMENT, TAGS], ids=["text", "token"])
EACH = pytest.mark.parametrize("labels", [SENTIMENT, TAGS, SPAN], ids=["text", "token", "span"])


def their_model(labels: Labels, stem: str = "Bert", **changes: Any) -> Any:
    """A tiny model of the other library, with weights large enough that each moves the logits."""
    names = dict(enumerate(labels.names))
    said = {"id2label": names, "label2id": {name: i for i, name in names.items()}}
    model = getattr(tiny, stem.lower())(stem + THEIRS[labels.each], **said, **changes)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            one = 0.0 if name.endswith("bias") else 1.0
            p.copy_(one + 0.2 * noise if p.dim() == 1 else noise * p.size(1) ** -0.5)
    return model.eval()


def their_logits(out: Any) -> Tensor:
    return torch.stack([out.start_logits, out.end_logits], -1) if "start_logits" in out else out.logits


def our_model(labels: Labels | None, seed: int = 0, **changes: Any) -> Transformer:
    cfg = Config(
        vocab=50, width=24, layers=2, heads=3, kv_heads=3, head=8, ffn=40, context=64, causal=False, pre_norm=False,
        norm="layer", eps=1e-12, final_norm=False, act="gelu", gated=False, attn_bias=True, ffn_bias=True, learned=True,
        types=2, embed_norm=True, tied=labels is None, head_transform=labels is None, head_bias=True, labels=labels,
    )  # fmt: skip
    return initialise(Transformer(replace(cfg, **changes)), torch.Generator().manual_seed(seed)).eval()


OWN: dict[str, dict[str, Any]] = {
    "Bert": {},
    "Roberta": {"types": 1, "offset": 2},
    "DistilBert": {"types": 0, "pooler_act": "relu"},
}


def ids(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(5, 50, shape, generator=torch.Generator().manual_seed(seed))


# -- the same numbers, both ways --------------------------------------------------------------------------


@ENCODERS
@EACH
def test_reads_what_transformers_saved(labels: Labels, stem: str, tmp_path: Path) -> None:
    theirs, x = their_model(labels, stem), tiny.tokens(3, 20)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = checkpoint.load(tmp_path / "theirs")
    assert ours.cfg.labels == labels
    assert checkpoint.aside(tmp_path / "theirs") == []
    with torch.no_grad():
        want, got = their_logits(theirs(x)), ours(x)
    assert want.std() > 0.1
    torch.testing.assert_close(got[:, 0] if labels.each == "text" else got, want, atol=1e-5, rtol=0)


@ENCODERS
@EACH
def test_transformers_opens_what_we_save(labels: Labels, stem: str, tmp_path: Path) -> None:
    ours, x = our_model(labels, **OWN[stem]), ids(3, 20)
    with torch.no_grad():
        ours.head.proj.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    checkpoint.save(ours, tmp_path / "ours")
    opened = getattr(transformers, f"AutoModel{THEIRS[labels.each]}")
    theirs, report = opened.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    assert type(theirs).__name__ == stem + THEIRS[labels.each]
    if labels != SPAN:
        assert theirs.config.id2label == dict(enumerate(labels.names))
        assert theirs.config.label2id == {name: i for i, name in enumerate(labels.names)}
    with torch.no_grad():
        want, got = their_logits(theirs.eval()(x)), ours(x)
    torch.testing.assert_close(got[:, 0] if labels.each == "text" else got, want, atol=1e-5, rtol=0)
    assert checkpoint.load(tmp_path / "ours").cfg == ours.cfg


def test_only_a_model_for_texts_has_a_pooler() -> None:
    assert [name for name, _ in our_model(TAGS).head.named_parameters()] == ["proj.weight", "proj.bias"]
    assert our_model(SENTIMENT).head.pooler is not None
    with pytest.raises(ValueError, match="head for labels shares no weights"):
        our_model(SENTIMENT, tied=True)


def test_the_two_texts_of_a_pair_are_told_apart_as_theirs_are(tmp_path: Path) -> None:
    theirs, x, types = their_model(SPAN), tiny.tokens(2, 12), torch.tensor([[0] * 5 + [1] * 7] * 2)
    theirs.save_pretrained(tmp_path)
    ours = checkpoint.load(tmp_path)
    with torch.no_grad():
        want = their_logits(theirs(x, token_type_ids=types))
        torch.testing.assert_close(ours(x, types=types), want, atol=1e-5, rtol=0)
        assert (ours(x) - want).abs().max() > 1e-2


# -- what the numbers mean --------------------------------------------------------------------------------


def test_log_p_of_a_label_by_hand() -> None:
    model, x = our_model(SENTIMENT), ids(2, 6)
    with torch.no_grad():
        first = model.hidden(x)[:, 0]  # (B, C)
        pooled = torch.tanh(first @ model.head.pooler.weight.T)  # its bias is 0
        scores = (pooled @ model.head.proj.weight.T).tolist()  # (B, L)
        targets = torch.full((2, 6), -1)
        targets[0, 0], targets[1, 0] = 2, 0
        logps = model(x, targets)
    for row, label in ((0, 2), (1, 0)):
        by_hand = scores[row][label] - math.log(sum(math.exp(score) for score in scores[row]))
        assert logps[row, 0] == pytest.approx(by_hand, abs=1e-6)
    assert (logps[:, 1:] == 0).all()


@EACH
def test_packed_is_apart(labels: Labels) -> None:
    model, a, b = our_model(labels), ids(1, 7), ids(1, 5, seed=2)
    pos, segment = torch.tensor([[*range(7), *range(5)]]), torch.tensor([[1] * 7 + [2] * 5])
    with torch.no_grad():
        together = model(torch.cat([a, b], 1), pos=pos, segment=segment)
        torch.testing.assert_close(together, torch.cat([model(a), model(b)], 1), atol=1e-6, rtol=0)
        assert (model(torch.cat([a, b], 1)) - together).abs().max() > 1e-3


@BOTH
def test_the_one_loss_trains_head_and_body(labels: Labels) -> None:
    model, x = our_model(labels), ids(2, 6)
    targets = torch.zeros(2, 6, dtype=torch.long)
    weight = torch.zeros(2, 6)
    weight[:, 0] = 1.0

    class Batch:
        tokens, segment, source = x, None, None
        pos = torch.arange(6)[None]

    Batch.targets, Batch.weight = targets, weight  # type: ignore[attr-defined]
    terms, _ = language_model(model, Batch())  # type: ignore[arg-type]
    total, count, _ = terms["loss"]
    assert count == 2
    with torch.no_grad():
        want = torch.nn.functional.cross_entropy(model(x)[:, 0], targets[:, 0], reduction="sum")
    assert total.item() == pytest.approx(want.item(), abs=1e-5)
    total.backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert without <= {f"stack.blocks.{i}.attn.k.bias" for i in range(2)}  # a shift of all keys changes no softmax


@BOTH
def test_a_label_is_learned(labels: Labels) -> None:
    model, x = our_model(labels).train(), ids(8, 6)
    targets = torch.full((8, 6), -1)
    targets[:, 0] = torch.arange(8) % 3
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = -model(x, targets).sum() / 8
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05 < math.log(3)


# -- another head -----------------------------------------------------------------------------------------


@EACH
def test_relabel_shares_the_body(labels: Labels) -> None:
    model, x = our_model(None), ids(2, 6)
    with torch.no_grad():
        before = model(x)
    found = relabel(model, labels, torch.Generator().manual_seed(4))
    assert found.cfg.labels == labels
    assert model.cfg.labels is None
    body = {name: p for name, p in found.named_parameters() if not name.startswith("head.")}
    assert body
    assert all(p is model.get_parameter(name) for name, p in body.items())
    with torch.no_grad():
        assert torch.equal(model(x), before)
        assert found(x).shape == (2, 6, len(labels.names))
    again = relabel(model, labels, torch.Generator().manual_seed(4))
    assert torch.equal(again.head.proj.weight, found.head.proj.weight)
    wide = relabel(our_model(None), Labels(tuple(map(str, range(400))), labels.each), torch.Generator().manual_seed(4))
    assert wide.head.proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not wide.head.proj.bias.any()


@pytest.mark.parametrize(
    ("name", "stem"), [("bert-pretraining", "Bert"), ("roberta", "Roberta"), ("xlm-roberta", "Roberta"),
                       ("roberta-model", "Roberta"), ("distilbert", "DistilBert")]
)  # fmt: skip
def test_an_mlm_checkpoint_becomes_a_classifier(name: str, stem: str, tmp_path: Path) -> None:
    tiny.make(name).save_pretrained(tmp_path / "mlm")
    pooled = any("pooler" in tensor for tensor in checkpoint.aside(tmp_path / "mlm"))
    assert pooled == (name in ("bert-pretraining", "roberta-model"))
    body = checkpoint.load(tmp_path / "mlm")
    model = relabel(body, SENTIMENT, torch.Generator().manual_seed(0))
    checkpoint.save(model, tmp_path / "labelled")
    said = json.loads((tmp_path / "labelled" / "config.json").read_text())
    assert said["architectures"] == [f"{stem}ForSequenceClassification"]
    back = checkpoint.load(tmp_path / "labelled")
    assert (back.cfg.context, back.cfg.offset) == (96, 2 if stem == "Roberta" else 0)
    with torch.no_grad():
        assert torch.equal(back(tiny.tokens(2, 9)), model(tiny.tokens(2, 9)))


def test_relabel_wants_an_encoder(tmp_path: Path) -> None:
    tiny.make("llama").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="labels are for an encoder, and this model is a decoder"):
        relabel(checkpoint.load(tmp_path), SENTIMENT, torch.Generator())


@EACH
def test_fresh_weights(labels: Labels) -> None:
    model = our_model(labels, width=240, heads=30)
    assert model.head.proj.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not model.head.proj.bias.any()
    if model.head.pooler is not None:
        assert model.head.pooler.weight.std().item() == pytest.approx(240**-0.5, rel=0.05)


# -- what is counted, and what is refused -------------------------------------------------------------------


@EACH
def test_parameters_and_flops_are_counted(labels: Labels) -> None:
    model = our_model(labels)
    assert parameters(model.cfg) == sum(p.numel() for p in model.parameters())
    narrow = forward_flops(model.cfg, 10, predicted=1.0) - forward_flops(model.cfg, 10, predicted=0.0)
    pooler = 24 * 24 if labels.each == "text" else 0
    assert narrow == 2 * 10 * (pooler + 24 * len(labels.names))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"problem_type": "multi_label_classification"}, "problem_type = 'multi_label_classification'; supported"),
        ({"problem_type": "regression"}, "problem_type = 'regression'; supported"),
        ({"id2label": {"0": "score"}}, "a model of one label does regression"),
        ({"id2label": {"0": "a", "2": "b"}}, "a name of its own for each number from 0 to 1"),
        ({"id2label": {"0": "a", "1": "a"}}, "a name of its own for each number from 0 to 1"),
    ],
)
def test_other_heads_are_refused(changes: dict[str, Any], fault: str, tmp_path: Path) -> None:
    checkpoint.save(our_model(SENTIMENT), tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ValueError, match=fault):
        checkpoint.load(tmp_path / "m")


def test_labels_without_names_are_numbered(tmp_path: Path) -> None:
    checkpoint.save(our_model(Labels(("no", "yes"))), tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config = {key: value for key, value in config.items() if key not in ("id2label", "label2id")}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    assert checkpoint.load(tmp_path / "m").cfg.labels == Labels(("LABEL_0", "LABEL_1"))


def test_labels_are_at_least_two_of_a_name_each() -> None:
    for names in (("one",), ("same", "same")):
        with pytest.raises(ValueError, match="at least two labels, each named once"):
            Labels(names)


def test_a_labelled_model_neither_writes_nor_fills() -> None:
    tokenizer = learn(["a few words to learn from"] * 20, "wordpiece", 40, objective="masked")
    lm = LanguageModel(our_model(SENTIMENT), tokenizer)
    for use in (generate, fill_mask):
        with pytest.raises(ValueError, match="this model answers with the labels bad, so-so, good, and cannot write"):
            use(lm, "a [MASK]")


# -- a value beside the vocabulary ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["decoder", "encoder-decoder"])
def test_a_critic_says_what_its_policy_says_and_expects_nothing_at_first(shape: str) -> None:
    policy = toy.model(shape, louder=30).eval()
    critic, x, wanted = Critic(policy), ids(2, 6) % 16, ids(2, 6, seed=2) % 16
    source = Source(ids(2, 4, seed=3) % 16, torch.arange(4).expand(2, 4), torch.ones(2, 4, dtype=torch.long))
    read = {"source": source if shape == "encoder-decoder" else None}
    wanted[0, :3] = -1
    logps, values = critic(x, wanted, **read)
    assert torch.equal(logps, policy(x, wanted, **read))
    assert (logps[0, :3] == 0).all()
    assert torch.equal(values, torch.zeros(2, 6))
    assert policy_of(critic) is policy_of(policy) is policy


def test_a_value_by_hand_in_float32_and_its_gradient_in_the_body() -> None:
    policy = toy.model().eval()
    critic, x = Critic(policy), ids(2, 6) % 16
    with torch.no_grad():
        critic.value.weight.normal_(generator=torch.Generator().manual_seed(0))
        critic.value.bias.fill_(0.25)
        by_hand = policy.hidden(x) @ critic.value.weight[0] + 0.25
    with torch.autocast("cpu", torch.bfloat16):
        logps, values = critic(x, x)
    assert logps.dtype == values.dtype == torch.float32
    torch.testing.assert_close(values, by_hand, atol=0.05, rtol=0)  # its body was rounded
    _, values = critic(x, x)
    torch.testing.assert_close(values, by_hand, atol=1e-5, rtol=0)
    values.sum().backward()
    gradient = policy.embed.tokens.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0
    assert policy.head.proj.weight.grad is None


def test_a_critic_costs_one_forward_of_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, calls = toy.model("encoder-decoder"), []
    for name in ("hidden", "encode"):
        real = getattr(policy, name)
        monkeypatch.setattr(policy, name, lambda *a, name=name, real=real, **k: (calls.append(name), real(*a, **k))[1])
    source = Source(ids(1, 4) % 16, torch.arange(4)[None], torch.ones(1, 4, dtype=torch.long))
    Critic(policy)(ids(1, 3) % 16, ids(1, 3) % 16, source=source)
    assert sorted(calls) == ["encode", "hidden"]
