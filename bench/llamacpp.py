"""Decoding, ours against llama.cpp: tokens/s of one text, of eight, and mixed, alternating, medians.

    pip install llama-cpp-python gguf    # llama.cpp is built for this machine
    python bench/llamacpp.py [--shape smol] [--rounds 3] [--requests 64]

Random weights of one shape (SmolLM-135M's), bfloat16 on both sides; and weights of eight bits, our `int8` against its
q8_0. A text is read (128 tokens) and continued greedily (128 more), alone and beside seven others. `mixed` are requests
with prompts of 32 to 512 tokens and answers of 16 to 256, seed 0: llama.cpp has 8 slots, as its server would by
`--parallel 8`, each filled again as soon as its text is done, prompts in parts of 512 tokens beside the texts that are
being written; what its server adds over HTTP is left out. Ours has 8 texts under way too, and then 32.

Each measurement is a process of its own with two threads; the models lie in memory when the clock starts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from child import measured
from decode import clock, our_model
from mixed import requests

PROMPT, NEW = 128, 128
KEPT: list[Any] = []  # what llama.cpp calls must not be collected
SHAPES = {
    "smol": {"vocab": 49152, "width": 576, "layers": 30, "heads": 9, "kv": 3, "ffn": 1536},
    "tiny": {"vocab": 500, "width": 64, "layers": 2, "heads": 2, "kv": 1, "ffn": 128},
}

Writing = Callable[[Sequence[tuple[list[int], int]], int], int]  # requests, and how many are under way at once


def texts(count: int) -> list[tuple[list[int], int]]:
    return [([3 + (7 * row + at) % 397 for at in range(PROMPT)], NEW) for row in range(count)]


def ours(shape: str, kind: str) -> Writing:
    from modelwright.infer.engine import Engine, Request
    from modelwright.infer.sample import Sampling

    ready, _ = our_model(shape, kind == "int8")

    def write(asked: Sequence[tuple[list[int], int]], slots: int) -> int:
        engine = Engine(ready, longest=max(len(prompt) + new for prompt, new in asked), texts=slots)
        return sum(map(len, engine.run(Request(prompt, Sampling(new, 0.0)) for prompt, new in asked)))

    return write


# -- llama.cpp -----------------------------------------------------------------------------------


def gguf_of(shape: str, kind: str, path: Path) -> None:
    """A model directory's worth of random weights, in one file."""
    import gguf
    import numpy as np

    s, head = SHAPES[shape], 64 if shape == "smol" else 32
    out = gguf.GGUFWriter(path, "llama")
    for name, value in (
        ("block_count", s["layers"]), ("context_length", 2048), ("embedding_length", s["width"]),
        ("feed_forward_length", s["ffn"]), ("head_count", s["heads"]), ("head_count_kv", s["kv"]),
        ("layer_norm_rms_eps", 1e-5), ("rope_dimension_count", head), ("rope_freq_base", 10000.0),
        ("vocab_size", s["vocab"]),
    ):  # fmt: skip
        getattr(out, f"add_{name}")(value)
    out.add_tokenizer_model("no_vocab")
    draw = np.random.default_rng(0)
    form = gguf.GGMLQuantizationType.BF16 if kind == "bf16" else gguf.GGMLQuantizationType.Q8_0

    def add(name: str, *size: int) -> None:
        if len(size) == 1:
            return out.add_tensor(name, np.ones(size, np.float32))
        data = draw.standard_normal(size, np.float32) * 0.02
        out.add_tensor(name, gguf.quants.quantize(data, form), raw_dtype=form)

    add("token_embd.weight", s["vocab"], s["width"])
    add("output_norm.weight", s["width"])
    for i in range(s["layers"]):
        for norm in ("attn_norm", "ffn_norm"):
            add(f"blk.{i}.{norm}.weight", s["width"])
        for part, rows, columns in (
            ("attn_q", s["heads"] * head, s["width"]), ("attn_k", s["kv"] * head, s["width"]),
            ("attn_v", s["kv"] * head, s["width"]), ("attn_output", s["width"], s["heads"] * head),
            ("ffn_gate", s["ffn"], s["width"]), ("ffn_up", s["ffn"], s["width"]), ("ffn_down", s["width"], s["ffn"]),
        ):  # fmt: skip
            add(f"blk.{i}.{part}.weight", rows, columns)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def theirs(shape: str, kind: str) -> Writing:
    import llama_cpp as api
    import numpy as np

    with tempfile.TemporaryDirectory() as directory:
        gguf_of(shape, kind, path := Path(directory) / "model.gguf")
        KEPT.append(api.llama_log_callback(lambda level, text, data: None))
        api.llama_log_set(KEPT[0], None)
        api.llama_backend_init()
        made = api.llama_model_default_params()
        made.use_mmap = False
        model = api.llama_model_load_from_file(str(path).encode(), made)
    vocab = SHAPES[shape]["vocab"]

    def write(asked: Sequence[tuple[list[int], int]], slots: int) -> int:
        """Texts join where a slot is free; each decode is the newest token of each, and a part of the prompts."""
        how = api.llama_context_default_params()
        how.n_ctx, how.n_batch, how.n_ubatch, how.n_seq_max = slots * 1024, 512, 512, slots
        how.n_threads = how.n_threads_batch = 2
        context = api.llama_init_from_model(model, how)
        batch, waiting = api.llama_batch_init(512, 0, 1), list(asked)
        running: dict[int, list[Any]] = {}  # slot -> tokens, how many are computed, how many are to come
        written = 0
        while waiting or running:
            for slot in range(slots):
                if slot not in running and waiting:
                    prompt, new = waiting.pop(0)
                    api.llama_memory_seq_rm(api.llama_get_memory(context), slot, -1, -1)
                    running[slot] = [list(prompt), 0, new]
            batch.n_tokens, ends = 0, {}
            for slot, (tokens, done, _) in sorted(running.items(), key=lambda r: len(r[1][0]) - r[1][1]):
                for at in range(done, min(len(tokens), done + 512 - batch.n_tokens)):
                    i = batch.n_tokens
                    batch.token[i], batch.pos[i], batch.n_seq_id[i] = tokens[at], at, 1
                    batch.seq_id[i][0], batch.logits[i] = slot, at == len(tokens) - 1
                    batch.n_tokens, running[slot][1] = i + 1, at + 1
                    if at == len(tokens) - 1:
                        ends[slot] = i
            if api.llama_decode(context, batch):
                sys.exit("llama.cpp could not decode")
            for slot, i in ends.items():
                best = int(np.ctypeslib.as_array(api.llama_get_logits_ith(context, i), (vocab,)).argmax())
                running[slot][0].append(best)
                running[slot][2] -= 1
                written += 1
                if not running[slot][2]:
                    del running[slot]
        api.llama_batch_free(batch)
        api.llama_free(context)
        return written

    return write


