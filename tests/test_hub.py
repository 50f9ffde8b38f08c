"""Language models from a directory and from a hub, saved and opened; and what is said where there is none."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import tiny
from hub_server import COMMIT, Hub, serve
from modelwright.data.tokenizer import Tokenizer, train
from modelwright.hub.fetch import is_hub_id
from modelwright.hub.open import LanguageModel, load, save, shape
from modelwright.model.families import FAMILIES
from modelwright.model.transformer import Config, Rope, Transformer, initialise

TEXT = "The agent asks for the order number, and the customer gives the order number at once."
IDS = {"bos_token_id": 0, "eos_token_id": 0}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train([TEXT] * 3, "bpe", 280)


@pytest.fixture(scope="module")
def lm(tokenizer: Tokenizer) -> LanguageModel:
    cfg = Config(vocab=288, width=16, layers=1, heads=2, kv_heads=1, head=8, ffn=24, context=32, rope=Rope())
    model = initialise(Transformer(cfg), torch.Generator().manual_seed(0)).eval()
    return LanguageModel(model, tokenizer, IDS | {"temperature": 0.7, "do_sample": True})


@pytest.fixture
def home(lm: LanguageModel, tmp_path: Path) -> Path:
    save(lm, tmp_path / "home")
    return tmp_path / "home"


def says(lm: LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return lm.model(torch.tensor([lm.tokenizer.encode(TEXT)]))


def sentence(path: str | Path, kind: type[Exception], **how: str) -> str:
    with pytest.raises(kind) as caught:
        load(path, **how)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- directories ------------------------------------------------------------------------------------------


def test_a_directory_comes_back_as_it_was_saved(lm: LanguageModel, home: Path) -> None:
    back = load(home)
    assert torch.equal(says(back), says(lm))
    assert back.generation == lm.generation
    assert back.path == home
    assert back.tokenizer.decode(back.tokenizer.encode(TEXT)) == TEXT
    assert {p.dtype for p in back.model.parameters()} == {torch.float32}
    assert {p.dtype for p in load(str(home), dtype=torch.bfloat16).model.parameters()} == {torch.bfloat16}


def test_transformers_opens_all_of_it(lm: LanguageModel, home: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(home)
    tokens = transformers.AutoTokenizer.from_pretrained(home)(TEXT, return_tensors="pt", add_special_tokens=False)[
        "input_ids"
    ]
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, says(lm), atol=1e-5, rtol=0)
    assert model.generation_config.temperature == 0.7
    assert model.config.eos_token_id == 0


def test_what_generation_config_lacks_comes_from_config(home: Path) -> None:
    (home / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 3], "pad_token_id": None}))
    config = json.loads((home / "config.json").read_text())
    (home / "config.json").write_text(json.dumps(config | {"pad_token_id": 5, "eos_token_id": 4}))
    assert load(home).generation == {"bos_token_id": 0, "eos_token_id": [0, 3], "pad_token_id": 5}
    (home / "generation_config.json").unlink()
    assert load(home).generation == {"bos_token_id": 0, "eos_token_id": 4, "pad_token_id": 5}


def test_a_saved_directory_is_only_replaced_when_asked(lm: LanguageModel, home: Path) -> None:
    with pytest.raises(FileExistsError, match="already holds a model"):
        save(lm, home)
    save(replace(lm, generation={}), home, overwrite=True)
    assert not (home / "generation_config.json").exists()
    assert load(home).generation == {}


def test_a_vocabulary_that_does_not_fit(lm: LanguageModel, home: Path, tmp_path: Path) -> None:
    small = replace(lm.model.cfg, vocab=lm.tokenizer.vocab - 1)
    other = replace(lm, model=Transformer(small))
    with pytest.raises(ValueError, match=f"the tokenizer has {lm.tokenizer.vocab} ids and the model a vocabulary of "):
        save(other, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    train([TEXT * 9] * 9 + ["".join(map(chr, range(300, 400)))], "bpe", 400).save(home)
    found = Tokenizer.load(home).vocab
    assert found > 288
    said = sentence(home, ValueError)
    assert said == (
        f"{home}: the tokenizer has {found} ids and the model a vocabulary of 288: they do not belong together"
    )


def test_a_directory_without_a_tokenizer(home: Path) -> None:
    (home / "tokenizer.json").unlink()
    assert str(home) in sentence(home, FileNotFoundError)


def test_paths_that_are_none(home: Path) -> None:
    said = sentence("./no/such/place", FileNotFoundError)
    assert said == "there is no directory no/such/place, and that is no name of a model on the hub either"
    assert sentence(home / "config.json", ValueError) == (
        f"{home / 'config.json'} is a file: name the directory that holds it"
    )


@pytest.mark.parametrize("name", ["gpt2", "google/flan-t5-small", "a.b/c_d-1.0"])
def test_names_on_the_hub(name: str) -> None:
    assert is_hub_id(name)


@pytest.mark.parametrize("name", ["", "/gpt2", "./gpt2", "../a", "a/b/c", "a b", "a/", "~/a", "ä", "x" * 97, "a\n"])
def test_names_not_on_the_hub(name: str) -> None:
    assert not is_hub_id(name)


def test_the_model_is_looked_at_before_the_tokenizer(home: Path) -> None:
    (home / "tokenizer.json").unlink()
    config = json.loads((home / "config.json").read_text())
    (home / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    assert "model_type 'mamba' is of no known family" in sentence(home, ValueError)
    (home / "config.json").write_text(json.dumps(config))
    (home / "model.safetensors").rename(home / "pytorch_model.bin")
    assert "holds only pickled weights" in sentence(home, ValueError)


def test_a_name_that_is_too_long_for_a_file() -> None:
    said = sentence("x" * 5000, FileNotFoundError)
    assert said.endswith("cannot be opened as a directory: File name too long")
    assert len(said) < 120


def test_the_nearest_directory_is_named(home: Path) -> None:
    said = sentence(home.parent / "hme" / "model", FileNotFoundError)
    assert said.endswith(f"no name of a model on the hub either (did you mean {home}?)")


def test_a_name_that_could_be_the_hubs_has_a_near_directory_too(
    online: Hub, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home.parent)
    assert sentence("hoome", FileNotFoundError) == (
        "'hoome' is neither a directory here nor a public model on the hub (did you mean home?)"
    )


def test_what_was_left_aside_is_known(lm: LanguageModel, tmp_path: Path) -> None:
    bert = FAMILIES["bert"].read(tiny.BERT | {"vocab_size": 288})
    save(replace(lm, model=Transformer(bert).eval()), tmp_path / "bert")
    assert load(tmp_path / "bert").aside == ()
    file = tmp_path / "bert" / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    save_file(tensors | {"bert.pooler.dense.bias": torch.ones(24)}, file)
    assert load(tmp_path / "bert").aside == ("bert.pooler.dense.bias",)


# -- the hub ----------------------------------------------------------------------------------------------

CLUTTER = {
    "README.md": b"# a model",
    "pytorch_model.bin": b"a pickle",
    "modeling_trap.py": b"raise SystemExit",
    "onnx/config.json": b"{}",
    "onnx/model.safetensors": b"",
    "model.fp16.safetensors": b"",
    "training_args.bin": b"a pickle",
}


@pytest.fixture
def hub(home: Path) -> Iterator[Hub]:
    files = {path.name: path.read_bytes() for path in home.iterdir()}
    only_pickles = {"config.json": files["config.json"], "pytorch_model.bin": b"a pickle"}
    with serve(
        {"desk/tiny": files | CLUTTER | {"vocab.bpe": b"a GPT-2's merges"}, "bare": files, "old/one": only_pickles}
    ) as found:
        yield found


@pytest.fixture
def online(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """This process's client speaks to the small hub, and keeps what it fetches in a folder of the test."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    return hub


