"""Model directories: what is read, what is refused and in what words, and that nothing is ever half written."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import tiny
from modelwright.model import checkpoint
from modelwright.model.families import FAMILIES
from modelwright.model.transformer import Config, Relative, Rope, Transformer, initialise

CFG = Config(vocab=61, width=24, layers=2, heads=6, kv_heads=3, head=4, ffn=40, context=96, rope=Rope(), eps=1e-6)
X = tiny.tokens(2, 17)


def fresh(cfg: Config = CFG, seed: int = 0) -> Transformer:
    return initialise(Transformer(cfg), torch.Generator().manual_seed(seed)).eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A directory with a tied Llama of ours."""
    checkpoint.save(fresh(), tmp_path / "model")
    return tmp_path / "model"


def rewrite(directory: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Change the tensors of a directory's weight file."""
    tensors = change({name: tensor.clone() for name, tensor in load_file(directory / "model.safetensors").items()})
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors")


def configure(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def same(a: Transformer, b: Transformer) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return a.cfg == b.cfg and all(one == two and torch.equal(p, q) for (one, p), (two, q) in pairs)


def sentence(directory: Path, kind: type[Exception] = ValueError) -> str:
    """What opening the directory is refused with: one line."""
    with pytest.raises(kind) as caught:
        checkpoint.load(directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- reading ----------------------------------------------------------------------------------------------


def test_what_is_saved_is_read_to_the_bit(saved: Path) -> None:
    model = checkpoint.load(saved)
    assert same(model, fresh())
    assert not model.training
    assert model.head.proj.weight is model.embed.tokens.weight
    assert all(p.requires_grad and p.is_contiguous() for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_come_as_the_type_asked_for(dtype: torch.dtype, saved: Path) -> None:
    model = checkpoint.load(saved, dtype)
    want = fresh().to(dtype)
    assert same(model, want)
    checkpoint.save(model, saved.with_name("again"))
    assert json.loads((saved.with_name("again") / "config.json").read_text())["dtype"] == str(dtype)[6:]
    assert same(checkpoint.load(saved.with_name("again"), dtype), model)


def test_training_a_mapped_model_leaves_its_file_alone(tmp_path: Path) -> None:
    """GPT-2's q, k and v are pieces of one matrix of the file: each must be its own, or a fused step corrupts all."""
    theirs = tiny.make("gpt2")
    theirs.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    model, copy = checkpoint.load(tmp_path), Transformer(checkpoint.load(tmp_path).cfg)
    copy.load_state_dict(model.state_dict())
    for one in (model, copy.eval()):
        one(X, X).sum().backward()
        torch.optim.AdamW(one.parameters(), lr=0.1, fused=True).step()
    assert same(model, copy)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_head_that_differs_is_a_head_of_its_own(tmp_path: Path) -> None:
    """config.json says tied, as transformers 5 writes for T5 v1.1, and the file holds another matrix."""
    theirs = tiny.make("t5-v1.1")
    theirs.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is True
    ours = checkpoint.load(tmp_path)
    assert not ours.cfg.tied
    assert torch.equal(ours.head.proj.weight, theirs.lm_head.weight)


def test_a_tied_head_may_be_there_twice_or_be_all_there_is(saved: Path) -> None:
    rewrite(saved, lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"].clone()})
    assert same(checkpoint.load(saved), fresh())
    rewrite(saved, lambda t: {name: tensor for name, tensor in t.items() if name != "model.embed_tokens.weight"})
    assert same(checkpoint.load(saved), fresh())


OLDER: dict[str, tuple[str, Callable[[str], str], dict[str, Tensor]]] = {
    "llama without its prefix, with rotary buffers": (
        "llama",
        lambda name: name.removeprefix("model."),
        {"layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2), "rotary_emb.inv_freq": torch.ones(2)},
    ),
    "gpt2 without its prefix, with masks": (
        "gpt2",
        lambda name: name.removeprefix("transformer."),
        {"h.0.attn.bias": torch.ones(1, 1, 96, 96).tril().byte(), "h.1.attn.masked_bias": torch.tensor(-1e4)},
    ),
    "bert with gamma and beta, positions, pooler and next sentence": (
        "bert",
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
        {
            "bert.embeddings.position_ids": torch.arange(96)[None],
            "bert.pooler.dense.weight": torch.ones(24, 24),
            "cls.seq_relationship.bias": torch.ones(2),
        },
    ),
    "roberta with positions and a pooler": (
        "roberta",
        lambda name: name,
        {
            "roberta.embeddings.position_ids": torch.arange(98)[None],
            "roberta.pooler.dense.weight": torch.ones(24, 24),
        },
    ),
    "distilbert's body alone, with positions": (
        "distilbert-model",
        lambda name: f"distilbert.{name}",
        {"distilbert.embeddings.position_ids": torch.arange(96)[None]},
    ),
    "t5 with its embedding three times and an unused bias": (
        "t5",
        lambda name: name,
        {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": torch.ones(32, 3)},
    ),
}


@pytest.mark.parametrize("which", OLDER)
def test_files_of_older_versions(which: str, tmp_path: Path) -> None:
    name, rename, more = OLDER[which]
    tiny.make(name).save_pretrained(tmp_path)
    want = checkpoint.load(tmp_path)
    rewrite(tmp_path, lambda tensors: {rename(key): tensor for key, tensor in tensors.items()} | more)
    if name == "t5":
        copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
        rewrite(tmp_path, lambda t: t | {copy: t["shared.weight"].clone() for copy in copies})
    got = checkpoint.load(tmp_path)
    assert same(got, want)
    assert checkpoint.aside(tmp_path) == sorted(
        key for key in more if "pooler" in key or "seq_rel" in key or "EncDec" in key
    )


def test_shards_of_both_libraries(saved: Path, tmp_path: Path) -> None:
    checkpoint.save(fresh(), tmp_path / "ours", shard_bytes=10_000)
    files = sorted(path.name for path in (tmp_path / "ours").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert all(path.stat().st_size < 12_000 for path in (tmp_path / "ours").glob("*.safetensors"))
    theirs, report = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] | report["unexpected_keys"]
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="10KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    assert same(checkpoint.load(tmp_path / "ours"), fresh())
    assert same(checkpoint.load(tmp_path / "theirs"), fresh())


# -- refusing ---------------------------------------------------------------------------------------------


def test_all_that_does_not_fit_is_named_at_once(saved: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            del tensors[f"model.layers.0.self_attn.{part}.weight"]
        del tensors["model.norm.weight"]
        tensors["model.layers.2.mlp.up_proj.weight"] = torch.ones(40, 24)
        tensors["model.layers.1.mlp.up_proj.weight"] = torch.ones(40, 25)
        tensors["model.layers.1.mlp.down_proj.weight"] = torch.ones(24, 40, dtype=torch.int8)
        return tensors

    rewrite(saved, change)
    said = sentence(saved)
    assert said.startswith(f"the weights in {saved} do not fit its config.json: 5 missing (")
    assert "model.layers.0.self_attn.q_proj.weight, " in said
    assert ", ...); 1 extra (model.layers.2.mlp.up_proj.weight)" in said
    assert "; 2 unlike config.json (" in said
    assert "model.layers.1.mlp.up_proj.weight is (40, 25), not (40, 24)" in said
    assert "model.layers.1.mlp.down_proj.weight is I8, not floating-point" in said


def test_a_copy_that_differs_is_refused(tmp_path: Path) -> None:
    tiny.make("t5").save_pretrained(tmp_path)
    rewrite(tmp_path, lambda t: t | {"encoder.embed_tokens.weight": t["shared.weight"] + 1})
    assert "1 extra (encoder.embed_tokens.weight)" in sentence(tmp_path)


def test_the_zeros_of_bart_are_written_and_nothing_else_is_read_for_them(tmp_path: Path) -> None:
    tiny.make("bart").save_pretrained(tmp_path)
    model = checkpoint.load(tmp_path)
    checkpoint.save(model, tmp_path / "ours")
    file = tmp_path / "ours" / "model.safetensors"
    tensors = load_file(file)
    assert torch.equal(tensors["final_logits_bias"], torch.zeros(1, tiny.VOCAB))
    save_file(tensors | {"final_logits_bias": torch.eye(tiny.VOCAB)[:1]}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"config\.json: 1 not 0 throughout \(final_logits_bias\)$"):
        checkpoint.load(tmp_path / "ours")
    del tensors["final_logits_bias"]
    save_file(tensors, file, {"format": "pt"})
    assert torch.equal(checkpoint.load(tmp_path / "ours").embed.tokens.weight, model.embed.tokens.weight)


def test_a_fused_matrix_of_another_shape(tmp_path: Path) -> None:
    tiny.make("gpt2").save_pretrained(tmp_path)
    rewrite(tmp_path, lambda t: t | {"transformer.h.0.attn.c_attn.weight": torch.ones(72, 24)})
    assert "transformer.h.0.attn.c_attn.weight is (72, 24), not (24, 72)" in sentence(tmp_path)


def test_one_tensor_under_two_names(tmp_path: Path) -> None:
    tiny.make("gpt2").save_pretrained(tmp_path)
    rewrite(tmp_path, lambda t: t | {"ln_f.weight": torch.ones(24)})
    assert "holds transformer.ln_f.weight a second time" in sentence(tmp_path)


class Trap:
    """A pickle that leaves a mark when it is opened."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "last.ckpt"])
def test_pickles_are_refused_unopened(file: str, saved: Path, tmp_path: Path) -> None:
    (saved / "model.safetensors").unlink()
    (saved / file).write_bytes(pickle.dumps(Trap(tmp_path / "mark")))
    said = sentence(saved)
    assert said.startswith(f"{saved} holds only pickled weights ({file}), which can run code and are never opened: ")
    assert said.endswith(
        "convert them once with transformers, AutoModel.from_pretrained(...).save_pretrained(directory), "
        "and open that directory"
    )
    assert not (tmp_path / "mark").exists()


def test_no_code_of_a_directory_runs(saved: Path, tmp_path: Path) -> None:
    configure(saved, auto_map={"AutoModelForCausalLM": "trap.Model"}, trust_remote_code=True)
    (saved / "trap.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'mark')!r}).touch()\n")
    assert same(checkpoint.load(saved), fresh())
    assert not (tmp_path / "mark").exists()
    assert "trap" not in sys.modules


def cut(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "cut short": lambda path: cut(path, 0.9),
    "cut within its header": lambda path: cut(path, 0.001),
    "empty": lambda path: path.write_bytes(b""),
    "header of nonsense": lambda path: path.write_bytes(b"\xff" * 1000),
    "a header that promises more": lambda path: path.write_bytes(struct.pack("<Q", 10**12) + path.read_bytes()[8:]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a pickle in disguise": lambda path: path.write_bytes(pickle.dumps({"a": 1})),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named(damage: str, saved: Path) -> None:
    DAMAGE[damage](saved / "model.safetensors")
    assert sentence(saved).startswith(f"{saved / 'model.safetensors'} is truncated or damaged (")


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    checkpoint.save(fresh(), tmp_path / "m", shard_bytes=10_000)
    shard = sorted((tmp_path / "m").glob("model-*"))[1]
    cut(shard, 0.5)
    assert sentence(tmp_path / "m").startswith(f"{shard} is truncated or damaged (")
    shard.unlink()
    assert sentence(tmp_path / "m", FileNotFoundError).startswith(f"{shard} is missing")


def test_of_a_run_s_directory_the_model_is_named(tmp_path: Path) -> None:
    checkpoint.save(fresh(), tmp_path / "run" / "model")
    assert sentence(tmp_path / "run", FileNotFoundError).endswith(f"; say {tmp_path / 'run' / 'model'}")


@pytest.mark.parametrize("file", ["../elsewhere.safetensors", "/etc/passwd", "pytorch_model.bin", "a/b.safetensors"])
def test_an_index_names_only_safetensors_beside_it(file: str, tmp_path: Path) -> None:
    checkpoint.save(fresh(), tmp_path / "m", shard_bytes=10_000)
    index = tmp_path / "m" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": file}}))
    assert sentence(tmp_path / "m") == f"{index} names {file!r}, which is no safetensors file beside it"


def test_an_index_without_a_map(tmp_path: Path) -> None:
    checkpoint.save(fresh(), tmp_path / "m", shard_bytes=10_000)
    (tmp_path / "m" / "model.safetensors.index.json").write_text("{}")
    assert "has no weight_map" in sentence(tmp_path / "m")


def test_what_is_not_there(saved: Path, tmp_path: Path) -> None:
    assert sentence(tmp_path / "none", FileNotFoundError) == f"there is no directory {tmp_path / 'none'}"
    (saved / "model.safetensors").unlink()
    assert "holds no weights: neither model.safetensors nor" in sentence(saved, FileNotFoundError)
    (saved / "config.json").unlink()
    assert sentence(saved, FileNotFoundError).startswith(f"{saved / 'config.json'} is missing")


@pytest.mark.parametrize(
    ("content", "said"), [(b"{", "is not JSON"), (b"\xff\xfe", "is not JSON"), (b"[1]", "holds a list, not an object")]
)
def test_a_config_that_is_none(content: bytes, said: str, saved: Path) -> None:
    (saved / "config.json").write_bytes(content)
    assert sentence(saved).startswith(f"{saved / 'config.json'} {said}")


# -- writing ----------------------------------------------------------------------------------------------


def test_extra_settings_are_written_and_cannot_misdescribe_the_model(tmp_path: Path) -> None:
    checkpoint.save(fresh(), tmp_path / "m", extra={"eos_token_id": 2, "hidden_size": 7})
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["eos_token_id"] == 2
    assert config["hidden_size"] == 24
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["model_type"] == "llama"


def test_an_existing_directory_is_only_replaced_when_asked(saved: Path) -> None:
    other = fresh(seed=1)
    with pytest.raises(FileExistsError, match="already holds a model: choose another directory, or ask"):
        checkpoint.save(other, saved)
    assert same(checkpoint.load(saved), fresh())
    mapped = checkpoint.load(saved)
    checkpoint.save(other, saved, overwrite=True)
    assert same(checkpoint.load(saved), other)
    assert same(mapped, fresh())  # still mapped to the file that was replaced
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_what_is_no_model_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    checkpoint.save(fresh(), tmp_path / "work")  # empty: nothing to lose
    thesis = tmp_path / "home" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    with pytest.raises(FileExistsError, match=r"home exists and is no model directory \(it has no config.json\)"):
        checkpoint.save(fresh(), thesis.parent, overwrite=True)
    with pytest.raises(FileExistsError):
        checkpoint.save(fresh(), thesis, overwrite=True)
    assert thesis.read_text() == "years of work"


def test_a_full_disk_leaves_the_old_model(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: Any, path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(fresh(seed=1), saved, overwrite=True)
    assert [path.name for path in saved.parent.iterdir()] == ["model"]
    assert same(checkpoint.load(saved), fresh())


def test_a_rename_that_fails_puts_the_old_model_back(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if (self / "model.safetensors").exists() and target == saved and not self.name.endswith("-old"):
            raise OSError(errno.EIO, "no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="no"):
        checkpoint.save(fresh(seed=1), saved, overwrite=True)
    assert same(checkpoint.load(saved), fresh())
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_a_model_of_no_family_is_not_saved(tmp_path: Path) -> None:
    odd = Config(
        vocab=8, width=8, layers=1, heads=2, kv_heads=2, head=4, ffn=8, context=8, rope=Rope(), relative=Relative()
    )
    with pytest.raises(ValueError, match="the nearest, llama, has no words for its relative = Relative"):
        checkpoint.save(fresh(odd), tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_overwriting_replaces_models_alone(saved: Path) -> None:
    """A config.json is found in many directories that are no model's."""

    def refused(said: str) -> None:
        with pytest.raises(FileExistsError, match=rf"is no model directory \({said}\)"):
            checkpoint.save(fresh(), saved, overwrite=True)

    (saved / "checkpoints").mkdir()
    refused("it holds the directory checkpoints")
    (saved / "checkpoints").rmdir()
    config, weights = (saved / "config.json").read_text(), (saved / "model.safetensors").read_bytes()
    for other in ('{"editor": "vim"}', "[1]", "{"):
        (saved / "config.json").write_text(other)
        refused("its config.json names no model_type")
    (saved / "config.json").write_text(config)
    (saved / "model.safetensors").unlink()
    refused("it holds no weights")
    (saved / "model.safetensors").write_bytes(weights)
    checkpoint.save(fresh(seed=1), saved, overwrite=True)
    assert same(checkpoint.load(saved), fresh(seed=1))


def test_what_a_killed_save_left_is_set_right(saved: Path) -> None:
    stale, live = saved.with_name(".model-0123abcd"), saved.with_name(".model-0123abce")
    others = [saved.with_name(name) for name in (".model-notes", ".model2-0123abcd")]
    for path in (stale, live, *others):
        path.mkdir()
        (path / "config.json").write_text("{}")
    for path in (stale, *others):
        os.utime(path, (0, 0))
    saved.rename(saved.with_name(".model-01234567-old"))  # killed between the two renamings
    with pytest.raises(FileExistsError, match="already holds a model"):
        checkpoint.save(fresh(seed=1), saved)
    assert same(checkpoint.load(saved), fresh())
    assert sorted(saved.parent.iterdir()) == sorted([saved, live, *others])
    saved.with_name(".model-01234567-old").mkdir()  # killed before the old one was gone
    checkpoint.save(fresh(seed=1), saved, overwrite=True)
    assert sorted(saved.parent.iterdir()) == sorted([saved, live, *others])
    assert same(checkpoint.load(saved), fresh(seed=1))


def test_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        checkpoint.save(fresh(), tmp_path / "m", shard_bytes=10_000)
    finally:
        os.umask(before)
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "m").iterdir()} == {0o640}


def test_the_new_name_is_on_the_disk_before_the_old_model_goes(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, delete = checkpoint._sync, shutil.rmtree
    monkeypatch.setattr(checkpoint, "_sync", lambda path: (done.append(f"sync {path.name}"), sync(path)))
    monkeypatch.setattr(shutil, "rmtree", lambda path, **how: (done.append(path.name[-4:]), delete(path, **how)))
    checkpoint.save(fresh(), saved, overwrite=True)
    assert done.index(f"sync {saved.parent.name}") < done.index("-old")


def test_a_bias_under_two_names_must_be_one(tmp_path: Path) -> None:
    tiny.make("bert").save_pretrained(tmp_path)
    names = ("cls.predictions.bias", "cls.predictions.decoder.bias")
    bias = torch.arange(float(load_file(tmp_path / "model.safetensors")[names[0]].numel()))
    rewrite(tmp_path, lambda tensors: tensors | {name: bias.clone() for name in names})
    assert torch.equal(checkpoint.load(tmp_path).head.proj.bias, bias)
    rewrite(tmp_path, lambda tensors: tensors | {names[0]: bias + 1})
    assert sentence(tmp_path).endswith(f"1 held twice and not alike ({names[1]} and {names[0]})")


def test_a_saved_marian_pads_with_what_its_writer_says(tmp_path: Path) -> None:
    said = {"vocab_size": 40, "d_model": 16, "max_position_embeddings": 32} | {
        f"{tower}_{size}": n
        for tower in ("encoder", "decoder")
        for size, n in {"layers": 1, "attention_heads": 2, "ffn_dim": 16}.items()
    }
    model = Transformer(FAMILIES["marian"].read({"model_type": "marian", **said}))
    checkpoint.save(model, tmp_path / "said", extra={"pad_token_id": 39})
    checkpoint.save(model, tmp_path / "unsaid")
    pads = [json.loads((tmp_path / name / "config.json").read_text())["pad_token_id"] for name in ("said", "unsaid")]
    assert pads == [39, 0]