# -- the comparison ------------------------------------------------------------------------------


def child(who: str, o: argparse.Namespace) -> dict[str, float]:
    side, kind, slots = who.split()
    write = (ours if side == "ours" else theirs)(o.shape, kind)
    write([([3, 4, 5], 2)], 1)
    found = {}
    work = {"one": (texts(1), 1), "eight": (texts(8), 8), "mixed": (requests(o.requests), int(slots))}
    for name, (asked, count) in work.items():
        if name != "mixed" and slots != "8":
            continue
        seconds = clock(lambda asked=asked, count=count: write(asked, count))  # type: ignore[misc]
        found[name] = sum(new for _, new in asked) / seconds
    return found


def measure(who: str, o: argparse.Namespace) -> dict[str, float]:
    return measured(__file__, ["--child", who, f"--shape={o.shape}", f"--requests={o.requests}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="smol", choices=list(SHAPES))
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.child:
        return print(json.dumps(child(o.child, o)))
    names = ("ours bf16 8", "llama.cpp bf16 8", "ours int8 8", "llama.cpp q8_0 8", "ours bf16 32", "ours int8 32")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(o.rounds):
        for name in names:
            found[name].append(measure(name, o))
            time.sleep(1)
    for name in names:
        median = {key: statistics.median(run[key] for run in found[name]) for key in found[name][0]}
        print(f"{name:<18} " + "   ".join(f"{key} {value:7.1f} tokens/s" for key, value in median.items()))


if __name__ == "__main__":
    main()
