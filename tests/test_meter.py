"""The meter against a clock turned by hand, and figures of the machine that must hold anywhere."""

import resource
import sys

import pytest
import torch

from modelwright.train.meter import Meter, measure_peak, peak_memory


def test_rates_by_hand() -> None:
    now = [100.0]
    meter = Meter(flops=6e6, peak=1e9, window=2, clock=lambda: now[0])
    now[0] += 2
    assert meter.step(100) == pytest.approx({"tokens": 100, "tokens_per_second": 50, "mfu": 0.3})
    now[0] += 1
    assert meter.step(200)["tokens_per_second"] == pytest.approx(100)  # 300 in 3 s
    now[0] += 60  # an evaluation, left out
    meter.resume()
    now[0] += 3
    expected = {"tokens": 500, "tokens_per_second": 100, "mfu": 0.6}  # of the last two: 400 in 4 s
    assert meter.step(200) == pytest.approx(expected)
    assert meter.seconds == pytest.approx(6)


def test_peak_is_what_a_product_reaches() -> None:
    peak = measure_peak(torch.float32, seconds=0.01)
    assert 1e8 < peak < 1e15


def test_peak_memory_is_in_bytes_and_of_this_process() -> None:
    block = torch.ones(64 << 20, dtype=torch.uint8)
    unit = 1 if sys.platform == "darwin" else 1024
    assert block.nbytes <= peak_memory() <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit * 1.01
