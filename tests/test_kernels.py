"""Each fast kernel against the slow plain version that stands beside it, values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modelwright.model import attend, logps, transformer
from modelwright.model.attend import Mask
from modelwright.model.kernels import RMSNorm, rotate
from modelwright.model.transformer import Config, Head


def leaf(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def with_gradients(y: Tensor, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    dy = torch.arange(y.numel(), dtype=y.dtype).cos().view(y.shape)
    return [y, *torch.autograd.grad(y, inputs, dy)]


@pytest.mark.parametrize("heads_to_a_key", [1, 2])
@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("causal", "queries"), [(True, 11), (True, 5), (False, 11), (False, 3)])
@pytest.mark.parametrize("kernel", ["blockwise", "documents", "sdpa"])
def test_attention(
    monkeypatch: pytest.MonkeyPatch,
    kernel: str,
    causal: bool,
    queries: int,
    biased: bool,
    segments: bool,
    heads_to_a_key: int,
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(attend, "BLOCK", 4)  # so that eleven queries take three blocks, the last one short
    monkeypatch.setattr(attend, "LONG", 0 if kernel == "sdpa" else 1024)
    monkeypatch.setattr(attend, "ALONE", 0 if kernel == "documents" else 4096)
    B, H, T, S, D = 2, 4, queries, 11, 8
    K = H // heads_to_a_key
    q, k, v = leaf(B, H, T, D), leaf(B, K, S, D), leaf(B, K, S, D)
    bias = leaf(1, H, T, S) if biased else None
    k_segment = torch.randint(int(kernel == "documents"), 4, (B, S)).sort(1).values if segments else None
    mask = Mask(causal, T, S, None if k_segment is None else k_segment[:, -T:], k_segment, bias)
    inputs = (q, k, v) if bias is None else (q, k, v, bias)
    got = with_gradients(attend.attend(q, k, v, mask, 0.3), inputs)
    expected = with_gradients(attend.plain(q, k, v, mask, 0.3), inputs)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=3e-6)  # the plain version works in float32


@pytest.mark.parametrize("heads_to_a_key", [1, 2])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_with_holes(monkeypatch: pytest.MonkeyPatch, causal: bool, biased: bool, heads_to_a_key: int) -> None:
    """Of the same probabilities the same are dropped, on the way back too."""
    torch.manual_seed(0)
    B, H, T, D = 2, 4, 11, 8
    kept = (torch.rand(B * H, T, T) > 0.3).double() / 0.7
    monkeypatch.setattr(attend, "_holes", lambda p, dropout: kept if dropout == 0.3 else None)
    q, k, v = leaf(B, H, T, D), leaf(B, H // heads_to_a_key, T, D), leaf(B, H // heads_to_a_key, T, D)
    bias = leaf(1, H, T, T) if biased else None
    mask, inputs = Mask(causal, T, T, None, None, bias), (q, k, v) if bias is None else (q, k, v, bias)
    got = with_gradients(attend.attend(q, k, v, mask, 0.3, dropout=0.3), inputs)
    keys, values = (t.repeat_interleave(heads_to_a_key, dim=1) for t in (k, v))
    scores = q @ keys.transpose(2, 3) * 0.3 + (0 if bias is None else bias)
    scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf) if causal else scores
    expected = with_gradients(scores.softmax(-1) * kept.view(B, H, T, T) @ values, inputs)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)  # the gradient of a bias is float32


def seen(mask: Mask) -> Tensor:
    """(B, T, S) who may look at whom, one pair at a time."""
    B, T, S = 1 if mask.k_segment is None else len(mask.k_segment), mask.queries, mask.keys
    found = torch.zeros(B, T, S, dtype=torch.bool)
    for b in range(B):
        for i in range(T):
            for j in range(S):
                place = S - T + i
                alike = mask.k_segment is None or mask.k_segment[b, place] == mask.k_segment[b, j]
                found[b, i, j] = alike and j <= place and (mask.window is None or place - j < mask.window)
    return found


@pytest.mark.parametrize("window", [1, 3, 4, 10, 11, 99])
@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("queries", [11, 5, 1])
@pytest.mark.parametrize("kernel", ["blockwise", "documents", "sdpa"])
def test_a_window(
    monkeypatch: pytest.MonkeyPatch, kernel: str, queries: int, biased: bool, segments: bool, window: int
) -> None:
    """Against scores of a mask that is spelt out, values and gradients, in float64."""
    torch.manual_seed(0)
    monkeypatch.setattr(attend, "BLOCK", 4)
    monkeypatch.setattr(attend, "EDGE", 2)
    monkeypatch.setattr(attend, "LONG", 0 if kernel == "sdpa" else 1024)
    monkeypatch.setattr(attend, "ALONE", 0 if kernel == "documents" else 4096)
    B, H, T, S, D = 2, 4, queries, 11, 8
    q, k, v = leaf(B, H, T, D), leaf(B, 2, S, D), leaf(B, 2, S, D)
    bias = leaf(1, H, T, S) if biased else None
    k_segment = torch.tensor([[1] * 4 + [2] * 6 + [3], [1] * 7 + [2] * 4]) if segments else None
    mask = Mask(True, T, S, None if k_segment is None else k_segment[:, -T:], k_segment, bias, window=window)
    inputs = (q, k, v) if bias is None else (q, k, v, bias)
    got = with_gradients(attend.attend(q, k, v, mask, 0.3), inputs)
    keys, values = (t.repeat_interleave(2, dim=1) for t in (k, v))
    scores = q @ keys.transpose(2, 3) * 0.3 + (0 if bias is None else bias)
    scores = scores.masked_fill(~seen(mask)[:, None], -torch.inf)
    expected = with_gradients(scores.softmax(-1) @ values, inputs)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)  # the gradient of a bias is float32


def test_blocks_leave_out_what_is_beyond_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attend, "BLOCK", 4)
    monkeypatch.setattr(attend, "EDGE", 2)
    assert Mask(True, 10, 10, window=4).blocks(1) == [(0, 1, 0, 4, 0, 4), (0, 1, 4, 8, 0, 8), (0, 1, 8, 10, 4, 10)]
    assert Mask(True, 10, 10, window=3).blocks(1) == [(0, 1, 0, 4, 0, 4), (0, 1, 4, 8, 2, 8), (0, 1, 8, 10, 6, 10)]
    assert Mask(True, 2, 10, window=3).blocks(1) == [(0, 1, 0, 2, 6, 10)]


def test_holes_are_a_share_and_leave_the_mean() -> None:
    torch.manual_seed(0)
    kept = attend._holes(torch.ones(4, 100, 100), 0.25)
    assert kept is not None
    assert 0.24 < (kept == 0).float().mean() < 0.26
    assert kept.max() == pytest.approx(1 / 0.75)
    assert attend._holes(kept, 0.0) is None


def test_packed_documents_are_blocks_of_their_own_where_that_is_less_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attend, "BLOCK", 4)
    segment = torch.tensor([[1, 1, 1, 1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 2, 2, 2, 2, 0, 0, 0]])
    first = [(0, 1, 0, 4, 0, 4), (0, 1, 4, 6, 0, 6), (0, 1, 6, 9, 6, 9)]
    second = [(1, 2, 0, 3, 0, 3), (1, 2, 3, 7, 3, 7)]
    assert Mask(True, 10, 10, segment, segment).documents(2) == [*first, *second]  # and padding, 0, is none
    assert not Mask(True, 10, 10, segment[:1], segment[:1]).documents(2), "one segment for all rows"
    read = torch.tensor([[1, 1, 2, 2, 2, 3, 0], [1, 2, 2, 2, 2, 2, 2]])  # a source, of which cross-attention reads
    assert Mask(False, 10, 7, segment, read).documents(2) == [
        (0, 1, 0, 4, 0, 2), (0, 1, 4, 6, 0, 2), (0, 1, 6, 9, 2, 5), (1, 2, 0, 3, 0, 1), (1, 2, 3, 7, 1, 7),
    ]  # fmt: skip
    together = [(0, 2, 0, 4, 0, 4), (0, 2, 4, 8, 0, 8), (0, 2, 8, 10, 0, 10)]
    assert Mask(True, 10, 10, segment, segment).blocks(2) == Mask(True, 10, 10).blocks(2) == together
    monkeypatch.setattr(attend, "ALONE", 0)
    assert Mask(True, 10, 10, segment, segment).blocks(2) == [*first, *second]


def test_a_document_with_padding_within_it_is_no_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a cache, where prompts that share their start go on from there, padded to one length."""
    monkeypatch.setattr(attend, "ALONE", 0)
    torch.manual_seed(0)
    segment = torch.tensor([[1, 1, 1, 0, 0, 1, 1], [1, 1, 1, 0, 1, 1, 1]])
    q, k, v = leaf(2, 2, 4, 8), leaf(2, 2, 7, 8), leaf(2, 2, 7, 8)
    mask = Mask(True, 4, 7, segment[:, -4:], segment)
    assert not mask.documents(2)
    found, wanted = attend.attend(q, k, v, mask, 0.3), attend.plain(q, k, v, mask, 0.3)
    torch.testing.assert_close(found, wanted, rtol=0, atol=3e-6)


