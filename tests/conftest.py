"""One thread for each product, here and in the processes that tests start: tiny models gain nothing from two, and tests
that run side by side lose much."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
