"""Makes tests/recorded/trl_grpo.safetensors: what another library's GRPO says of a step of its own.

    python tests/make_trl_grpo.py        (trl 1.16, transformers 5; not needed to run the tests)

A tiny random model is trained by its GRPOTrainer, in float32 with eager attention and no dropout, three times over each
batch of answers. Of the third time, when ratios are no longer 1, both micro-batches are kept: ids, masks, advantages,
log-probabilities before, now and under the reference; and the model's weights, each loss and its gradient.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import datasets
import tokenizers
import torch
import transformers
import trl
from safetensors.torch import save_file
from tokenizers import models, pre_tokenizers

TO = Path(__file__).parent / "recorded" / "trl_grpo.safetensors"
VOCAB, BETA, STEP = 24, 0.04, 3
KINDS = ("grpo", "dapo")  # per answer, per token
KEPT = (
    "prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages", "old_per_token_logps",
    "ref_per_token_logps",
)  # fmt: skip


def tokenizer() -> Any:
    words = {token: at for at, token in enumerate(["<pad>", "<end>", "<unk>", *(f"w{n}" for n in range(VOCAB - 3))])}
    inner = tokenizers.Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    )


def model() -> Any:
    cfg = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=24, max_position_embeddings=64, attn_implementation="eager", pad_token_id=0, eos_token_id=1,
        bos_token_id=None,
    )  # fmt: skip
    made = transformers.LlamaForCausalLM(cfg)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in made.parameters():
            if p.dim() == 2:
                p.copy_(torch.randn(p.shape, generator=generator) * p.size(1) ** -0.5)
    return made


class Captured(trl.GRPOTrainer):  # type: ignore[misc]
    """Keeps each micro-batch of one step, with every kind of loss of it."""

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        if self.state.global_step == STEP - 1:
            self.capture(model, inputs)
        return super()._compute_loss(model, inputs)

    def capture(self, model: Any, inputs: dict[str, Any]) -> None:
        part = f"{len({name.split('.')[0] for name in self.kept})}"
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        masks = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        now = self._get_per_token_logps_and_entropies(model, ids, masks, inputs["completion_ids"].size(1))[0]
        self.kept |= {f"{part}.{name}": inputs[name] for name in KEPT} | {f"{part}.logps": now}
        own = self.loss_type
        for kind in KINDS:
            self.loss_type = kind
            loss = super()._compute_loss(model, inputs)
            found = torch.autograd.grad(loss, list(model.parameters()))
            self.kept[f"{part}.loss.{kind}"] = loss
            named = zip((name for name, _ in model.named_parameters()), found, strict=True)
            for name, g in named:
                total = self.gradients.setdefault(f"gradient.{kind}.{name}", torch.zeros_like(g))
                total += g
        self.loss_type = own
        self.weights = {f"weight.{name}": p.detach().clone() for name, p in model.named_parameters()}


def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [len(ids) / 4 + sum(ids) % 3 for ids in completion_ids]


def main() -> None:
    prompts = [" ".join(f"w{(7 * at + n) % 20}" for n in range(2 + at % 3)) for at in range(12)]
    with tempfile.TemporaryDirectory() as directory:
        model().save_pretrained(directory)
        tokenizer().save_pretrained(directory)
        args = trl.GRPOConfig(
            output_dir=directory, per_device_train_batch_size=6, gradient_accumulation_steps=2, num_generations=4,
            num_iterations=3, max_completion_length=8, max_steps=STEP, beta=BETA, learning_rate=3e-2, loss_type="grpo",
            use_bias_correction_kl=False, model_init_kwargs={"attn_implementation": "eager", "dtype": "float32"},
            report_to=[], use_cpu=True, bf16=False, seed=1, lr_scheduler_type="constant", save_strategy="no",
            disable_tqdm=True, logging_steps=1,
        )  # fmt: skip
        trainer = Captured(
            model=directory, reward_funcs=reward, args=args,
            train_dataset=datasets.Dataset.from_dict({"prompt": prompts}),
        )  # fmt: skip
        trainer.kept, trainer.gradients = {}, {}
        trainer.train()
    TO.parent.mkdir(exist_ok=True)
    every = {**trainer.kept, **trainer.gradients, **trainer.weights}
    tensors = {name: t.detach().clone().contiguous() for name, t in every.items()}
    config = json.dumps(trainer.model.config.to_dict(), default=str)
    said = {"trl": trl.__version__, "transformers": transformers.__version__, "beta": str(BETA), "config": config}
    save_file(tensors, TO, said)
    print(TO, TO.stat().st_size, {n: t.item() for n, t in tensors.items() if ".loss." in n})


if __name__ == "__main__":
    main()
