"""Prompts: what a model reads and what it is to answer, by hand, against another library, and under any budget."""

import json
import os
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from modelwright.data.examples import Example
from modelwright.data.prompt import Prompter, choose_shots
from modelwright.data.task import Data, Decoding, Task
from modelwright.data.tokenizer import Tokenizer, train
from modelwright.data.vocabularies import around

TEXTS = [
    f"Customer: my {thing} number {n} is {state}.\n\nSummary: the {thing} is {state}. Label: good, bad. Thanks; why?"
    for n, thing in enumerate(("kettle", "lamp", "bicycle", "keyboard") * 5)
    for state in ("broken", "late", "fine")
]
TASK = Task(
    name="talks", kind="summarise", data=Data("x"), columns={"source": "talk", "target": "sum"},
    prompts=("{{ source }}\n\nSummary:", "Say it shortly: {{ talk }}"), completion=" {{ target }}",
    decoding=Decoding(max_new=8),
)  # fmt: skip
LABELS = Task(
    name="tone", kind="classify", data=Data("x"), columns={"text": "text", "label": "label"},
    prompts=("{{ text }}\nLabel:",), completion=" {{ label }}", labels=("bad", "good"), decoding=Decoding(max_new=4),
)  # fmt: skip
TAGS = Task(
    name="names", kind="tag", data=Data("x"), columns={"tokens": "tokens", "tags": "tags"}, prompts=("",),
    completion="", labels=("O", "B"),
)  # fmt: skip


def talk(n, length=1):
    fields = {"talk": " ".join([f"Customer: my lamp {n} is late."] * length), "sum": f"the lamp {n} is late."}
    return Example(f"d.jsonl:{n}", {**fields, "source": fields["talk"], "target": fields["sum"]})


def tone(n, label="good"):
    return Example(f"d.jsonl:{n}", {"text": f"my lamp {n} is fine", "label": label})


@pytest.fixture(scope="module")
def gpt():
    return train(TEXTS, "bpe", 330)


@pytest.fixture(scope="module")
def t5():
    return train(TEXTS, "unigram", 430, objective="span")


@pytest.fixture(scope="module")
def bert():
    return train(TEXTS, "wordpiece", 330, objective="masked")


@pytest.fixture(scope="module")
def bare():
    """A tokenizer that sets nothing round a text, as GPT-2's: its one special token ends a text and begins none."""
    made = train(TEXTS, "bpe", 330)
    made.inner.post_processor = around(made.inner, None, None)
    return Tokenizer(made.inner, {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "pad": "<|endoftext|>"})


# --- rows by hand ---------------------------------------------------------------------------------


def test_a_decoders_row(gpt):
    prompter = Prompter(TASK, gpt, "decoder", 200)
    prompt, row = prompter.prompt(talk(3)), prompter.row(talk(3))
    text = "Customer: my lamp 3 is late.\n\nSummary:"
    assert prompt.text == text
    assert prompt.tokens == (gpt.bos, *gpt.encode(text))
    answer = gpt.encode(" the lamp 3 is late.")
    assert row.tokens.tolist() == [*prompt.tokens, *answer]
    assert row.targets[row.weight > 0].tolist() == [*answer, gpt.eos]
    assert row.weight.tolist() == [0.0] * (len(prompt.tokens) - 1) + [1.0] * (len(answer) + 1)
    assert row.pos.tolist() == list(range(len(row.tokens)))
    assert set(row.segment.tolist()) == {1}
    assert prompter.completion(talk(3)) == tuple(answer)
    assert prompter.completion(talk(3), "my kettle") == tuple(gpt.encode(" my kettle"))
    assert prompter.end == gpt.eos
    with pytest.raises(ValueError, match="talks has no prompt 2: it has 0 to 1"):
        prompter.prompt(talk(3), template=2)
    assert prompter.prompt(talk(3), template=1).text == "Say it shortly: Customer: my lamp 3 is late."


def test_no_bos_where_the_tokenizer_sets_none_and_eos_learned_though_it_is_the_padding_too(bare):
    prompter = Prompter(TASK, bare, "decoder", 200)
    row = prompter.row(talk(3))
    assert bare.pad == bare.eos
    assert bare.eos not in row.tokens
    assert row.targets[-1] == bare.eos
    assert row.weight[-1] == 1
    empty = replace(TASK, prompts=("",))
    assert Prompter(empty, bare, "decoder", 200).prompt(talk(3)).tokens == (bare.bos,)


