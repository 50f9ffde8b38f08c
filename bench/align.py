"""Alignment, ours against TRL: DPO in pairs/s and GRPO in completions/s, alternating, medians.

    python bench/align.py [--way dpo|grpo] [--rounds 3] [--steps 6]

A decoder of about 10M random parameters (width 320, 6 layers, V 4096), all of it learned, bfloat16 on both sides. DPO:
8 pairs a step, prompts of 64 tokens and answers of 64 a side, the reference a frozen copy. GRPO: 4 prompts of 32 tokens
a step, 8 answers of 64 tokens to each, a reward that counts a word, no KL, one pass.

The peer runs as installed (its trainers recompute activations on the way back), again with glibc told to keep large
blocks (`+alloc`), and again without recomputing (`+plain`). Seconds of a step are from one step's end to the next's,
and include the answers that it draws; the first two are left out. Each measurement is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from itertools import pairwise
from typing import Any

from child import measured
from train import ALLOCATOR, hf_config

WORDS = 4096
DPO, GRPO = {"pairs": 8, "prompt": 64, "answer": 64}, {"prompts": 4, "group": 8, "prompt": 32, "answer": 64}
SKIPPED = 2


def text(seed: int, length: int) -> str:
    """So many words, of which each is a token."""
    return " ".join(f"w{4 + (seed * 7919 + at * 104729) % (WORDS - 4)}" for at in range(length))


def tokenizers_of() -> Any:
    import tokenizers
    from tokenizers import models, pre_tokenizers

    names = ["<pad>", "<end>", "<unk>", "<bos>", *(f"w{at}" for at in range(4, WORDS))]
    inner = tokenizers.Tokenizer(models.WordLevel({name: at for at, name in enumerate(names)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(["<pad>", "<end>", "<unk>", "<bos>"])
    return inner


def rate(marks: list[float], amount: int) -> float:
    return amount / statistics.median(after - before for before, after in list(pairwise(marks))[SKIPPED - 1 :])


# -- ours ----------------------------------------------------------------------------------------


def ours(way: str, steps: int) -> float:
    from modelwright.train.allocator import keep_large_blocks

    keep_large_blocks()
    import torch

    from modelwright.data.tokenizer import Tokenizer
    from modelwright.model.families import FAMILIES
    from modelwright.model.transformer import Transformer, initialise

    words = Tokenizer(tokenizers_of(), {"pad": "<pad>", "eos": "<end>", "unk": "<unk>", "bos": "<bos>"})
    cfg = FAMILIES["llama"].read(hf_config("small").to_dict())
    model = initialise(Transformer(cfg), torch.Generator().manual_seed(0)).train()
    return our_dpo(model, words, steps) if way == "dpo" else our_grpo(model, words, steps)


def our_dpo(model: Any, words: Any, steps: int) -> float:
    import copy
    from contextlib import nullcontext

    from modelwright.data.pairs import answers_of, compared, conversation_task
    from modelwright.data.preferences import Preference
    from modelwright.data.supervised import Examples
    from modelwright.losses.preference import direct_preference
    from modelwright.train.loop import fit
    from modelwright.train.optim import make

    pairs = [
        Preference(str(at), ({"role": "user", "content": text(at, DPO["prompt"])},), text(3 * at, DPO["answer"] - 1),
                   text(5 * at + 1, DPO["answer"] - 1), {}, str(at))
        for at in range(DPO["pairs"] * (steps + SKIPPED))
    ]  # fmt: skip
    task = conversation_task()
    rows = compared(pairs, task, answers_of(task, words, "decoder", 256, ()), (256, 0)).rows
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    loss, marks = direct_preference(lambda: nullcontext(frozen), 0.1), list[float]()
    fit(
        model, Examples(rows, length=256, batch=DPO["pairs"], seed=0), loss, make(model, lr=1e-6, decay=0.0),
        steps=steps + SKIPPED, precision="bf16", after_step=lambda step, said: marks.append(time.perf_counter()),
    )  # fmt: skip
    return rate(marks, DPO["pairs"])


def our_grpo(model: Any, words: Any, steps: int) -> float:
    from dataclasses import replace

    from modelwright.data.examples import Example
    from modelwright.data.pairs import conversation_task
    from modelwright.data.prompt import Prompter
    from modelwright.train.loop import fit
    from modelwright.train.optim import make
    from modelwright.train.policy import GRPO as Method
    from modelwright.train.rollout import Actor, Rollouts

    plain = conversation_task()
    task = replace(plain, decoding=replace(plain.decoding, max_new=GRPO["answer"]))
    prompter, method = Prompter(task, words, "decoder", 256), Method(group=GRPO["group"])
    asked = [
        Example(str(at), {"messages": ({"role": "user", "content": text(at, GRPO["prompt"])},)}) for at in range(64)
    ]
    rollouts = Rollouts(
        Actor(model, prompter, method, None, precision="bf16"), asked,
        lambda answers: [float(answer.text.count("w7")) for answer in answers],
        prompts=GRPO["prompts"], count=GRPO["group"], minibatch=GRPO["prompts"] * GRPO["group"], seed=0,
    )  # fmt: skip
    marks = list[float]()
    fit(
        model, rollouts, method.loss, make(model, lr=1e-6, decay=0.0), steps=steps + SKIPPED, precision="bf16",
        weigh=method.weigh, after_step=lambda step, said: marks.append(time.perf_counter()),
    )  # fmt: skip
    return rate(marks, GRPO["prompts"] * GRPO["group"])


# -- TRL -----------------------------------------------------------------------------------------


def peer(way: str, steps: int, recompute: bool) -> float:
    import torch
    from datasets import Dataset
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
    from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

    class Clock(TrainerCallback):  # type: ignore[misc]
        marks: list[float] = []  # noqa: RUF012

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.marks.append(time.perf_counter())

    torch.manual_seed(0)
    words = PreTrainedTokenizerFast(
        tokenizer_object=tokenizers_of(), pad_token="<pad>", eos_token="<end>", unk_token="<unk>", bos_token="<bos>"
    )
    with tempfile.TemporaryDirectory() as where:
        LlamaForCausalLM(hf_config("small")).save_pretrained(where)  # the reference is read from where the policy is
        model = LlamaForCausalLM.from_pretrained(where)
        common = {
            "output_dir": where, "max_steps": steps + SKIPPED, "use_cpu": True, "bf16": True, "report_to": "none",
            "gradient_checkpointing": recompute, "save_strategy": "no", "logging_steps": 1000, "disable_tqdm": True,
        }  # fmt: skip
        if way == "dpo":
            rows = [
                {"prompt": text(at, DPO["prompt"]), "chosen": " " + text(3 * at, DPO["answer"] - 1),
                 "rejected": " " + text(5 * at + 1, DPO["answer"] - 1)}
                for at in range(DPO["pairs"] * (steps + SKIPPED))
            ]  # fmt: skip
            how = DPOConfig(per_device_train_batch_size=DPO["pairs"], **common)
            trainer: Any = DPOTrainer(
                model=model,
                args=how,
                train_dataset=Dataset.from_list(rows),
                processing_class=words,
                callbacks=[Clock()],
            )
        else:
            asked = Dataset.from_list([{"prompt": text(at, GRPO["prompt"])} for at in range(64)])
            count = GRPO["prompts"] * GRPO["group"]
            how = GRPOConfig(
                per_device_train_batch_size=count, num_generations=GRPO["group"], max_completion_length=GRPO["answer"],
                **common,
            )  # fmt: skip
            trainer = GRPOTrainer(
                model=model, args=how, train_dataset=asked, processing_class=words, callbacks=[Clock()],
                reward_funcs=lambda completions, **more: [float(said.count("w7")) for said in completions],
            )  # fmt: skip
        trainer.train()
    return rate(Clock.marks, DPO["pairs"] if way == "dpo" else GRPO["prompts"] * GRPO["group"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--way", choices=("dpo", "grpo"), action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--child", help="measure one of ours, peer, peer+plain, in this process")
    o = parser.parse_args()
    ways = o.way or ["dpo", "grpo"]
    if o.child:
        print(json.dumps(ours(ways[0], o.steps) if o.child == "ours" else peer(ways[0], o.steps, o.child == "peer")))
        return
    for way in ways:
        rates: dict[str, list[float]] = {"peer": [], "peer+alloc": [], "peer+alloc+plain": [], "ours": []}
        for _ in range(o.rounds):
            for who, found in rates.items():
                child = "ours" if who == "ours" else "peer+plain" if "plain" in who else "peer"
                said = ["--child", child, "--way", way, "--steps", o.steps]
                found.append(measured(__file__, said, ALLOCATOR if "alloc" in who else None))  # type: ignore[arg-type]
        mine = statistics.median(rates["ours"])
        unit = "pairs/s" if way == "dpo" else "completions/s"
        for who, found in rates.items():
            middle = statistics.median(found)
            print(f"{way:5} {who:17} {middle:7.1f} {unit}   ours / this = {mine / middle:.2f}")


if __name__ == "__main__":
    main()
