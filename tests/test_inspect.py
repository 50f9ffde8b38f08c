"""`modelwright inspect`: counts against real tensors, the draw against its table, pictures, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modelwright.adapt.lora import LoRA, add_lora
from modelwright.adapt.open import digest, open_model, save_adapter, shape
from modelwright.data import tokenizer as tokenizers
from modelwright.hub.open import LanguageModel, load, save
from modelwright.infer.complete import complete
from modelwright.infer.nearest import nearest, spelled, terms
from modelwright.infer.sample import Sampling, apply_rules, history, pick
from modelwright.infer.text import shown
from modelwright.model import checkpoint
from modelwright.model.families import family_of_model
from modelwright.model.look import look
from modelwright.model.recurrent_families import lstm
from modelwright.model.transformer import Config, Relative, Rope, Routing, Transformer, initialise
from modelwright.plan.cost import parameters, parameters_by_layer, parameters_by_part
from modelwright.plan.memory import rounded
from modelwright.recipes import anatomy, attended
from modelwright.recipes.candidates import steps
from modelwright.recipes.inspect import main

TEXTS = ["the cat sat on the mat, the dog did not; a naïve 😀 smile and the end of it all"] * 3
SHAPE: dict[str, Any] = {"width": 32, "layers": 2, "heads": 4, "kv_heads": 4, "head": 8, "ffn": 64, "context": 48}
BERT: dict[str, Any] = {
    "causal": False, "pre_norm": False, "norm": "layer", "act": "gelu", "gated": False, "attn_bias": True,
    "ffn_bias": True, "learned": True, "types": 2, "embed_norm": True, "final_norm": False, "head_transform": True,
    "head_bias": True,
}  # fmt: skip
T5: dict[str, Any] = {"tied": False, "relative": Relative(), "attn_scale": 1.0, "act": "gelu_tanh", "eps": 1e-6}
KINDS = ("decoder", "encoder", "seq2seq")


def saved(directory: Path, kind: str) -> str:
    made = {"decoder": ("bpe", "causal"), "encoder": ("wordpiece", "masked"), "seq2seq": ("unigram", "span")}
    words = tokenizers.train(TEXTS, made[kind][0], 420, objective=made[kind][1])  # type: ignore[arg-type]
    if kind == "decoder":
        cfg = Config(vocab=words.vocab, **SHAPE | {"kv_heads": 2}, rope=Rope())
    elif kind == "encoder":
        cfg = Config(vocab=words.vocab, **SHAPE, **BERT)
    else:
        tower = Config(vocab=words.vocab, **SHAPE | {"context": 512}, **T5, causal=False)
        cfg = replace(tower, causal=True, layers=3, encoder=tower)
    model = initialise(Transformer(cfg), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.0 if p.dim() > 1 else 1.0)
    save(LanguageModel(model, words, {"decoder_start_token_id": words.pad} if kind == "seq2seq" else {}), directory)
    return str(directory)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {kind: saved(tmp_path_factory.mktemp("models") / kind, kind) for kind in KINDS}


def told(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


# -- shape --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_those_of_the_tensors(kind: str, models: dict[str, str]) -> None:
    model = load(models[kind]).model
    named = dict(model.named_parameters())

    def of(*parts: str) -> int:
        return sum(p.numel() for name, p in named.items() if all(part in f".{name}" for part in parts))

    cfg = model.cfg
    assert shape(models[kind]).config == cfg
    assert parameters(cfg) == of("")
    assert parameters_by_part(cfg) == {
        "embedding": of(".embed."), "encoder": of(".encoder."), "stack": of(".stack."), "head": of(".head.")
    }  # fmt: skip
    for tower, stack in ((cfg, ".stack."), (cfg.encoder, ".encoder.")):
        if tower is None:
            continue
        assert parameters_by_layer(tower) == {
            "attention": of(stack, ".attn.") + of(stack, ".cross."),
            "feed-forward": of(stack, ".ffn."),
            "norms": of(stack, "norm."),
            "relative positions": of(stack, ".relative."),
        }


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_those_of_the_tensors(kind: str, models: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    model = load(models[kind]).model
    products = [m for name, m in model.named_modules() if isinstance(m, nn.Linear) and ".blocks." in name]
    products.append(model.head.proj)
    tied = model.embed.tokens.weight.nbytes if model.cfg.tied else 0
    plain = sum(p.nbytes for p in model.parameters()) + tied - sum(m.weight.nbytes for m in products)
    said = told(capsys, models[kind])["anatomy"]
    assert said["bytes"]["float32"] == sum(p.nbytes for p in model.parameters())
    assert said["bytes"]["bfloat16"] == sum(p.nbytes for p in model.to(torch.bfloat16).parameters())
    assert said["bytes"]["int8"] == plain + sum(m.weight.numel() + 4 * m.out_features for m in products)
    grouped = sum(m.weight.numel() for m in products)
    assert rounded(model.cfg, 4, number=2, group=128) == grouped // 2 + 2 * (grouped // 128) + plain // 2


def test_the_shape_is_read_without_the_weights(models: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint._Stored, "read", lambda self: pytest.fail("a weight was read"))
    monkeypatch.setattr(checkpoint, "_fetch", lambda *_: pytest.fail("a weight was read"))
    for kind in KINDS:
        assert main([models[kind]]) == 0


def test_a_config_alone_has_a_shape(models: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_bytes((Path(models["decoder"]) / "config.json").read_bytes())
    here, there = (told(capsys, str(path))["anatomy"] for path in (tmp_path, models["decoder"]))
    assert here | {"model": ""} == there | {"model": ""}
    assert here["shape"]["kv_heads"] == 2
    assert here["shape"]["family"] == "llama"
    assert here["cache"]["per_token"] == 4 * 2 * 2 * 2 * 8  # float32, keys and values, layers, heads, their width
    assert here["cache"]["full_context"] == 48 * here["cache"]["per_token"]


def test_an_adapter_is_told_beside_its_base(
    models: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lm, base = load(models["decoder"]), Path(models["decoder"])
    lora = LoRA(rank=3)
    add_lora(lm.model, lora, torch.Generator().manual_seed(0))
    learned = sum(p.numel() for p in lm.model.parameters() if p.requires_grad)
    save_adapter(lm, lora, tmp_path / "lora", base=str(base), base_digest=digest(base))
    said = told(capsys, str(tmp_path / "lora"))["anatomy"]
    assert said["parameters"]["adapter"] == learned > 0
    assert said["parameters"]["total"] == parameters(lm.model.cfg)
    assert main([str(tmp_path / "lora")]) == 0
    assert f"adapter, beside these {learned:,}" in " ".join(capsys.readouterr().out.split())


def test_the_table_says_what_the_numbers_are(models: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([models["seq2seq"]]) == 0
    out = capsys.readouterr().out
    assert "family        t5, encoder-decoder" in out
    assert "layers        3 (encoder: 2)" in out
    assert "relative, 32 buckets to a distance of 128" in out
    assert "512 tokens and 512 of a source" in out
    assert main([models["encoder"]]) == 0
    assert "an encoder keeps no keys and values" in capsys.readouterr().out


def test_positions_and_norms_in_words() -> None:
    cfg = Config(vocab=9, **SHAPE, alibi=True)
    assert anatomy.positions(cfg) == "ALiBi"
    assert anatomy.positions(replace(cfg, alibi=False)) == "none"
    assert anatomy.norms(replace(cfg, qk_norm=True)) == "RMSNorm, before each part; of queries and keys too"
    assert anatomy.norms(replace(cfg, parallel=True)) == "RMSNorm, one before both parts of a block"


def test_an_lstm_has_no_heads_to_tell_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = tokenizers.train(TEXTS, "bpe", 300)
    model = initialise(Transformer(lstm(words.vocab, 16, 2, 48)), torch.Generator().manual_seed(0))
    save(LanguageModel(model, words, {}), tmp_path / "lstm")
    assert main([str(tmp_path / "lstm")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"recurrence {sum(p.numel() for n, p in model.named_parameters() if '.blocks.' in n):,}" in out
    assert " heads " not in out
    assert " norm " not in out
    with pytest.raises(ValueError, match="an LSTM has no attention"):
        main([str(tmp_path / "lstm"), "--attention", "the", "--json"])


# -- attention ----------------------------------------------------------------------------------------------


def test_attention_is_of_the_text_as_the_model_reads_it(
    models: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = told(capsys, models["decoder"], "--attention", "the cat sat", "--layers", "1")["attention"]["grids"]
    lm = load(models["decoder"])
    ids = lm.tokenizer.encode("the cat sat", special=True)
    assert [grid["layers"] for grid in said] == [[1]]
    assert said[0]["keys"] == said[0]["queries"] == [shown(lm.tokenizer, i) for i in ids]
    want = look(lm.model, torch.tensor([ids])).own[1]
    torch.testing.assert_close(torch.tensor(said[0]["weights"]), want)


def test_an_encoder_decoder_shows_its_answer_at_the_source(
    models: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    lm = load(models["seq2seq"])
    said = told(capsys, models["seq2seq"], "--attention", "the cat", "--target", "a dog")["attention"]["grids"]
    source = [shown(lm.tokenizer, i) for i in lm.tokenizer.encode("the cat", special=True)]
    answer = [shown(lm.tokenizer, i) for i in [lm.tokenizer.pad or 0, *lm.tokenizer.encode("a dog")]]
    assert [(grid["queries"], grid["keys"]) for grid in said] == [(source, source), (answer, answer), (answer, source)]
    assert [len(grid["layers"]) for grid in said] == [2, 3, 3]
    greedy = told(capsys, models["seq2seq"], "--attention", "the cat")["attention"]["grids"][1]["queries"]
    tokens = complete(lm, ["the cat"], max_new=attended.ANSWER, temperature=0.0)[0].tokens
    assert greedy[1:] == [shown(lm.tokenizer, i) for i in tokens if i != lm.tokenizer.eos]


@pytest.mark.parametrize(("kind", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_pictures(kind: str, start: bytes, models: dict[str, str], tmp_path: Path) -> None:
    for name in KINDS:
        path = tmp_path / f"{name}.{kind}"
        assert main([models[name], "--attention", "the $cat$ 😀 did\nnot", "-o", str(path)]) == 0
        assert path.read_bytes().startswith(start)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{name}.{kind}" for name in KINDS)


def test_a_deep_model_is_shown_in_part() -> None:
    assert attended.chosen(5, None) == [0, 1, 2, 3, 4]
    assert attended.chosen(34, None) == [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33]
    assert attended.chosen(2, [0, 2]) == [0]


def test_a_picture_that_fails_leaves_nothing(
    models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(b"before")

    def half(self: Any, path: Path, **how: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", half)
    with pytest.raises(OSError, match="No space"):
        main([models["decoder"], "--attention", "the cat", "-o", str(tmp_path / "a.png")])
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"before"


# -- neighbours ---------------------------------------------------------------------------------------------


def test_neighbours_of_vectors_that_are_known(models: dict[str, str]) -> None:
    lm = load(models["decoder"])
    the, cat, dog, mat = (spelled(lm.tokenizer, word)[0] for word in ("the", "sat", "dog", "mat"))
    with torch.no_grad():
        rows = lm.model.embed.tokens.weight
        rows.copy_(torch.randn(rows.shape, generator=torch.Generator().manual_seed(0)))
        rows[cat], rows[dog] = 3 * rows[the] + 0.1 * rows[cat], -2 * rows[the]
    one = nearest(lm, [(term := terms(lm.tokenizer, "the")[0])], 420)
    assert one[0].token == cat
    assert one[-1].token == dog
    assert one[-1].cosine == pytest.approx(-1)
    assert the not in [near.token for near in one]
    unit = torch.nn.functional.normalize(rows.detach(), dim=-1)
    both = nearest(lm, [term, *terms(lm.tokenizer, "mat")], 3)
    want = torch.nn.functional.cosine_similarity(unit, (unit[the] + unit[mat])[None])
    assert [near.cosine for near in both] == pytest.approx([float(want[near.token]) for near in both], abs=1e-5)
    minus = nearest(lm, terms(lm.tokenizer, "the - mat"), 3)
    want = torch.nn.functional.cosine_similarity(unit, (unit[the] - unit[mat])[None])
    assert [near.cosine for near in minus] == pytest.approx([float(want[near.token]) for near in minus], abs=1e-5)
    assert minus[0].token == cat


def test_a_word_of_several_tokens_is_their_mean(models: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    lm = load(models["decoder"])
    said = told(capsys, models["decoder"], "--nearest", "xylo", "--top", "3")["nearest"]
    assert len(said["words"][0]["tokens"]) > 1
    rows = lm.model.embed.tokens.weight.detach()
    mean = rows[spelled(lm.tokenizer, "xylo")].mean(0)
    near = said["neighbours"][0]
    assert near["cosine"] == pytest.approx(float(torch.cosine_similarity(rows[near["token"]], mean, dim=0)), abs=1e-5)
    assert main([models["decoder"], "--nearest", "xylo"]) == 0
    assert "tokens, " in capsys.readouterr().out


def test_a_sum_is_read_by_the_signs_between_spaces(models: dict[str, str]) -> None:
    lm = load(models["decoder"])
    found = terms(lm.tokenizer, "the cat - dog-mat + sat")
    assert [(term.word, term.sign) for term in found] == [("the cat", 1), ("dog-mat", -1), ("sat", 1)]
    for wrong in ("the - ", "", "the -  + mat"):
        with pytest.raises(ValueError, match=r"lacks a word|no tokens"):
            terms(lm.tokenizer, wrong)
    with pytest.raises(ValueError, match="add up to nothing"):
        nearest(lm, terms(lm.tokenizer, "cat - cat"), 3)


# -- candidates ---------------------------------------------------------------------------------------------

RULES = [
    Sampling(max_new=1, temperature=0.7, top_k=40, top_p=0.8, min_p=0.01, repetition_penalty=1.3, seed=3),
    Sampling(max_new=1, temperature=1.5, top_p=0.6, seed=3),
    Sampling(max_new=1, min_p=0.2, seed=3),
    Sampling(max_new=1, seed=3),
]


@pytest.mark.parametrize("asked", RULES)
def test_the_last_column_is_what_the_sampler_draws_from(asked: Sampling, models: dict[str, str]) -> None:
    lm = load(models["decoder"])
    step = next(steps(lm, "the cat sat on", asked))
    final = torch.zeros(lm.model.cfg.vocab)
    final[[one.token for one in step.choices]] = torch.tensor([one.final for one in step.choices])
    assert float(final.sum()) == pytest.approx(1, abs=1e-5)
    ids, draws = lm.tokenizer.encode("the cat sat on", special=True), 20_000
    with torch.no_grad():
        logits = lm.model(torch.tensor([ids]))[:, -1]
    reshaped = apply_rules(logits, asked, history([ids], len(final), asked, torch.device("cpu")))
    drawn = pick(reshaped.expand(draws, -1), torch.Generator().manual_seed(0)).bincount(minlength=len(final))
    assert not drawn[final == 0].any()
    likely = final * draws >= 5  # where a chi-square holds
    chi = ((drawn - final * draws) ** 2 / (final * draws))[likely].sum()
    freedom = int(likely.sum()) - 1
    assert chi < freedom + 5 * (2 * freedom) ** 0.5 + 1e-6
    for one in step.choices:
        assert one.logit == pytest.approx(float(logits[0, one.token]), abs=1e-4)
    assert step.drawn.final > 0
    assert all(all(one.kept.values()) for one in step.choices if one.final > 0)


def test_the_tokens_are_those_that_generate_writes(models: dict[str, str]) -> None:
    lm = load(models["decoder"])
    for how in ({"temperature": 0.0}, {"temperature": 0.9, "top_k": 20, "seed": 5}):
        found = list(steps(lm, "the cat", Sampling(max_new=6, **how)))  # type: ignore[arg-type]
        assert [step.drawn.token for step in found] == complete(lm, ["the cat"], max_new=6, **how)[0].tokens
    assert [step.drawn.final for step in steps(lm, "the cat", Sampling(max_new=2, temperature=0.0))] == [1.0, 1.0]


def test_explained_in_words(models: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--temperature", "0.5", "--top-k", "4", "--seed", "1", "--max-new", "2", "--top", "6"]
    said = told(capsys, models["decoder"], "--explain", "the cat", *flags)["explain"]
    assert said["settings"] == {"temperature": 0.5, "top_k": 4, "seed": 1}
    assert [step["left"] for step in said["steps"]] == [4, 4]
    first = said["steps"][0]["candidates"]
    assert [one["kept"]["top_k"] for one in first] == [True] * 4 + [False] * 2
    assert [one["probability"] for one in first] == sorted((one["probability"] for one in first), reverse=True)
    assert main([models["decoder"], "--explain", "the cat", *flags]) == 0
    out = capsys.readouterr().out
    assert "drawn by: temperature 0.5, top_k 4, seed 1" in out
    assert out.count("<-") == 2


def test_what_the_model_forbids_is_not_drawn(
    models: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `generate` has it: the candidate keeps its own probability, and nothing is drawn of it."""
    free = told(capsys, models["decoder"], "--explain", "the cat")["explain"]["steps"][0]
    shutil.copytree(models["decoder"], tmp_path / "strict")
    (tmp_path / "strict/generation_config.json").write_text(json.dumps({"bad_words_ids": [[free["drawn"]["token"]]]}))
    strict = told(capsys, str(tmp_path / "strict"), "--explain", "the cat")["explain"]["steps"][0]
    best, second = strict["candidates"][:2]
    assert (best["token"], best["final"], best["after"]) == (free["drawn"]["token"], 0.0, {"bias": 0.0})
    assert best["probability"] == pytest.approx(free["drawn"]["probability"])
    assert second["drawn"]
    (written,) = complete(open_model(str(tmp_path / "strict")), ["the cat"], max_new=1, temperature=0.0)
    assert written.tokens == [second["token"]]