def test_an_encoder_decoders_row(t5):
    prompter = Prompter(TASK, t5, "encoder-decoder", 100)
    prompt, row = prompter.prompt(talk(3)), prompter.row(talk(3))
    assert prompt.tokens == (t5.pad,)
    assert prompt.source == (*t5.encode("Customer: my lamp 3 is late.\n\nSummary:"), t5.eos)
    answer = t5.encode("the lamp 3 is late.")
    assert row.tokens.tolist() == [t5.pad, *answer]
    assert row.targets.tolist() == [*answer, t5.eos]
    assert set(row.weight.tolist()) == {1}
    assert row.source is not None
    assert row.source[0].tolist() == list(prompt.source)
    assert row.source[1].tolist() == list(range(len(prompt.source)))
    assert set(row.source[2].tolist()) == {1}
    assert Prompter(TASK, t5, "encoder-decoder", 100, start=(7,)).row(talk(3)).tokens[0] == 7


def test_an_encoders_label(bert):
    prompter = Prompter(LABELS, bert, "encoder", 40)
    row = prompter.row(tone(1))
    assert row.tokens.tolist() == [bert.cls, *bert.encode("my lamp 1 is fine"), bert.sep]
    assert row.targets[0] == 1
    assert row.weight.tolist() == [1.0] + [0.0] * (len(row.tokens) - 1)
    own = replace(LABELS, prompts=("is it good? {{ text }}",))
    assert Prompter(own, bert, "encoder", 40).prompt(tone(1)).text == "is it good? my lamp 1 is fine"
    with pytest.raises(ValueError, match=r"d\.jsonl:1 has the label 'odd', and the task knows bad, good"):
        prompter.row(tone(1, "odd"))
    with pytest.raises(ValueError, match="an encoder takes no shots"):
        prompter.prompt(tone(1), [tone(2)])


@pytest.mark.parametrize("soft", [(), (900, 901)])
def test_an_encoders_tags(bert, soft):
    words = ["my", "bicycles", "\u200b", "zzz"]
    example = Example("d:1", {"tokens": words, "tags": ["O", "B", "O", "B"]})
    prompter = Prompter(TAGS, bert, "encoder", 60, soft=soft)
    prompt, row = prompter.prompt(example), prompter.row(example)
    pieces = [bert.encode(word) or [bert.unk] for word in words]
    assert prompt.tokens == (*soft, bert.cls, *[i for piece in pieces for i in piece], bert.sep)
    starts = np.cumsum([1 + len(soft), *map(len, pieces)])[:-1]
    assert prompt.first == tuple(starts.tolist())
    assert np.flatnonzero(row.weight).tolist() == starts.tolist()
    assert row.targets[starts].tolist() == [0, 1, 0, 1]
    room = 2 + len(soft) + len(pieces[0]) + len(pieces[1])  # the last words do not fit
    cut = Prompter(TAGS, bert, "encoder", room, soft=soft)
    assert len(cut.prompt(example).tokens) == room
    assert len(cut.prompt(example).first) == 2
    assert cut.prompt(example).truncated == len(pieces[2]) + len(pieces[3])
    assert cut.row(example).weight.sum() == 2


def test_words_of_a_byte_level_vocabulary_keep_their_spaces(gpt):
    words = ["my", "lamp", "is", "late"]
    prompter = Prompter(TAGS, gpt, "encoder", 60)
    prompt = prompter.prompt(Example("d:1", {"tokens": words, "tags": ["O"] * 4}))
    assert prompt.tokens[1:] == tuple(gpt.encode(" ".join(words)))


def test_a_soft_prompt_stands_before_each_document(gpt, t5, bert):
    soft = (900, 901)
    row = Prompter(TASK, gpt, "decoder", 200, soft=soft).row(talk(1))
    plain = Prompter(TASK, gpt, "decoder", 200).row(talk(1))
    assert row.tokens.tolist() == [*soft, *plain.tokens]
    assert row.targets.tolist() == [0, 0, *plain.targets]
    assert row.weight.tolist() == [0, 0, *plain.weight]
    prompt = Prompter(TASK, t5, "encoder-decoder", 200, soft=soft).prompt(talk(1))
    assert prompt.source is not None
    assert prompt.source[:2] == soft
    assert 900 not in prompt.tokens
    row = Prompter(LABELS, bert, "encoder", 200, soft=soft).row(tone(1))
    assert row.tokens[:3].tolist() == [900, 901, bert.cls]
    assert row.weight.tolist() == [1.0] + [0.0] * (len(row.tokens) - 1)


