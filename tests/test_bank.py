"""Many adapters on one model: each row is what its own adapter alone would say."""

from dataclasses import replace

import pytest
import torch

from modelwright.adapt.bank import bank
from modelwright.adapt.lora import LoRA, LoRALinear, add_lora, merged_copy
from modelwright.adapt.prompt import SoftPrompt, add_prompt, soft_ids
from modelwright.infer.engine import Engine, Request
from modelwright.infer.packed import prepare
from modelwright.model.transformer import Config, Transformer
from test_engine import GREEDY, SHAPES, build, ragged, rows

ALL = ("q", "k", "v", "o", "up", "down")


def adapted(cfg: Config, lora: LoRA | None = None, soft: int = 0, seed: int = 0) -> Transformer:
    """The model of `build`, with an adapter that changes what it says."""
    model, draw = build(cfg), torch.Generator().manual_seed(seed)
    if lora is not None:
        add_lora(model, lora, draw)
        with torch.no_grad():
            for layer in model.modules():
                if isinstance(layer, LoRALinear):
                    layer.B.normal_(0, 0.3, generator=draw)
    if soft:
        add_prompt(model, SoftPrompt(soft, init="random"), draw)
    return model.eval()


def some(cfg: Config) -> dict[str, Transformer]:
    gated = ("gate",) if cfg.gated else ()
    return {
        "thin": adapted(cfg, LoRA(2, 4, targets=("q", "v")), seed=1),
        "wide": adapted(cfg, LoRA(5, 20, targets=(*ALL, *gated)), seed=2),
        "down": adapted(cfg, LoRA(1, 3, targets=("up", "down")), seed=3),
        "soft": adapted(cfg, soft=3, seed=4),
        "softer": adapted(cfg, soft=5, seed=5),
    }


def asked(found, name: str | None, prompt: list[int], cfg: Config, **more) -> Request:
    read = [*found.soft(name), *prompt]
    return Request([0], GREEDY, read, adapter=name, **more) if cfg.encoder else Request(read, GREEDY, adapter=name)


@pytest.mark.parametrize("cfg", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("packed", [False, True])
def test_each_row_of_a_batch_says_what_its_adapter_merged_says(cfg, packed):
    adapters = some(cfg)
    model = prepare(build(cfg)) if packed else build(cfg)
    found = bank(model, adapters)
    prompts = ragged(9, 3, 14, 9, 5, 7, 2, 11)
    prompts[3] = prompts[0]  # the same text under two adapters: nothing that one has read is the other's
    names = ["thin", "wide", None, "down", "soft", "thin", "softer", None]
    engine = Engine(model, bank=found, size=4, budget=16, texts=8)
    streams = [engine.submit(asked(found, name, prompt, cfg)) for name, prompt in zip(names, prompts, strict=True)]
    said = [[new.token for new in stream] for stream in streams]
    plain = {None: build(cfg)} | {name: merged_copy(one) for name, one in adapters.items()}
    alone = [
        rows(plain[name], [[*soft_ids(plain[name]), *prompt]])[0] for name, prompt in zip(names, prompts, strict=True)
    ]
    assert said == alone
    assert len({tuple(row) for row in alone}) == len(alone)


@pytest.mark.parametrize("cfg", SHAPES.values(), ids=SHAPES)
def test_likelihoods_under_a_bank_are_those_of_the_merged_model(cfg):
    adapters, text = some(cfg), ragged(18)[0]
    model = prepare(build(cfg))
    found = bank(model, adapters)
    engine = Engine(model, bank=found, size=4, budget=32)
    for name in ("thin", "wide", "down"):
        source = text[:6] if cfg.encoder else None
        stream = engine.submit(Request(text, GREEDY, source, scored=5, adapter=name))
        assert not list(stream)
        merged = merged_copy(adapters[name])
        with torch.no_grad():
            memory = merged.encode(torch.tensor([source])) if source else None
            logps = merged(torch.tensor([text]), memory=memory)[0, 4:-1].log_softmax(-1)
        expected = logps.gather(1, torch.tensor(text[5:])[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor([s.logp for s in stream.scores]), expected, atol=1e-5, rtol=1e-5)


def test_adapters_that_do_not_fit_are_named():
    llama = SHAPES["llama"]
    deeper = adapted(replace(llama, layers=3), LoRA(2, 4))
    with pytest.raises(ValueError, match=r"no layer 'stack\.blocks\.2\.attn\.q'"):
        bank(build(llama), {"deeper": deeper})
    wider = adapted(replace(llama, width=40), LoRA(2, 4))
    with pytest.raises(ValueError, match=r"wider.*attn\.q.*40.*32"):
        bank(build(llama), {"wider": wider})
    engine = Engine(build(llama), bank=bank(build(llama), {"thin": adapted(llama, LoRA(2, 4))}))
    with pytest.raises(ValueError, match="no adapter 'other': there is thin"):
        engine.submit(Request([1, 2], GREEDY, adapter="other"))
    with pytest.raises(ValueError, match="there is none"):
        Engine(build(llama)).submit(Request([1, 2], GREEDY, adapter="thin"))