def test_attention_of_equal_keys_is_the_mean_of_what_may_be_seen() -> None:
    q, k = torch.ones(1, 1, 3, 2), torch.ones(1, 1, 3, 2)
    v = torch.tensor([[[[3.0, 0.0], [6.0, 0.0], [0.0, 9.0]]]])
    mean = attend.attend(q, k, v, Mask(True, 3, 3), 1.0)
    torch.testing.assert_close(mean[0, 0], torch.tensor([[3.0, 0.0], [4.5, 0.0], [3.0, 3.0]]))


@pytest.mark.parametrize(
    ("chunk", "keep"), [(1 << 20, 1 << 28), (100, 1 << 28), (100, 0)], ids=["whole", "kept", "again"]
)
@pytest.mark.parametrize("biased", [False, True])
def test_token_logps(monkeypatch: pytest.MonkeyPatch, chunk: int, keep: int, biased: bool) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(logps, "CHUNK", chunk)
    monkeypatch.setattr(logps, "ROWS", 3)
    monkeypatch.setattr(logps, "KEEP", keep)
    x, weight, bias = leaf(50, 16), leaf(31, 16), leaf(31) if biased else None
    targets = torch.randint(31, (50,))
    inputs = (x, weight) if bias is None else (x, weight, bias)

    def run(f: Callable[..., Tensor]) -> list[Tensor]:
        return with_gradients(f(x, weight, bias, targets).double(), inputs)

    for a, b in zip(run(logps.token_logps), run(logps.plain), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=5e-6)


