"""modelwright: from a use case and some data to the cheapest language model that meets a stated target.

Public names are imported when they are first used, so that `import modelwright` and `modelwright --help`
do not wait for torch (PEP 562).
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# public name -> the module that defines it
NAMES = {
    "Cache": "modelwright.model.cache",
    "Config": "modelwright.model.config",
    "LanguageModel": "modelwright.hub.open",
    "Tokenizer": "modelwright.data.tokenizer",
    "Transformer": "modelwright.model.transformer",
    "fill_mask": "modelwright.infer.fill",
    "generate": "modelwright.infer.complete",
    "load": "modelwright.hub.open",
    "open_model": "modelwright.adapt.open",
    "save": "modelwright.hub.open",
    "stream": "modelwright.infer.complete",
}

__all__ = ["__version__", *NAMES]


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"modelwright has no name {name!r}; its public names are {', '.join(NAMES)}")
    value = getattr(importlib.import_module(NAMES[name]), name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *NAMES})
