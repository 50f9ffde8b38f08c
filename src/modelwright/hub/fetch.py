"""Fetch a model from a hub that speaks Hugging Face's protocol; `HF_ENDPOINT` names another than theirs.

Only what a model directory needs comes: settings, tokenizer and safetensors. Neither pickled weights nor code do.
"""

import errno
import re
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub  # whose names are resolved on first use: opening a local directory does not pay for the client

from modelwright.model.checkpoint import weight_files

WANTED = ["*.json", "*.txt", "*.model", "*.jinja", "model.safetensors", "model-*.safetensors", "vocab.bpe"]
OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO}
PATIENCE = 10.0  # seconds until a hub that does not answer counts as out of reach


def is_hub_id(name: str) -> bool:
    """Whether `name` could be a model's on the hub: `owner/name`, or a bare `name` as the oldest have it."""
    return len(name) <= 96 and re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name, re.ASCII) is not None


def fetch(repo: str, revision: str | None = None, wanted: Sequence[str] = WANTED) -> Path:
    """The local directory of a model on the hub, downloaded unless it is there; the cached one without a network.

    Raises FileNotFoundError where there is no such model or revision, or no network and nothing cached;
    PermissionError where it is closed to this user; ValueError where it has only pickled weights.
    """
    api = huggingface_hub.HfApi()
    errors = huggingface_hub.errors  # there once the client is
    try:
        info = api.model_info(repo, revision=revision, timeout=PATIENCE)
    except errors.GatedRepoError as error:
        raise PermissionError(f"{repo} is gated: accept its terms on its page, then set HF_TOKEN") from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(f"{repo!r} is neither a directory here nor a public model on the hub") from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{repo} has no revision {revision!r} on the hub") from error
    except Exception as error:  # the transport's own errors have another name in every version of the client
        return _cached(repo, revision, wanted, error)
    weight_files((file.rfilename for file in info.siblings or ()), f"{repo} on the hub")
    try:
        return _snapshot(repo, revision, wanted)
    except Exception as error:  # here too
        if isinstance(error, OSError) and error.errno in OF_THE_DISK:
            raise
        raise FileNotFoundError(
            f"fetching {repo} from the hub broke off ({_first_line(error)}): try again, what has come is kept"
        ) from error


def _snapshot(repo: str, revision: str | None, wanted: Sequence[str], offline: bool = False) -> Path:
    # "*" also matches "/": what lies in folders (other formats, states of training) is not wanted
    return Path(
        huggingface_hub.snapshot_download(
            repo, revision=revision, local_files_only=offline, allow_patterns=[*wanted], ignore_patterns="*/*"
        )
    )


def _cached(repo: str, revision: str | None, wanted: Sequence[str], reason: Exception) -> Path:
    """What an earlier fetch left; FileNotFoundError, with the reason why the hub did not answer, where it left none."""
    try:
        return _snapshot(repo, revision, wanted, offline=True)
    except (OSError, ValueError):
        raise FileNotFoundError(
            f"there is no directory {repo!r} here, and the hub could not be asked for a model of that name "
            f"({_first_line(reason)}): name a local directory, or try again with a network"
        ) from reason


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
