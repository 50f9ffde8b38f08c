"""A measurement in a process of its own, so that no side warms up, fragments or patches the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def measured(file: str, said: Sequence[object], env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What `file --child ...` prints on its last line, as JSON. Where it fails, this ends with what it said."""
    command = [sys.executable, file, *map(str, said)]
    done = subprocess.run(command, env=os.environ | dict(env or {}), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
