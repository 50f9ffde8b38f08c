"""One thread for each product: tiny models gain nothing from two, and suites run side by side lose much."""

import torch

torch.set_num_threads(1)