def test_a_model_is_fetched_once_and_nothing_else_with_it(lm: LanguageModel, online: Hub) -> None:
    found = load("desk/tiny")
    assert torch.equal(says(found), says(lm))
    assert found.path is not None
    wanted = {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.bpe",
    }
    assert {str(path.relative_to(found.path)) for path in found.path.rglob("*")} == wanted
    fetched = [line for line in online.asked if line.startswith("GET /") and "desk/tiny/resolve" in line]
    assert {line.rpartition("/")[2] for line in fetched} == wanted
    load("desk/tiny", revision=COMMIT)
    assert [line for line in online.asked if line.startswith("GET /") and "desk/tiny/resolve" in line] == fetched
    assert torch.equal(says(load("bare")), says(lm))


def test_of_a_shape_config_json_alone_is_fetched(lm: LanguageModel, online: Hub) -> None:
    assert shape("desk/tiny")[0] == lm.model.cfg
    fetched = [line for line in online.asked if line.startswith("GET /") and "desk/tiny/resolve" in line]
    assert [line.rpartition("/")[2] for line in fetched] == ["config.json"]


def test_the_environment_names_the_hub(hub: Hub, lm: LanguageModel, tmp_path: Path) -> None:
    program = (
        "import sys, torch, modelwright as mw; lm = mw.load('desk/tiny'); print('torch._dynamo' in sys.modules);"
        f"print(lm.model(torch.tensor([lm.tokenizer.encode({TEXT!r})])).double().sum().item())"
    )
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    compiler, total = done.stdout.split()
    assert compiler == "False"  # its import takes longer than all the rest
    assert float(total) == pytest.approx(says(lm).double().sum().item(), abs=1e-3)


