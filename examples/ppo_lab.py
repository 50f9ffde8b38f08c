"""PPO by hand, in the ten lines of `learn`: ask, judge, step. A toy that runs in seconds on a laptop:

    python examples/ppo_lab.py

A tiny random model answers with random words. It is rewarded for every `yes` among at most eight of them, so at best an
answer is worth 1, and learns to say nothing else. In place of the toy stands any model of `modelwright.load`, a task's
`Prompter`, and a judge: (query, response) -> reward.
"""

import tokenizers
import torch
from tokenizers import models, pre_tokenizers

from modelwright.data.examples import Example
from modelwright.data.kind import Data, Decoding, Task
from modelwright.data.prompt import Prompter
from modelwright.data.tokenizer import Tokenizer
from modelwright.model.transformer import Config, Rope, Transformer, initialise
from modelwright.train.policy import PPO, Trainer

WORDS = (
    "yes", "no", "perhaps", "never", "always", "today", "tomorrow", "maybe", "surely", "hardly", "often", "seldom",
    "soon",
)  # fmt: skip
LONGEST = 8


def judge(query: str, response: str) -> float:
    return response.split().count("yes") / LONGEST


def learn(trainer: Trainer, prompts: list[Example], steps: int) -> list[float]:
    scores = []
    for step in range(steps):
        answers = trainer.write(prompts)
        rewards = [judge(answer.prompt.text, answer.text) for answer in answers]
        told = trainer.step(answers, rewards)
        scores.append(told["score"])
        print(f"step {step:2}  reward {told['score']:.3f}  KL {told['kl']:5.2f}  entropy {told['entropy']:.2f}"
              f"  length {told['length']:.1f}  {answers[0].text}")  # fmt: skip
    return scores


def toy(seed: int) -> tuple[Transformer, Prompter]:
    """A model of a few thousand random weights, and the way it is asked."""
    names = {token: number for number, token in enumerate(["<pad>", "<end>", "<unk>", *WORDS])}
    inner = tokenizers.Tokenizer(models.WordLevel(names, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(["<pad>", "<end>", "<unk>"])
    tokenizer = Tokenizer(inner, {"pad": "<pad>", "eos": "<end>", "unk": "<unk>"})
    task = Task(
        "say yes", "generate", Data("none"), {}, ("{{ source }}",), " {{ target }}", decoding=Decoding(LONGEST)
    )  # fmt: skip
    cfg = Config(
        vocab=len(names), width=32, layers=1, heads=4, kv_heads=2, head=8, ffn=64, context=32, rope=Rope(), tied=False
    )  # fmt: skip
    model = initialise(Transformer(cfg), torch.Generator().manual_seed(seed))
    return model, Prompter(task, tokenizer, "decoder", cfg.context)


def main(steps: int = 20, seed: int = 0) -> list[float]:
    model, prompter = toy(seed)
    trainer = Trainer(model, prompter, PPO(beta=0.001), rate=5e-3, epochs=2, minibatch=64, seed=seed)
    prompts = [Example(f"prompt {n}", {"source": f"{WORDS[n % 13]} {WORDS[n % 7]}"}) for n in range(64)]
    return learn(trainer, prompts, steps)


if __name__ == "__main__":
    main()
