"""Tiny random models of another library: every family that a checkpoint can be of, in the variants that matter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers

VOCAB = 61
GPT2: dict[str, Any] = {
    "vocab_size": VOCAB,
    "n_embd": 24,
    "n_layer": 2,
    "n_head": 3,
    "n_positions": 96,
    "bos_token_id": 1,
    "eos_token_id": None,
}
LLAMA: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "intermediate_size": 40,
    "max_position_embeddings": 96,
    "eos_token_id": None,
}
MISTRAL: dict[str, Any] = LLAMA | {"num_key_value_heads": 2, "sliding_window": 5}
QWEN2: dict[str, Any] = LLAMA | {"num_key_value_heads": 2}
QWEN3: dict[str, Any] = QWEN2 | {"head_dim": 8}
GEMMA3_TEXT: dict[str, Any] = QWEN3 | {
    "num_hidden_layers": 3,
    "sliding_window": 5,
    "sliding_window_pattern": 3,
    "query_pre_attn_scalar": 10,
    "pad_token_id": None,
}
BLOOM: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "n_layer": 2,
    "n_head": 6,
    "eos_token_id": None,
}
BERT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 96,
}
ROBERTA: dict[str, Any] = BERT | {"type_vocab_size": 1, "max_position_embeddings": 98, "pad_token_id": 1}
DISTILBERT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "dim": 24,
    "n_layers": 2,
    "n_heads": 3,
    "hidden_dim": 40,
    "max_position_embeddings": 96,
}
T5: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 24,
    "d_kv": 6,
    "d_ff": 40,
    "num_layers": 2,
    "num_heads": 3,
    "decoder_start_token_id": 0,
    "eos_token_id": None,
}
BART: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 96,
    "decoder_start_token_id": 0,
    "eos_token_id": None,
    "forced_eos_token_id": None,
}
MIXTRAL: dict[str, Any] = LLAMA | {"num_key_value_heads": 2, "num_local_experts": 4}
SWITCH_TRANSFORMERS: dict[str, Any] = T5 | {
    "num_decoder_layers": 3,
    "num_experts": 4,
    "num_sparse_encoder_layers": 1,
    "num_sparse_decoder_layers": 1,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def gpt2(kind: str = "GPT2LMHeadModel", **changes: Any) -> Any:
    return getattr(transformers, kind)(transformers.GPT2Config(**GPT2 | changes))


def llama(**changes: Any) -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA | changes))


def mistral(**changes: Any) -> Any:
    return transformers.MistralForCausalLM(transformers.MistralConfig(**MISTRAL | changes))


def qwen2(**changes: Any) -> Any:
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**QWEN2 | changes))


def qwen3(**changes: Any) -> Any:
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**QWEN3 | changes))


def gemma3(**changes: Any) -> Any:
    return transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**GEMMA3_TEXT | changes))


def bloom(kind: str = "BloomForCausalLM", **changes: Any) -> Any:
    return getattr(transformers, kind)(transformers.BloomConfig(**BLOOM | changes))


def bert(kind: str = "BertForMaskedLM", **changes: Any) -> Any:
    return getattr(transformers, kind)(transformers.BertConfig(**BERT | changes))


def roberta(kind: str = "RobertaForMaskedLM", **changes: Any) -> Any:
    return getattr(transformers, kind)(transformers.RobertaConfig(**ROBERTA | changes))


def distilbert(kind: str = "DistilBertForMaskedLM", **changes: Any) -> Any:
    return getattr(transformers, kind)(transformers.DistilBertConfig(**DISTILBERT | changes))


def t5(own_head: bool = False, **changes: Any) -> Any:
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**T5 | changes))
    if own_head:  # as flan-t5 has; transformers 5 makes one only while it reads a file that holds one
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    return model


def bart(kind: str = "BartForConditionalGeneration", **changes: Any) -> Any:
    return getattr(transformers, kind)(transformers.BartConfig(**BART | changes))


def marian(**changes: Any) -> Any:
    model = transformers.MarianMTModel(transformers.MarianConfig(**BART | {"pad_token_id": 0} | changes))
    generator = torch.Generator().manual_seed(5)
    model.final_logits_bias.copy_(0.5 * torch.randn(1, VOCAB, generator=generator))
    return model


def mixtral(**changes: Any) -> Any:
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**MIXTRAL | changes))


def switch(**changes: Any) -> Any:
    config = transformers.SwitchTransformersConfig(**SWITCH_TRANSFORMERS | changes)
    return transformers.SwitchTransformersForConditionalGeneration(config)


MODELS: dict[str, Callable[[], Any]] = {
    "gpt2": gpt2,
    "gpt2-untied": lambda: gpt2(tie_word_embeddings=False),
    "gpt2-bare-names": lambda: gpt2("GPT2Model"),
    "gpt2-gelu-inner": lambda: gpt2(n_inner=40, activation_function="gelu", layer_norm_epsilon=1e-3),
    "gpt2-unscaled-scores": lambda: gpt2(scale_attn_weights=False),
    "llama": llama,
    "llama-grouped-tied": lambda: llama(num_key_value_heads=2, tie_word_embeddings=True, rms_norm_eps=1e-3),
    "llama-one-key-head-biases": lambda: llama(num_key_value_heads=1, attention_bias=True, mlp_bias=True),
    "llama-wide-heads-gelu": lambda: llama(head_dim=8, hidden_act="gelu_pytorch_tanh", rope_theta=500.0),
    "llama3-scaled-rope": lambda: llama(num_key_value_heads=3, rope_theta=5e5, rope_scaling=dict(LLAMA3)),
    "llama-linear-rope": lambda: llama(rope_scaling={"rope_type": "linear", "factor": 4.0}),
    "mistral": mistral,
    "mistral-no-window": lambda: mistral(sliding_window=None, tie_word_embeddings=True),
    "qwen2": qwen2,
    "qwen2-upper-window": lambda: qwen2(use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "qwen3": qwen3,
    "qwen3-biases-window": lambda: qwen3(
        attention_bias=True,
        use_sliding_window=True,
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention"],
        tie_word_embeddings=True,
    ),
    "gemma3_text": gemma3,
    "gemma3_text-stretched-biases": lambda: gemma3(
        rope_scaling={"rope_type": "linear", "factor": 8.0},
        attention_bias=True,
        query_pre_attn_scalar=8,
        sliding_window_pattern=2,
        tie_word_embeddings=False,
    ),
    "bloom": bloom,
    "bloom-untied-8-heads": lambda: bloom(n_head=8, tie_word_embeddings=False, layer_norm_epsilon=1e-3),
    "bloom-bare-names": lambda: bloom("BloomModel"),
    "bert": bert,
    "bert-untied-relu": lambda: bert(tie_word_embeddings=False, hidden_act="relu", type_vocab_size=3),
    "bert-pretraining": lambda: bert("BertForPreTraining", hidden_act="gelu_new", layer_norm_eps=1e-3),
    "bert-model": lambda: bert("BertModel"),
    "roberta": lambda: roberta(layer_norm_eps=1e-5),
    "roberta-untied-types": lambda: roberta(tie_word_embeddings=False, type_vocab_size=2, pad_token_id=0),
    "roberta-model": lambda: roberta("RobertaModel", hidden_act="relu"),
    "xlm-roberta": lambda: transformers.XLMRobertaForMaskedLM(transformers.XLMRobertaConfig(**ROBERTA)),
    "distilbert": distilbert,
    "distilbert-untied-relu": lambda: distilbert(tie_word_embeddings=False, activation="relu"),
    "distilbert-sinusoidal": lambda: distilbert(sinusoidal_pos_embds=True),
    "distilbert-model": lambda: distilbert("DistilBertModel"),
    "t5": t5,
    "t5-v1.1": lambda: t5(own_head=True, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "t5-v1.1-tied": lambda: t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "t5-uneven": lambda: t5(
        num_decoder_layers=3, feed_forward_proj="gated-silu", d_kv=5, relative_attention_num_buckets=8
    ),
    "bart": bart,
    "bart-uneven-scaled": lambda: bart(
        decoder_layers=3,
        decoder_attention_heads=4,
        decoder_ffn_dim=32,
        scale_embedding=True,
        activation_function="relu",
    ),
    "bart-model": lambda: bart("BartModel"),
    "marian": lambda: marian(scale_embedding=True, activation_function="relu"),
    "marian-uneven": lambda: marian(decoder_layers=3, decoder_ffn_dim=32, activation_function="swish"),
    "mixtral": mixtral,
    "mixtral-top1-tied-gelu": lambda: mixtral(
        num_experts_per_tok=1, tie_word_embeddings=True, hidden_act="gelu", rope_theta=500.0
    ),
    "switch": switch,
    "switch-full": lambda: switch(expert_capacity=3),  # so that experts turn tokens away
    "switch-everywhere-gelu": lambda: switch(
        num_sparse_encoder_layers=2, num_sparse_decoder_layers=3, dense_act_fn="gelu_new"
    ),
}


def make(name: str) -> Any:
    """A model of `MODELS` in evaluation mode, its every weight drawn from a seed.

    Norms and biases too, and large enough that each of them moves the logits: a fresh model would hide mistakes.
    """
    generator = torch.Generator().manual_seed(sorted(MODELS).index(name))
    model = MODELS[name]()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if not p.requires_grad:  # Marian's sines
                continue
            noise = torch.randn(p.shape, generator=generator)
            if p.dim() == 1:
                from_zero = key.endswith("bias") or name.startswith("gemma")  # whose norms keep their distance from 1
                p.copy_((0.0 if from_zero else 1.0) + 0.2 * noise)
            else:
                p.copy_(noise * p.size(-1 if p.dim() == 3 else 1) ** -0.5)
            if key.endswith("Attention.q.weight"):
                p.mul_(0.4)  # T5 does not scale its scores, and draws its queries smaller instead
    return model.eval()


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    """None of them 0 or 1, with which the tiny models pad: the other library's RoBERTa does not count these."""
    return torch.randint(2, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model: Any, x: torch.Tensor, source: torch.Tensor | None = None) -> torch.Tensor:
    """What the other library says of tokens x (B, T), given a source (B, S) where it reads one: (B, T, V).

    A model without a head says (B, T, C), its hidden states.
    """
    out = model(x) if source is None else model(input_ids=source, decoder_input_ids=x)
    found = next(v for k, v in out.items() if k in ("logits", "prediction_logits", "last_hidden_state"))
    return found
