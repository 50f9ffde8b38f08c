"""The shapes of published models, by name: what a paper's table or a published config.json says, as a `Config`.

What a model learns, in all; "exact" is the count of the published weights, else it is the figure of the paper, rounded.

| presets                        | parameters                                                        |               |
|--------------------------------|-------------------------------------------------------------------|---------------|
| transformer-base, -big         | 63.1M, 214M (published: 65M, 213M)                                |               |
| gpt2, -medium, -large, -xl     | 124,439,808; 354,823,168; 774,030,080; 1,557,611,200              | exact         |
| gpt3-small, -large, -2.7b      | 125M, 760M, 2.65B (published: 125M, 760M, 2.7B)                   |               |
| gpt3-6.7b, -175b               | 6.66B, 174.6B (published: 6.7B, 175.0B)                           |               |
| bert-base, -large              | 109,514,298; 335,174,458, without pooler (published: 110M, 340M)  | exact         |
| t5-small, -base, -large        | 60,506,624; 222,903,552; 737,668,096                              | exact         |
| t5-3b, -11b                    | 2,851,598,336; 11,307,321,344                                     | exact         |
| jurassic-1-large, -jumbo       | 7.5B, 178B                                                        |               |
| chinchilla-70b                 | 64.7B: 5.4B are of relative positions that are not built          |               |
| palm-8b, -62b, -540b           | 8.63B, 62.50B, 540.35B                                            |               |
| bloom-560m, -7b1, bloom        | 559,214,592; 7,069,016,064; 176,247,271,424                       | exact         |
| bloomberggpt-50b               | 50.6B                                                             |               |
| llama-7b, -13b, -65b           | 6,738,415,616; 13,015,864,320; 65,285,660,672                     | exact         |
| llama2-70b, llama3-8b, -70b    | 68,976,648,192; 8,030,261,248; 70,553,706,496                     | exact         |
| mistral-7b                     | 7,241,732,096                                                     | exact         |
| qwen2-0.5b, -7b                | 494,032,768; 7,615,616,512                                        | exact         |
| qwen3-0.6b, -8b                | 596,049,920; 8,190,735,360                                        | exact         |
| gemma3-1b                      | 999,885,952                                                       | exact         |
"""

from dataclasses import dataclass, replace
from typing import Any

from modelwright.model.config import Config, Rope
from modelwright.model.families import FAMILIES


@dataclass(frozen=True)
class Preset:
    """A shape, where it is from, and how many parameters were published: all of them, where `exact`."""

    config: Config
    source: str
    published: float
    exact: bool = False


# -- without a config.json: from the papers -----------------------------------------------------------------


def _vaswani(width: int, heads: int, dropout: float) -> Config:
    tower = Config(
        vocab=37_000,
        width=width,
        layers=6,
        heads=heads,
        kv_heads=heads,
        head=64,
        ffn=4 * width,
        context=512,
        pre_norm=False,
        norm="layer",
        final_norm=False,
        act="relu",
        gated=False,
        ffn_bias=True,
        sinusoidal=True,
        embed_scale=width**0.5,
        dropout=dropout,
    )
    return replace(tower, encoder=replace(tower, causal=False))


def _gpt(layers: int, width: int, heads: int, vocab: int = 50_257, **more: Any) -> Config:
    """GPT-2's block at another size: learned positions unless `more` says otherwise, LayerNorm before, biases."""
    sizes: dict[str, Any] = {"kv_heads": heads, "head": width // heads, "ffn": 4 * width, "context": 2048}
    parts: dict[str, Any] = {
        "norm": "layer",
        "act": "gelu_tanh",
        "gated": False,
        "attn_bias": True,
        "ffn_bias": True,
        "learned": True,
    }
    return Config(vocab=vocab, width=width, layers=layers, heads=heads, **(sizes | parts | more))


def _palm(layers: int, width: int, heads: int) -> Config:
    """Parallel parts, one key for all queries, no biases, one table for both ends; section 2 of the paper."""
    return Config(
        vocab=256_000,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=1,
        head=256,
        ffn=4 * width,
        context=2048,
        parallel=True,
        norm="layer",
        norm_bias=False,
        rope=Rope(),
        scale_logits=width**-0.5,
    )


VASWANI, GPT3 = "Vaswani et al. 2017, table 3; vocabulary of section 5.1", "Brown et al. 2020, table 2.1, all dense"
J1, PALM = "Lieber et al. 2021, table 1", "Chowdhery et al. 2022, table 1"
CHINCHILLA = (
    "Hoffmann et al. 2022, table 4. The paper's relative positions (Dai et al. 2019) are not built: this shape has "
    "rotary ones, and lacks the 5.4e9 parameters of a projection in each layer"
)
BLOOMBERG = "Wu et al. 2023, table 4: BLOOM's block"

# -- with one: as it is published ------------------------------------------------------------------------------


def _gpt2(layers: int, width: int, heads: int) -> Config:
    return _of("gpt2", vocab_size=50_257, n_positions=1024, n_layer=layers, n_embd=width, n_head=heads)


def _bert(layers: int, width: int, heads: int) -> Config:
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}
    return _of("bert", vocab_size=30_522, intermediate_size=4 * width, max_position_embeddings=512, **sizes)


