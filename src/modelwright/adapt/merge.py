"""An adapter merged into its base: a plain model directory, and the proof that it says the same.

Letters: B batch, T length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from modelwright.adapt.lora import merged_copy
from modelwright.adapt.open import RECORD, digest, is_adapter, open_model, read_record, versions
from modelwright.adapt.prompt import soft_ids
from modelwright.hub import open as hub
from modelwright.infer.engine import Engine, Request
from modelwright.infer.sample import Sampling
from modelwright.model.checkpoint import whole, write_json
from modelwright.model.transformer import Transformer

# float32 keeps 2^-24 = 6e-8 of a number; a product of some thousand terms and some ten layers loses a hundred times as
# much, so merged and unmerged differ by about 1e-6 of the largest logit, and by 1e-5 where scores are large, as T5's
# are. A matrix that is turned, scaled or placed wrongly differs by far more than 1e-4.
TOLERANCE = 1e-4
ROWS, LENGTH = 4, 32  # of the random tokens that are compared
PROMPTS, NEW = 5, 32  # of the greedy continuations


def merge_adapter(adapter: str | Path, output: str | Path) -> dict[str, Any]:
    """Merge the LoRA of an adapter directory into its base, write the model to `output`, and prove it.

    The model is written, opened again from the disk, and compared with base and adapter side by side, in float32:
    logits of fixed random tokens, and greedy continuations. Returns the proofs: "logits" the largest difference,
    "relative" the same over the largest logit, "greedy" how many of "prompts" continuations are the same.

    Raises ValueError for a soft prompt, for what is no adapter, and where the merged model says anything else; then
    nothing is left behind. FileExistsError where `output` exists.
    """
    adapter, output = Path(adapter).expanduser(), Path(output).expanduser()
    if not is_adapter(adapter):
        raise ValueError(f"{adapter} is no adapter directory: it has no adapter_config.json")
    lm = open_model(adapter)
    if soft_ids(lm.model):
        raise ValueError(f"{adapter} holds a soft prompt, which no weight of a model can take up: only LoRA is merged")
    with whole(output) as work:
        hub.save(replace(lm, model=merged_copy(lm.model)), work)
        found = compare(lm.model, hub.load(work).model)
        if found["relative"] > TOLERANCE or found["diverged"]:
            raise ValueError(
                f"the merged model does not say what {adapter} says with its base: logits differ by "
                f"{found['relative']:.1e} of the largest (allowed {TOLERANCE:.0e}), and {found['greedy']} of "
                f"{found['prompts']} continuations are the same; nothing was written"
            )
        write_json(work / RECORD, _lineage(adapter, found))
    return found


def _lineage(adapter: Path, proofs: dict[str, Any]) -> dict[str, Any]:
    record = read_record(adapter)
    parents = [{"role": "base", **record.get("base", {})}, {"role": "adapter", "name": adapter.name}]
    parents[0].pop("beside", None)
    parents[1]["digest"] = digest(adapter)
    kept = {key: value for key, value in record.items() if key not in ("base", "versions")}
    prompts: dict[str, Any] = {
        key: kept[key] for key in ("contract", "terms") if key in kept
    }  # it is asked as the adapter was
    return {"parents": parents, "merged": proofs, "versions": versions(), **prompts, "adapter": kept}


@torch.inference_mode()
def compare(one: Transformer, other: Transformer) -> dict[str, Any]:
    """How far two models of one shape are apart, on tokens that a fixed seed draws.

    "diverged": continuations that part where the two tokens are no tie within the tolerance.
    """
    draw = torch.Generator().manual_seed(0)
    length = LENGTH if one.cfg.unbounded else min(LENGTH, one.cfg.context)
    tokens = torch.randint(one.cfg.vocab, (ROWS, length), generator=draw)  # (B, T)
    source = torch.randint(one.cfg.vocab, (ROWS, length), generator=draw) if one.cfg.encoder else None
    mine, theirs = (m(tokens, memory=None if source is None else m.encode(source)) for m in (one, other))  # (B, T, V)
    largest, apart = float(mine.abs().max()), float((mine - theirs).abs().max())
    # NaN would be below every bound
    found: dict[str, Any] = {"logits": apart, "relative": apart / largest if largest > 0 and apart == apart else 1.0}
    return {**found, **_continuations(one, other, largest, draw)}


def _continuations(one: Transformer, other: Transformer, largest: float, draw: torch.Generator) -> dict[str, int]:
    if one.cfg.shape == "encoder":
        return {"greedy": 0, "prompts": 0, "diverged": 0}
    room = NEW if one.cfg.unbounded else one.cfg.context // 2
    rows = [torch.randint(one.cfg.vocab, (min(1 + 3 * i, room),), generator=draw).tolist() for i in range(PROMPTS)]
    sources: list[list[int]] | None = rows if one.cfg.encoder else None
    prompts = [row[:1] for row in rows] if sources else rows
    said = [_greedy(model, prompts, sources) for model in (one, other)]
    parted = [i for i in range(PROMPTS) if said[0][i] != said[1][i]]
    diverged = sum(
        not _tie(one, prompts[i], None if sources is None else sources[i], said[0][i], said[1][i], largest)
        for i in parted
    )
    return {"greedy": PROMPTS - len(parted), "prompts": PROMPTS, "diverged": diverged}


def _greedy(model: Transformer, prompts: list[list[int]], sources: list[list[int]] | None) -> list[list[int]]:
    engine = Engine(model, longest=LENGTH + NEW, texts=PROMPTS)
    requests = [Request(p, Sampling(NEW, 0.0), sources[at] if sources else None) for at, p in enumerate(prompts)]
    return [[new.token for new in row] for row in engine.run(requests)]


def _tie(
    model: Transformer, prompt: list[int], source: list[int] | None, a: Sequence[int], b: Sequence[int], largest: float
) -> bool:
    """Whether two continuations part at two tokens that the model finds equally likely, to within the tolerance."""
    same = next(i for i in range(min(len(a), len(b))) if a[i] != b[i])
    memory = None if source is None else model.encode(torch.tensor([source]))
    logits = model(torch.tensor([[*prompt, *a[:same]]]), memory=memory)[0, -1]  # (V)
    return abs(float(logits[a[same]] - logits[b[same]])) <= 2 * TOLERANCE * largest