def test_a_special_token_in_a_text_is_text(gpt, t5):
    evil = Example("d:1", {"source": "<|endoftext|> </s> <extra_id_0>", "target": "<|endoftext|></s>"})
    row = Prompter(TASK, gpt, "decoder", 400).row(evil)
    assert row.tokens.tolist().count(gpt.eos) == 1  # that which begins the text
    assert row.targets[row.weight > 0].tolist().count(gpt.eos) == 1  # that which ends it
    row = Prompter(TASK, t5, "encoder-decoder", 400).row(evil)
    assert row.source is not None
    assert row.source[0].tolist().count(t5.eos) == 1
    assert row.targets.tolist().count(t5.eos) == 1
    assert not set(t5.sentinels) & set(row.source[0].tolist())


# --- the boundary ---------------------------------------------------------------------------------


def test_a_boundary_that_moves_is_told(gpt):
    assert Prompter(TASK, gpt, "decoder", 200).boundary(talk(3)) is None
    spaced = replace(TASK, prompts=("{{ source }}\n\nSummary: ",), completion="{{ target }}")
    prompter = Prompter(spaced, gpt, "decoder", 200)
    told = "the prompt of d.jsonl:3 ends in ' ', which becomes ' the' when 'the lamp 3 is late.' follows it"
    assert prompter.boundary(talk(3)) == told
    row, prompt = prompter.row(talk(3)), prompter.prompt(talk(3))
    assert tuple(row.tokens[: len(prompt.tokens)]) == prompt.tokens  # what generation will see is what is trained


def test_a_boundary_that_moves_in_a_chat(gpt):
    merged = CHATML.replace("{{ message.content }}", "{{ ' ' + message.content }}").replace("nt\n{%", "nt\n{{ ' ' }}{%")
    told = Prompter(TASK, chatty(gpt, merged), "decoder", 200).boundary(talk(3))
    assert told is not None
    assert told.startswith("the prompt of d.jsonl:3 ends in ' ', which becomes ' the'")
    thinking = CHATML.replace("assistant\n", "assistant\nThinking.")
    told = Prompter(TASK, chatty(gpt, thinking), "decoder", 200).boundary(talk(3))
    assert told == "the chat template shows the prompt of d.jsonl:3 in another way once the answer follows it"