def test_experts_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = Config(vocab=300, **SHAPE, rope=Rope(), experts=Routing(8, top=2, normalised=True))
    (tmp_path / "config.json").write_text(json.dumps(family_of_model(cfg).write(cfg)))
    said = "8, of which a token passes 2, in 2 of 2 layers"
    assert told(capsys, str(tmp_path))["anatomy"]["shape"]["experts"] == said
    assert main([str(tmp_path)]) == 0
    assert f"experts       {said}" in capsys.readouterr().out


def test_what_a_number_format_is_of_is_told(
    models: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By what `prepare` rounds, and what the engine's cache is kept in."""
    own = Config(vocab=300, **SHAPE, rope=Rope())
    (tmp_path / "config.json").write_text(json.dumps(family_of_model(own).write(own)))
    for model, int8, kept in (
        (models["decoder"], "runs: --precision int8", "half of it in bfloat16"),
        (models["seq2seq"], "arithmetic: the command rounds", "with --precision bf16 too"),
        (str(tmp_path), "runs: --precision int8", "with --precision bf16 too"),  # no heads share keys
    ):
        assert main([model]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert int8 in next(line for line in lines if line.startswith("int8"))
        assert kept in next(line for line in lines if line.startswith("cache of a token"))


def test_a_directory_comes_before_a_preset_of_its_name(
    models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told(capsys, "gpt2")["anatomy"]["shape"]["width"] == 768
    shutil.copytree(models["decoder"], tmp_path / "gpt2")
    assert told(capsys, "gpt2")["anatomy"]["shape"]["width"] == 32


def test_a_tower_without_the_layer_that_is_named_is_left_out(
    models: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = told(capsys, models["seq2seq"], "--attention", "the cat", "--target", "sat", "--layers", "2")["attention"]
    assert [grid["name"].split(":")[0] for grid in said["grids"]] == ["decoder", "decoder"]


def test_a_mask_is_explained(models: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    said = told(capsys, models["encoder"], "--explain", "the [MASK] sat", "--top", "3")["explain"]
    assert [len(mask) for mask in said["masks"]] == [3]
    assert main([models["encoder"], "--explain", "the [MASK] sat"]) == 0
    assert "mask 1 of 1" in capsys.readouterr().out


# -- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "flags", "said"),
    [
        ("decoder", ["--attention", "the"], "name its file"),
        ("decoder", ["--attention", "the", "-o", "{}/a.jpg"], "use .png, .svg or .pdf"),
        ("decoder", ["--attention", "the", "-o", "{}/no/a.png"], "there is no directory"),
        ("decoder", ["--attention", "the", "--json", "--layers", "0,2"], "no layer 2: this model's are 0 to 1"),
        ("decoder", ["--attention", "the", "--json", "--layers", "-1"], "takes numbers from 0"),
        ("decoder", ["--attention", "the", "--json", "--layers", "1 2"], "takes numbers from 0"),
        ("decoder", ["--attention", "the", "--json", "--target", "a"], "what an encoder-decoder answers"),
        ("decoder", ["--attention", " ", "--json"], "the text is empty"),
        ("encoder", ["--attention", "", "--json"], "the text is empty"),
        ("decoder", ["--attention", "the cat " * 40, "--json"], "the model's context"),
        ("seq2seq", ["--attention", "the cat " * 200, "--json"], "a picture's most"),
        ("decoder", ["-o", "{}/a.png"], "say --attention TEXT too"),
        ("decoder", ["--top-k", "4"], "--top-k is of the next token"),
        ("decoder", ["--nearest", "the", "--top", "0"], "--top must be at least 1"),
        ("decoder", ["--explain", "the", "--top-p", "2"], "top_p must be above 0"),
        ("encoder", ["--explain", "the [MASK]", "--top-k", "4"], "an encoder only fills masks"),
        ("encoder", ["--explain", "the"], "has no"),
    ],
)
def test_refused_in_one_sentence(
    kind: str, flags: list[str], said: str, models: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        main([models[kind], *(flag.replace("{}", str(tmp_path)) for flag in flags)])
    assert not list(tmp_path.iterdir())


def test_several_questions_at_once(models: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([models["decoder"], "--nearest", "the", "--explain", "the"]) == 0
    out = capsys.readouterr().out
    assert out.index("nearest to the") < out.index("greedy, the likeliest")
