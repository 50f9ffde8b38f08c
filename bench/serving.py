"""Memory and latency of the server over many requests, some of whose clients leave: does anything grow?

python bench/serving.py [REQUESTS]      10,000 of them by default, on a tiny random model, over a real socket

It says the resident memory after each tenth of the requests, and how long /health took throughout.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from modelwright.hub.open import save
from served import build


def resident(process: int) -> float:
    """MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def ask(http: httpx.Client, at: int) -> None:
    draw = random.Random(at)
    body = {"model": "m", "prompt": "the cat " * draw.randrange(1, 20), "max_tokens": draw.randrange(1, 16),
            "temperature": draw.choice([0, 0.8]), "seed": at, "stream": at % 2 == 0}  # fmt: skip
    if at % 10:
        assert http.post("/v1/completions", json=body).status_code == 200
        return
    with http.stream("POST", "/v1/completions", json=body | {"stream": True}) as answer:
        next(answer.iter_raw())


def health(url: str, done: threading.Event, times: list[float]) -> None:
    with httpx.Client(base_url=url) as http:
        while not done.wait(0.02):
            times.append(http.get("/health").elapsed.total_seconds())


def main(requests: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save(build(), Path(folder) / "m")
        command = [sys.executable, "-m", "modelwright.cli", "serve", f"{folder}/m", "--port", "0", "--queue", "1024"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = re.search(r"http://\S+", server.stdout.readline())
            assert url is not None
            try:
                measure(url[0], server.pid, requests)
            finally:
                server.terminate()


def measure(url: str, process: int, requests: int) -> None:
    done, times, start = threading.Event(), list[float](), time.perf_counter()
    watch = threading.Thread(target=health, args=(url, done, times))
    watch.start()
    limits = httpx.Limits(max_connections=32)
    with httpx.Client(base_url=url, timeout=60, limits=limits) as http, ThreadPoolExecutor(32) as pool:
        for tenth in range(10):
            list(pool.map(lambda at: ask(http, at), range(tenth * requests // 10, (tenth + 1) * requests // 10)))
            count = (tenth + 1) * requests // 10
            print(f"{count:6} requests  {resident(process):7.1f} MiB  {count / (time.perf_counter() - start):6.1f}/s")
    done.set()
    watch.join()
    times.sort()
    print(f"/health: median {1000 * times[len(times) // 2]:.1f} ms, p99 {1000 * times[int(0.99 * len(times))]:.1f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
