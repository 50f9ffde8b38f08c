"""Makes tests/recorded/trl_dpo.safetensors: what another library's DPO says of a batch of pairs.

    python tests/make_trl_dpo.py        (trl 1.16, transformers 5; not needed to run the tests)

Two tiny random models, a policy and a reference, are given to its DPOTrainer, in float32 with eager attention and no
dropout. Of its first batch, before anything is learned, are kept: ids and masks as its collator makes them, the chosen
answers before the rejected ones; log p of each answer under either model; either model's weights; and for each kind of
loss the loss and its gradient.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import datasets
import torch
import trl
from safetensors.torch import save_file

from make_trl_grpo import model, tokenizer, transformers

TO = Path(__file__).parent / "recorded" / "trl_dpo.safetensors"
BETA, PAIRS = 0.5, 6
KINDS = ("sigmoid", "ipo", "hinge")
KEPT = ("input_ids", "attention_mask", "completion_mask")


class Captured(trl.DPOTrainer):  # type: ignore[misc]
    """Keeps its batch, with every kind of loss of it."""

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False) -> Any:
        self.kept = {name: inputs[name] for name in KEPT}
        for name, one in (("policy", model), ("reference", self.ref_model)):
            self.kept[f"logps.{name}"] = torch.cat(self.compute_ref_log_probs(one, inputs))
            self.kept |= {f"{name}.{key}": p.detach().clone() for key, p in one.named_parameters()}
        for kind in KINDS:
            self.loss_types = [kind]
            loss = super()._compute_loss(model, inputs, False)
            found = torch.autograd.grad(loss, list(model.parameters()))
            self.kept[f"loss.{kind}"] = loss.detach()
            named = zip((name for name, _ in model.named_parameters()), found, strict=True)
            self.kept |= {f"gradient.{kind}.{name}": gradient for name, gradient in named}
        return super()._compute_loss(model, inputs, return_outputs)


def moved(policy: Any, by: float) -> Any:
    """Another model, not far from this one."""
    other, generator = model(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p, q in zip(other.parameters(), policy.parameters(), strict=True):
            p.copy_(q + by * torch.randn(p.shape, generator=generator))
    return other


def said(seed: int, length: int) -> str:
    return " ".join(f"w{(7 * seed + 3 * n) % 20}" for n in range(length))


def main() -> None:
    rows = [
        {"prompt": said(at, 2 + at % 3), "chosen": f" {said(at + 4, 1 + at)}", "rejected": f" {said(at + 9, 6 - at)}"}
        for at in range(PAIRS)
    ]
    with tempfile.TemporaryDirectory() as directory:
        args = trl.DPOConfig(
            output_dir=directory, per_device_train_batch_size=PAIRS, max_steps=1, beta=BETA, max_length=None,
            report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False, seed=1, save_strategy="no",
            disable_tqdm=True,
        )  # fmt: skip
        policy = model()
        trainer = Captured(
            model=policy, ref_model=moved(policy, 0.1), args=args, processing_class=tokenizer(),
            train_dataset=datasets.Dataset.from_list(rows),
        )  # fmt: skip
        trainer.train()
    TO.parent.mkdir(exist_ok=True)
    tensors = {name: t.detach().clone().contiguous() for name, t in trainer.kept.items()}
    config = json.dumps(policy.config.to_dict(), default=str)
    save_file(
        tensors, TO,
        {"trl": trl.__version__, "transformers": transformers.__version__, "beta": str(BETA), "config": config},
    )  # fmt: skip
    print(TO, TO.stat().st_size, {name: t for name, t in tensors.items() if name.startswith(("loss", "logps"))})


if __name__ == "__main__":
    main()