def test_without_a_network_the_cached_model_is_used(
    lm: LanguageModel, online: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    load("desk/tiny")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert torch.equal(says(load("desk/tiny")), says(lm))


def test_without_a_network_and_a_cache_it_says_so_at_once(online: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    said = sentence("desk/tiny", FileNotFoundError)
    assert time.monotonic() - began < 5
    assert said.startswith("there is no directory 'desk/tiny' here, and the hub could not be asked for a model of ")
    assert said.endswith("name a local directory, or try again with a network")


def test_a_hub_that_fails(online: Hub) -> None:
    assert "the hub could not be asked for a model" in sentence("broken/model", FileNotFoundError)


def test_a_fetch_that_breaks_off(online: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", online.url + "/gone/{repo_id}/{revision}/{filename}"
    )
    said = sentence("desk/tiny", FileNotFoundError)
    assert said.startswith("fetching desk/tiny from the hub broke off (")
    assert said.endswith("): try again, what has come is kept")


def test_a_download_that_ends_early_is_one_sentence(online: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # the client tries again, ever more patiently
    online.short = "model.safetensors"
    said = sentence("desk/tiny", FileNotFoundError)
    assert said.startswith("fetching desk/tiny from the hub broke off (")
    online.short = ""
    load("desk/tiny")


def test_a_full_disk_is_not_the_hubs_fault(online: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    assert sentence("desk/tiny", OSError) == "[Errno 28] No space left on device"


def test_what_the_hub_does_not_have(online: Hub) -> None:
    assert sentence("desk/huge", FileNotFoundError) == (
        "'desk/huge' is neither a directory here nor a public model on the hub"
    )
    assert sentence("desk/tiny", FileNotFoundError, revision="v9") == "desk/tiny has no revision 'v9' on the hub"


def test_a_gated_model(online: Hub) -> None:
    assert sentence("gated/model", PermissionError) == (
        "gated/model is gated: accept its terms on its page, then set HF_TOKEN"
    )


def test_a_repository_of_pickles_is_refused_before_anything_is_fetched(online: Hub) -> None:
    said = sentence("old/one", ValueError)
    assert said.startswith("old/one on the hub holds only pickled weights (pytorch_model.bin), which can run code")
    assert not [line for line in online.asked if "/resolve/" in line]