def trl_rows(folder, tokenizer, rows):
    """TRL's own tokenisation of prompts and completions, by its SFT trainer, and its masks."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    transformers = pytest.importorskip("transformers")
    tokenizer.save(folder / "tokenizer")
    theirs = transformers.AutoTokenizer.from_pretrained(folder / "tokenizer")
    config = transformers.GPT2Config(vocab_size=tokenizer.vocab, n_embd=8, n_layer=1, n_head=1, n_positions=256)
    args = trl.SFTConfig(output_dir=str(folder / "out"), completion_only_loss=True, report_to=[], use_cpu=True,
                         bf16=False, max_length=None)  # fmt: skip
    trainer = trl.SFTTrainer(
        transformers.GPT2LMHeadModel(config), args=args, train_dataset=datasets.Dataset.from_list(rows),
        processing_class=theirs,
    )  # fmt: skip
    return trainer.train_dataset


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tokens_and_masks_are_trls(gpt, tmp_path):
    prompter = Prompter(TASK, gpt, "decoder", 200)
    examples = [talk(n, length) for n, length in ((1, 1), (22, 2), (333, 3))]
    rows = [{"prompt": prompter.prompt(e).text, "completion": f" {e.fields['sum']}"} for e in examples]
    theirs = trl_rows(tmp_path, gpt, rows)
    for example, row in zip(examples, theirs, strict=True):
        ours = prompter.row(example)
        ids = row["input_ids"]
        mask = row["completion_mask"] if "completion_mask" in row else [int(i != -100) for i in row["labels"]]
        assert [*ours.tokens, ours.targets[-1]] == ids
        assert [0, *ours.weight] == mask


# --- few shots ------------------------------------------------------------------------------------


def test_few_shots_by_hand(gpt):
    task = replace(TASK, instruction="Sum it up.", separator="\n--\n")
    prompter = Prompter(task, gpt, "decoder", 400)
    prompt = prompter.prompt(talk(3), [talk(1), talk(2)])
    assert prompt.text == (
        "Sum it up.\n--\nCustomer: my lamp 1 is late.\n\nSummary: the lamp 1 is late.\n--\n"
        "Customer: my lamp 2 is late.\n\nSummary: the lamp 2 is late.\n--\nCustomer: my lamp 3 is late.\n\nSummary:"
    )
    assert (prompt.shots, prompt.dropped, prompt.truncated) == (2, 0, 0)
    assert prompt.tokens == (gpt.bos, *gpt.encode(prompt.text))
    need = len(prompt.tokens) + 8
    assert Prompter(task, gpt, "decoder", need).prompt(talk(3), [talk(1), talk(2)]) == prompt
    less = Prompter(task, gpt, "decoder", need - 1).prompt(talk(3), [talk(1), talk(2)])
    assert (less.shots, less.dropped) == (1, 1)
    assert "lamp 1" not in less.text  # the first was the farthest
    assert less.text.startswith("Sum it up.\n--\nCustomer: my lamp 2")


def test_a_shot_that_is_too_long_leaves_its_place_to_the_others(gpt):
    long = replace(talk(2), fields={**talk(2).fields, "source": "my lamp " * 300})
    prompter = Prompter(TASK, gpt, "decoder", 500)
    prompt = prompter.prompt(talk(3), [talk(1), talk(2), long, talk(4)])
    assert (prompt.shots, prompt.dropped, prompt.truncated) == (3, 1, 0)
    assert prompt == replace(prompter.prompt(talk(3), [talk(1), talk(2), talk(4)]), dropped=1)


def test_an_input_that_is_too_long_loses_its_end_and_the_template_stays(gpt):
    prompter = Prompter(TASK, gpt, "decoder", 60)
    whole, prompt = Prompter(TASK, gpt, "decoder", 900).prompt(talk(3, 20)), prompter.prompt(talk(3, 20), [talk(1)])
    assert prompt.text.endswith("\n\nSummary:")
    assert prompt.text.startswith("Customer: my lamp 3 is late. Customer")
    assert (prompt.shots, prompt.dropped) == (0, 1)
    assert prompt.truncated == len(whole.tokens) - len(prompt.tokens)
    assert 60 - 8 - 3 <= len(prompt.tokens) <= 60 - 8  # cut by no more than it takes
    same = Prompter(TASK, gpt, "decoder", 60).row(talk(3, 20))
    assert tuple(same.tokens[: len(prompt.tokens)]) == prompt.tokens
    long = Example("d:1", {**talk(3, 20).fields, "target": "the lamp is late. " * 8})
    assert len(prompter.row(long).tokens) < 60  # an answer over max_new gets its room from the input
    assert prompter.row(long).targets[-1] == gpt.eos
    wordy = replace(TASK, instruction="Sum it up, please. " * 20)
    with pytest.raises(ValueError, match=r"the prompt of d\.jsonl:3 has \d+ tokens without its input, and 52 fit"):
        Prompter(wordy, gpt, "decoder", 60).prompt(talk(3))


def test_of_two_long_fields_the_longer_is_cut_first_and_then_the_other(gpt):
    task = replace(TASK, prompts=("{{ talk }} {{ more }} =",))
    example = Example("d:1", {**talk(3, 20).fields, "more": "the kettle is broken. " * 15})
    said = Prompter(task, gpt, "decoder", 160).prompt(example)
    assert "lamp" in said.text
    assert said.text.endswith("the kettle is broken.  =")
    less = Prompter(task, gpt, "decoder", 30).prompt(example)
    assert less.text.startswith(" the kettle is")
    assert len(less.tokens) <= 30 - 8


def test_room_is_kept_for_the_longest_label(gpt):
    task = replace(LABELS, labels=("bad", "good, thanks; why? The kettle is fine"))
    long = Example("d:1", {"text": "my lamp is fine " * 20, "label": "bad"})
    prompter = Prompter(task, gpt, "decoder", 48)
    sizes = [len(prompter.completion(long, label)) for label in task.labels]
    assert sizes[1] > 4
    assert 48 - 3 <= len(prompter.prompt(long).tokens) + sizes[1] + 1 <= 48
    assert len(prompter.row(long).tokens) == len(prompter.prompt(long).tokens) + sizes[0]


def test_behind_shots_what_stands_between_them_ends_an_answer(gpt):
    task = replace(TASK, decoding=Decoding(stop=("!",)), separator="\n--\n")
    prompter = Prompter(task, gpt, "decoder", 400)
    none, one = prompter.prompt(talk(3)), prompter.prompt(talk(3), [talk(1)])
    assert prompter.decoding([none]) == task.decoding
    assert prompter.decoding([none, one]).stop == ("!", "\n--\n")
    begins = replace(task, completion="\n--\n{{ target }}")  # every answer would be empty
    assert Prompter(begins, gpt, "decoder", 400).decoding([one]) == task.decoding
    assert Prompter(task, chatty(gpt), "decoder", 400).decoding([one]) == task.decoding, "turns have ends"


@settings(max_examples=60, deadline=None)
@given(
    st.integers(20, 260), st.integers(1, 6), st.lists(st.integers(1, 6), max_size=5), st.integers(0, 3), st.booleans()
)
def test_never_over_the_context_and_whole_shots_only(gpt, context, length, sizes, soft, chat):
    task = replace(TASK, instruction="Sum it up.", chat=chat)
    tokenizer = chatty(gpt) if chat else gpt
    prompter = Prompter(task, tokenizer, "decoder", context, soft=range(900, 900 + soft))
    shots = [talk(n + 10, size) for n, size in enumerate(sizes)]
    try:
        prompt = prompter.prompt(talk(5, length), shots)
    except ValueError as error:
        assert "without its input" in str(error)  # noqa: PT017
        return
    assert len(prompt.tokens) + 8 <= context
    assert prompt.shots + prompt.dropped == len(shots)
    kept = [shot for n, shot in enumerate(shots) if f"lamp {n + 10}" in prompt.text]
    assert len(kept) == prompt.shots
    assert all(shot.fields["talk"] in prompt.text and shot.fields["sum"] in prompt.text for shot in kept)
    if prompt.truncated:
        assert prompt.shots == 0
    else:
        assert talk(5, length).fields["talk"] in prompt.text
    for shot in (shot for shot in shots if shot not in kept and not prompt.truncated):  # no other would have fitted too
        more = prompter.prompt(talk(5, length), [shot, *kept])
        assert (more.shots, more.dropped) == (prompt.shots, 1)


# --- chat -----------------------------------------------------------------------------------------

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chatty(tokenizer, template=CHATML):
    inner = type(tokenizer.inner).from_str(tokenizer.inner.to_str())
    inner.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<|im_start|>", "<|im_end|>")])
    return Tokenizer(inner, tokenizer.roles, {"chat_template": template})


def test_a_chat_models_row(gpt):
    tokenizer = chatty(gpt)
    end = tokenizer.inner.token_to_id("<|im_end|>")
    task = replace(TASK, instruction="Sum it up.")
    prompter = Prompter(task, tokenizer, "decoder", 400)
    assert prompter.end == end
    prompt, row = prompter.prompt(talk(3), [talk(1)]), prompter.row(talk(3), [talk(1)])
    assert prompt.text == (
        "<|im_start|>system\nSum it up.<|im_end|>\n"
        "<|im_start|>user\nCustomer: my lamp 1 is late.\n\nSummary:<|im_end|>\n"
        "<|im_start|>assistant\nthe lamp 1 is late.<|im_end|>\n"
        "<|im_start|>user\nCustomer: my lamp 3 is late.\n\nSummary:<|im_end|>\n<|im_start|>assistant\n"
    )
    answer = tokenizer.encode("the lamp 3 is late.")
    assert row.tokens.tolist() == [*prompt.tokens, *answer]
    assert row.targets[row.weight > 0].tolist() == [*answer, end]
    assert gpt.bos not in prompt.tokens  # the template sets none
    assert prompter.boundary(talk(3)) is None
    assert not Prompter(replace(task, chat=False), tokenizer, "decoder", 400).chat
    with pytest.raises(ValueError, match="no chat template"):
        Prompter(replace(task, chat=True), gpt, "decoder", 400)


# --- choosing -------------------------------------------------------------------------------------


def test_shots_by_seed(gpt):
    pool = [tone(n, "good" if n % 5 else "bad") for n in range(50)]
    chosen = choose_shots(pool, tone(99), 4, how="seed", seed=1, task=LABELS)
    assert sorted(LABELS.reference(e) for e in chosen) == ["bad", "bad", "good", "good"]
    assert choose_shots(pool, tone(98), 4, how="seed", seed=1, task=LABELS) == chosen
    assert choose_shots(pool, tone(99), 4, how="seed", seed=2, task=LABELS) != chosen
    without = choose_shots(pool, chosen[0], 4, how="seed", seed=1, task=LABELS)
    assert chosen[0] not in without
    assert without[:3] == chosen[1:]
    same = Example("other:1", {**chosen[1].fields, "label": "bad"})  # the same input from elsewhere
    assert chosen[1] not in choose_shots(pool, same, 4, how="seed", seed=1, task=LABELS)
    with pytest.raises(ValueError, match="3 shots cannot be had of 2 training examples"):
        choose_shots(pool[:2], tone(99), 3, how="seed", seed=0, task=LABELS)
    assert choose_shots(pool, tone(99), 0, how="seed", seed=0, task=LABELS) == []


def cosines(pool, example, task):
    """The plain way: a vector of TF-IDF for each text."""
    texts = [task.input(e).split() for e in [*pool, example]]
    words = sorted({word for text in texts[:-1] for word in text})
    idf = np.array([np.log((1 + len(pool)) / (1 + sum(w in text for text in texts[:-1]))) + 1 for w in words])
    vectors = np.array([[text.count(w) for w in words] for text in texts]) * idf
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors[:-1] @ vectors[-1]


def test_the_nearest_shots_stand_last():
    rng = Random(0)
    words = [f"w{n}" for n in range(40)]
    draw = [" ".join(rng.choices(words, k=rng.randint(5, 15))) for _ in range(61)]
    *pool, question = [Example(str(n), {"text": text, "label": "good"}) for n, text in enumerate(draw)]
    order = np.argsort(-cosines(pool, question, LABELS), kind="stable")
    chosen = choose_shots(pool, question, 5, how="nearest", seed=0, task=LABELS)
    assert [int(e.id) for e in chosen] == order[:5][::-1].tolist()
    twin = choose_shots(pool, pool[7], 5, how="nearest", seed=0, task=LABELS)
    assert pool[7] not in twin


# --- what does not go together --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "shape", "context", "fault"),
    [
        (TAGS, "decoder", 100, "a model that tags words is an encoder, and this one is a decoder"),
        (TASK, "encoder", 100, "an encoder cannot summarise"),
        (TASK, "decoder", 8, "has no room for decoding.max_new of 8"),
    ],
)
def test_what_does_not_go_together(gpt, task, shape, context, fault):
    with pytest.raises(ValueError, match=fault):
        Prompter(task, gpt, shape, context)


def test_a_tokenizer_that_ends_nothing(bert):
    with pytest.raises(ValueError, match="no token that ends a text"):
        Prompter(TASK, bert, "decoder", 100)


def test_real_vocabularies():
    data = os.environ.get("MODELWRIGHT_DATA")
    if not data:
        pytest.skip("MODELWRIGHT_DATA does not name the folder with the real data")
    llama = Tokenizer.load(Path(data) / "stories260k")
    prompter = Prompter(TASK, llama, "decoder", 4000)
    rows = (Path(data) / "dialogsum/dev.jsonl").read_text().splitlines()[:5]
    for at, line in enumerate(rows):
        found = json.loads(line)
        example = Example(f"dev.jsonl:{at}", {"source": found["dialogue"], "target": found["summary"]})
        prompt, row = prompter.prompt(example), prompter.row(example)
        assert prompt.tokens[0] == llama.bos
        assert prompt.tokens.count(llama.bos or 0) == 1
        assert prompter.boundary(example) is None
        whole = llama.encode(prompt.text + " " + found["summary"], special=True)
        assert [*row.tokens] == whole[: len(row.tokens)]
        assert llama.decode([*row.tokens]).endswith(f"Summary: {found['summary']}")
