"""The command line: what it prints, what it imports, and how it puts a user's mistake."""

import errno
import io
import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import tyro

from modelwright import __version__, cli
from modelwright.recipes.align import WAYS
from modelwright.recipes.flags import as_keys, parse
from modelwright.train import allocator

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Options:
    """A command's flags."""

    data: tyro.conf.Positional[str]
    size: str | None = None
    """How large."""
    objective: Literal["causal", "masked"] = "causal"
    rate: float = 0.1


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[list[str]], int]], None]:
    """Put a function in the place of the command `try`; the process's allocator is left alone."""

    def put(function: Callable[[list[str]], int]) -> None:
        module = types.ModuleType("modelwright_try")
        module.main = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "modelwright_try", module)
        monkeypatch.setitem(cli.COMMANDS, "try", cli.Command("modelwright_try", "scope", "try it"))
        monkeypatch.setattr(cli, "keep_large_blocks", lambda: True)
        monkeypatch.delenv("MODELWRIGHT_DEBUG", raising=False)

    return put


def raising(error: BaseException) -> Callable[[list[str]], int]:
    def main(args: list[str]) -> int:
        raise error

    return main


def test_help_lists_the_commands_by_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == cli.main([]) == cli.main(["-h"]) == 0
    out = capsys.readouterr().out
    for name, told in cli.COMMANDS.items():
        assert f"\n  {name} " in out
        assert told.line in out
    assert out.index("pretrain:\n") < out.index("integrate:\n") < out.index("example:\n")
    assert max(map(len, out.splitlines())) <= 100


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"modelwright {__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    """What makes it quick: the time itself is measured in bench/."""
    heavy = "{'torch', 'numpy', 'tyro', 'rich', 'tokenizers', 'pyarrow'}"
    code = f"import sys; from modelwright.cli import main; main(['--help']); sys.exit(len({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "src", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: modelwright" in done.stdout


def test_every_command_has_its_main() -> None:
    for name, told in cli.COMMANDS.items():
        module = __import__(told.module, fromlist=["main"])
        assert callable(module.main), name


def test_arguments_and_exit_code_pass_through(command: Callable[..., None]) -> None:
    seen: list[list[str]] = []
    command(lambda args: seen.append(args) or 7)  # type: ignore[func-returns-value]
    assert cli.main(["try", "a", "--b"]) == 7
    assert seen == [["a", "--b"]]
    command(lambda args: None)
    assert cli.main(["try"]) == 0


@pytest.mark.parametrize(
    ("typed", "told"),
    [("pretrian", "did you mean 'pretrain'?"), ("tokeniser", "did you mean 'tokenizer'?"),
        ("xyzzy", f"the commands are {', '.join(cli.COMMANDS)}"),
    ],
)  # fmt: skip
def test_an_unknown_command(typed: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([typed]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"modelwright: unknown command {typed!r}; {told}\n"
    assert captured.out == ""


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run/model.safetensors")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("a size of\n  nothing"), "a size of nothing"),
        (FileNotFoundError("no such corpus: x.txt"), "no such corpus: x.txt"),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "x.txt"), "no such file or directory: x.txt"),
        (FileExistsError("run/ exists: choose another --out"), "run/ exists: choose another --out"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "a", None, "b"), "permission denied: a -> b"),
        (IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), Path("d")), "is a directory: d"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "run"), "read-only file system: run"),
        (OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "aaa"), "file name too long: aaa"),
        (OSError(errno.ELOOP, os.strerror(errno.ELOOP), "a"), "too many levels of symbolic links: a"),
        (OSError(errno.EIO, os.strerror(errno.EIO), "disk/x"), "input/output error: disk/x"),
        (OSError("step-20 was not written; step-10 still stands"), "step-20 was not written; step-10 still stands"),
        (FULL, "the disk is full: run/model.safetensors"),
        (OSError(errno.ENOSPC, "the disk is full; step-10 still stands"), "the disk is full; step-10 still stands"),
        (RuntimeError("I/O error: No space left (os error 28)"), "I/O error: No space left (os error 28)"),
        (ValueError(), "ValueError"),
    ],
)
def test_a_users_mistake_is_one_sentence(
    error: Exception, told: str, command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(raising(error))
    assert cli.main(["try"]) == 2
    assert capsys.readouterr().err == f"modelwright: {told}\n"
    assert cli.main(["try", "--json"]) == 2
    assert json.loads(capsys.readouterr().err) == {"error": told}


def test_our_own_faults_keep_their_traceback(command: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    for fault in (RuntimeError("shape"), OSError(), OSError(errno.EIO, os.strerror(errno.EIO)), KeyError("x")):
        command(raising(fault))
        with pytest.raises(type(fault)):
            cli.main(["try"])
    command(raising(ValueError("no")))
    monkeypatch.setenv("MODELWRIGHT_DEBUG", "1")
    with pytest.raises(ValueError, match="no"):
        cli.main(["try"])


@pytest.mark.parametrize(
    ("leaving", "code"), [(KeyboardInterrupt(), 130), (SystemExit(3), 3), (SystemExit(None), 0), (SystemExit("x"), 1)]
)
def test_other_ways_to_leave(leaving: BaseException, code: int, command: Callable[..., None]) -> None:
    command(raising(leaving))
    assert cli.main(["try"]) == code


def test_a_reader_that_left_is_no_fault() -> None:
    """As in `modelwright ... | head -1`: no traceback, no complaint at exit."""
    code = (
        "import sys, types; from modelwright import cli; m = types.ModuleType('m'); sys.modules['m'] = m\n"
        "m.main = lambda args: [print('first', flush=True), sys.stdin.readline(), print('second')] and 0\n"
        "cli.COMMANDS['try'] = cli.Command('m', 'scope', ''); sys.exit(cli.main(['try']))"
    )
    pipe, env = subprocess.PIPE, os.environ | {"PYTHONUNBUFFERED": ""}  # or there is no buffer
    command = [sys.executable, "-c", code]
    child = subprocess.Popen(command, cwd=ROOT / "src", env=env, stdin=pipe, stdout=pipe, stderr=pipe)
    with child:
        assert child.stdin
        assert child.stdout
        assert child.stderr
        child.stdout.readline()
        child.stdout.close()
        child.stdin.close()  # now the child prints again, into its buffer
        assert child.stderr.read() == b""
    assert child.returncode == 141


# -- flags


@pytest.mark.parametrize("name", [*cli.COMMANDS, *(f"align {way}" for way in WAYS)])
def test_help_has_a_text_for_every_flag_and_plain_names_of_their_values(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*name.split(), "--help"]) == 0
    said = capsys.readouterr().out
    assert "None" not in said
    body = "\n".join(line.strip("│ ") for line in said.splitlines() if not line.startswith(("╭", "╰")))
    for flag in re.split(r"\n(?=--?[a-z])", body)[1:]:
        head, *text = re.split(r" {2,}|\n", flag, maxsplit=1)
        assert re.sub(r"\((default|required).*", "", " ".join(text)).strip(), head
    assert "(default: )" not in said
    assert re.match(r"[A-Z][\w-]+ ", said.split("\n\n")[1])  # what the command does, under how it is called


def test_flags_become_options() -> None:
    assert parse(Options, ["text", "--rate", "0.5"], "modelwright try") == Options("text", rate=0.5)


def test_settings_are_named_as_where_they_stand() -> None:
    said = "--rate must be above 0 (--size too); allow it with --rate 0.5: see a--rate.md, --rates and --o"
    assert as_keys(said, Options, "tune.") == (
        "tune.rate must be above 0 (tune.size too); allow it with tune.rate 0.5: see a--rate.md, --rates and --o"
    )


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["d", "--szie", "3M"], "Unrecognized options: --szie, 3M; perhaps you meant --size; "),
        (
            ["d", "--objective", "cuasal"],
            "invalid choice 'cuasal' for argument '--objective'. Expected one of ('causal', ",
        ),
        (["d", "--rate", "high"], "Error parsing --rate: could not convert string to float: 'high'; "),
        (["d", "--size"], "Missing value for argument '--size'"),
        ([], "Missing from modelwright try: "),
    ],
)
@pytest.mark.parametrize("columns", ["40", "200"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_wrong_flag_is_one_sentence(
    args: list[str], told: str, columns: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    monkeypatch.setattr(sys, "stderr", said := io.StringIO())
    with pytest.raises(ValueError, match=r"see modelwright try --help$") as caught:
        parse(Options, args, "modelwright try")
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)
    assert said.getvalue() == ""


def test_help_of_a_command_leaves_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(Options, ["--help"], "modelwright try")
    assert caught.value.code == 0
    assert "How large." in capsys.readouterr().out


# -- the allocator


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator's settings are glibc's")
def test_large_blocks_are_kept() -> None:
    """In a process of its own: a block of 64 MiB made twice faults its pages in once, not twice."""
    code = (
        "import ctypes, resource, sys; from modelwright.train.allocator import keep_large_blocks\n"
        "print(keep_large_blocks() if sys.argv[1] == 'keep' else False)\n"
        "def make():\n"
        "    libc.memset(p := libc.malloc(64 << 20), 1, 64 << 20); libc.free(p)\n"
        "libc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p\n"
        "libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]; "
        "libc.free.argtypes = [ctypes.c_void_p]\n"
        "make(); before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt; make()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )

    def faults(how: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", code, how], cwd=ROOT / "src", capture_output=True, text=True, check=True
        )
        agreed, count = done.stdout.split()
        assert agreed == str(how == "keep")
        return int(count)

    assert faults("keep") < 100
    assert faults("leave") > 1000 or os.confstr("CS_GNU_LIBC_VERSION") is None


def test_elsewhere_the_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert allocator.keep_large_blocks() is False