def _t5(layers: int, width: int, heads: int, ffn: int, head: int) -> Config:
    sizes = {"num_layers": layers, "d_model": width, "num_heads": heads, "d_ff": ffn, "d_kv": head}
    return _of("t5", vocab_size=32_128, n_positions=512, **sizes)


def _bloom(layers: int, width: int, heads: int) -> Config:
    return _of("bloom", vocab_size=250_880, seq_length=2048, n_layer=layers, hidden_size=width, n_head=heads)


def _llama(kind: str, layers: int, width: int, heads: int, kv_heads: int, ffn: int, **more: Any) -> Config:
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads, "rms_norm_eps": 1e-6}
    sizes |= {"num_key_value_heads": kv_heads, "intermediate_size": ffn, "vocab_size": 32_000}
    return _of(kind, **(sizes | {"max_position_embeddings": 2048} | more))


def _of(kind: str, **config: Any) -> Config:
    return FAMILIES[kind].read({"model_type": kind, **config})


LLAMA3: dict[str, Any] = {
    "vocab_size": 128_256,
    "max_position_embeddings": 8192,
    "rope_theta": 5e5,
    "rms_norm_eps": 1e-5,
}
QWEN: dict[str, Any] = {"vocab_size": 151_936, "rope_theta": 1e6}
GEMMA: dict[str, Any] = {"vocab_size": 262_144, "max_position_embeddings": 32_768, "sliding_window": 512}
LLAMA2: dict[str, Any] = {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
MISTRAL: dict[str, Any] = {"max_position_embeddings": 32_768, "sliding_window": 4096, "rms_norm_eps": 1e-5}
RADFORD, DEVLIN, RAFFEL = (
    "Radford et al. 2019, table 2",
    "Devlin et al. 2019, section 3",
    "Raffel et al. 2020, section 3.7",
)
SCAO, TOUVRON, GRATTAFIORI = (
    "Le Scao et al. 2022, table 3",
    "Touvron et al. 2023, table 2",
    "Dubey et al. 2024, table 3",
)
TOUVRON2, TEAM = "its config.json; Touvron et al. 2023b", "its config.json; Gemma Team 2025"
YANG2, YANG3 = "Yang et al. 2024, table 1", "Yang et al. 2025, table 1"

PRESETS: dict[str, Preset] = {
    "transformer-base": Preset(_vaswani(512, 8, 0.1), VASWANI, 65e6),
    "transformer-big": Preset(_vaswani(1024, 16, 0.3), VASWANI, 213e6),
    "gpt2": Preset(_gpt2(12, 768, 12), RADFORD, 124_439_808, exact=True),
    "gpt2-medium": Preset(_gpt2(24, 1024, 16), RADFORD, 354_823_168, exact=True),
    "gpt2-large": Preset(_gpt2(36, 1280, 20), RADFORD, 774_030_080, exact=True),
    "gpt2-xl": Preset(_gpt2(48, 1600, 25), RADFORD, 1_557_611_200, exact=True),
    "gpt3-small": Preset(_gpt(12, 768, 12), GPT3, 125e6),
    "gpt3-large": Preset(_gpt(24, 1536, 16), GPT3, 760e6),
    "gpt3-2.7b": Preset(_gpt(32, 2560, 32), GPT3, 2.7e9),
    "gpt3-6.7b": Preset(_gpt(32, 4096, 32), GPT3, 6.7e9),
    "gpt3-175b": Preset(_gpt(96, 12_288, 96), GPT3, 175e9),
    "bert-base": Preset(_bert(12, 768, 12), DEVLIN, 109_514_298, exact=True),
    "bert-large": Preset(_bert(24, 1024, 16), DEVLIN, 335_174_458, exact=True),
    "t5-small": Preset(_t5(6, 512, 8, 2048, 64), RAFFEL, 60_506_624, exact=True),
    "t5-base": Preset(_t5(12, 768, 12, 3072, 64), RAFFEL, 222_903_552, exact=True),
    "t5-large": Preset(_t5(24, 1024, 16, 4096, 64), RAFFEL, 737_668_096, exact=True),
    "t5-3b": Preset(_t5(24, 1024, 32, 16_384, 128), RAFFEL, 2_851_598_336, exact=True),
    "t5-11b": Preset(_t5(24, 1024, 128, 65_536, 128), RAFFEL, 11_307_321_344, exact=True),
    "jurassic-1-large": Preset(_gpt(32, 4096, 32, 256_000), J1, 7.5e9),
    "jurassic-1-jumbo": Preset(_gpt(76, 13_824, 96, 256_000), J1, 178e9),
    "chinchilla-70b": Preset(
        _gpt(80, 8192, 64, 32_000, norm="rms", learned=False, rope=Rope(), attn_bias=False, ffn_bias=False),
        CHINCHILLA, 70e9,
    ),
    "palm-8b": Preset(_palm(32, 4096, 16), PALM, 8.63e9),
    "palm-62b": Preset(_palm(64, 8192, 32), PALM, 62.50e9),
    "palm-540b": Preset(_palm(118, 18_432, 48), PALM, 540.35e9),
    "bloom-560m": Preset(_bloom(24, 1024, 16), SCAO, 559_214_592, exact=True),
    "bloom-7b1": Preset(_bloom(30, 4096, 32), SCAO, 7_069_016_064, exact=True),
    "bloom": Preset(_bloom(70, 14_336, 112), SCAO, 176_247_271_424, exact=True),
    "bloomberggpt-50b": Preset(
        _gpt(70, 7680, 40, 131_072, learned=False, alibi=True, embed_norm=True), BLOOMBERG, 50.6e9
    ),
    "llama-7b": Preset(_llama("llama", 32, 4096, 32, 32, 11_008), TOUVRON, 6_738_415_616, exact=True),
    "llama-13b": Preset(_llama("llama", 40, 5120, 40, 40, 13_824), TOUVRON, 13_015_864_320, exact=True),
    "llama-65b": Preset(_llama("llama", 80, 8192, 64, 64, 22_016), TOUVRON, 65_285_660_672, exact=True),
    "llama2-70b": Preset(
        _llama("llama", 80, 8192, 64, 8, 28_672, **LLAMA2), TOUVRON2, 68_976_648_192, exact=True
    ),
    "llama3-8b": Preset(_llama("llama", 32, 4096, 32, 8, 14_336, **LLAMA3), GRATTAFIORI, 8_030_261_248, exact=True),
    "llama3-70b": Preset(_llama("llama", 80, 8192, 64, 8, 28_672, **LLAMA3), GRATTAFIORI, 70_553_706_496, exact=True),
    "mistral-7b": Preset(
        _llama("mistral", 32, 4096, 32, 8, 14_336, **MISTRAL), "Jiang et al. 2023, table 1", 7_241_732_096, exact=True
    ),
    "qwen2-0.5b": Preset(
        _llama("qwen2", 24, 896, 14, 2, 4864, **QWEN, max_position_embeddings=131_072, tie_word_embeddings=True),
        YANG2, 494_032_768, exact=True,
    ),
    "qwen2-7b": Preset(
        _llama("qwen2", 28, 3584, 28, 4, 18_944, **QWEN | {"vocab_size": 152_064, "max_position_embeddings": 131_072}),
        YANG2, 7_615_616_512, exact=True,
    ),
    "qwen3-0.6b": Preset(
        _llama("qwen3", 28, 1024, 16, 8, 3072, **QWEN, max_position_embeddings=40_960, tie_word_embeddings=True),
        YANG3, 596_049_920, exact=True,
    ),
    "qwen3-8b": Preset(
        _llama("qwen3", 36, 4096, 32, 8, 12_288, **QWEN, max_position_embeddings=40_960),
        YANG3, 8_190_735_360, exact=True,
    ),
    "gemma3-1b": Preset(
        _llama("gemma3_text", 26, 1152, 4, 1, 6912, **GEMMA), TEAM, 999_885_952, exact=True
    ),
}  # fmt: skip