def test_token_logps_twice_on_the_way_back() -> None:
    torch.manual_seed(0)
    x, weight, targets = leaf(9, 4), leaf(7, 4), torch.randint(7, (9,))
    total = logps.token_logps(x, weight, None, targets).sum()
    first = torch.autograd.grad(total, (x, weight), retain_graph=True)
    again = torch.autograd.grad(total, (x, weight))
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_token_logps_by_hand() -> None:
    # logits (ln 1, ln 2, ln 5): the probability of the last is 5/8
    weight = torch.tensor([[1.0], [2.0], [5.0]]).log()
    found = logps.token_logps(torch.ones(1, 1), weight, None, torch.tensor([2]))
    torch.testing.assert_close(found, torch.tensor([5 / 8]).log())


@pytest.mark.parametrize(
    ("rows", "most", "size"),
    [(0, 99, 0), (1, 99, 64), (64, 99, 64), (65, 99, 99), (513, 9999, 576), (1025, 9999, 1152), (1153, 9999, 1280)],
)
def test_rounded(rows: int, most: int, size: int) -> None:
    assert logps.rounded(rows, most) == size


def test_rounded_is_an_eighth_too_large_at_most_and_one_of_few_sizes() -> None:
    found = [logps.rounded(rows, 4096) for rows in range(512, 4097)]
    assert all(rows <= size <= rows * 9 / 8 for rows, size in enumerate(found, 512))
    assert len(set(found)) == 1 + 3 * 8


def test_batches_that_ask_for_other_numbers_of_tokens_come_in_few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed for rows of a new size is kept by the library that multiplies them: memory would grow."""
    torch.manual_seed(0)
    cfg = Config(vocab=31, width=16, layers=1, heads=2, kv_heads=2, head=8, ffn=16, context=64, head_transform=True)
    head, sizes = Head(cfg).double(), set[int]()

    def noted(x: Tensor, *rest: Any) -> Tensor:
        sizes.add(len(x))
        return logps.token_logps(x, *rest)

    monkeypatch.setattr(transformer, "token_logps", noted)
    for wanted in range(0, 601, 25):
        x, targets = leaf(10, 60, 16), torch.randint(31, (600,))
        targets[torch.randperm(600)[wanted:]] = -1
        targets = targets.view(10, 60)
        every = head(x).log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        inputs = (x, *head.parameters())
        found, plain = head.logps(x, targets).double(), every * (targets >= 0)
        for a, b in zip(with_gradients(found, inputs), with_gradients(plain, inputs), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=5e-6)
    assert sizes == {0, 64, 128, 192, 256, 320, 384, 448, 512, 576, 600}


def test_rms_norm() -> None:
    torch.manual_seed(0)
    norm, x = RMSNorm(16, 1e-5).double(), leaf(3, 5, 16)
    norm.weight.data.normal_()
    expected = F.rms_norm(x, (16,), norm.weight, 1e-5)
    for a, b in zip(with_gradients(norm(x), (x, norm.weight)), with_gradients(expected, (x, norm.weight)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_rms_norm_whose_weights_are_kept_from_one() -> None:
    torch.manual_seed(0)
    norm, x = RMSNorm(16, 1e-5, from_one=True), leaf(3, 5, 16, dtype=torch.float32)
    assert torch.equal(norm(x), RMSNorm(16, 1e-5)(x))
    norm.weight.data.normal_()
    expected = F.rms_norm(x, (16,), 1 + norm.weight, 1e-5)
    for a, b in zip(with_gradients(norm(x), (x, norm.weight)), with_gradients(expected, (x, norm.weight)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-6)
        narrow = norm.bfloat16()(x.bfloat16())
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), expected, rtol=0.02, atol=0.02)


def test_rms_norm_of_narrow_numbers_squares_in_float32() -> None:
    x = torch.full((1, 4), 300.0, dtype=torch.float16)  # 300^2 is beyond float16
    torch.testing.assert_close(RMSNorm(4, 1e-5).half()(x), torch.ones(1, 4, dtype=torch.float16))


def test_rotation_by_a_quarter_turn() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)
    quarter = torch.full((1, 1, 1, 2), torch.pi / 2)
    turned = rotate(x, quarter.cos(), quarter.sin())
    torch.testing.assert_close(turned.flatten(), torch.tensor([-3.0, -4.0, 1.0, 2.0]))


def test_rotation_gradient() -> None:
    torch.manual_seed(0)
    angle = torch.randn(2, 4, 1, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: rotate(x, angle.cos(), angle.sin()), (leaf(2, 4, 3, 8),))


def test_a_bias_that_learns_never_meets_the_kernel_that_keeps_it_several_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows longer than LONG go to PyTorch's kernel, but not with such a bias; and the gradients are the plain ones."""

    def refuse(*_: Any, **__: Any) -> Tensor:
        raise AssertionError("PyTorch's kernel was asked")

    monkeypatch.setattr(attend, "LONG", 4)
    torch.manual_seed(0)
    q, k, v, bias = leaf(2, 3, 6, 8), leaf(2, 3, 6, 8), leaf(2, 3, 6, 8), leaf(1, 3, 6, 6)
    wanted = with_gradients(attend.plain(q, k, v, Mask(False, 6, 6, bias=bias), 0.5), (q, k, v, bias))
    monkeypatch.setattr(F, "scaled_dot_product_attention", refuse)
    found = with_gradients(attend.attend(q, k, v, Mask(False, 6, 6, bias=bias), 0.5), (q, k, v, bias))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    with pytest.raises(AssertionError, match="was asked"):
        attend.attend(q, k, v, Mask(False, 6, 6, bias=bias.detach()), 0.5)
