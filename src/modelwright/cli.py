"""The command line: `modelwright COMMAND ...`.

Each command's module is named as a string and imported when the command is called, so that `--help` does not wait
for torch. A command is a function `main(args: list[str]) -> int` in its module; this file turns the user's
mistakes, which reach it as exceptions, into one sentence and an exit code.

Exit codes: 0 done, 1 a project whose target no rung meets, 2 a mistake of the user's, 130 interrupted, 141 the reader
of our output has gone, 143 asked to stop (SIGTERM); a run that is interrupted or asked to stop has saved itself first.
"""

import difflib
import errno
import importlib
import json
import os
import sys
from typing import NamedTuple

from modelwright import __version__
from modelwright.train.allocator import keep_large_blocks


class Command(NamedTuple):
    module: str
    stage: str  # of the life of a model
    line: str  # what it does, in one line


COMMANDS = {
    "init": Command("modelwright.project.begin", "scope", "write a project file to begin with"),
    "run": Command("modelwright.project.run", "scope", "climb a project's ladder to the cheapest model that will do"),
    "inspect": Command("modelwright.recipes.inspect", "select", "look into a model: shape, costs, attention, choices"),
    "tokenizer": Command("modelwright.recipes.tokenizer", "pretrain", "train a tokenizer: BPE, WordPiece or Unigram"),
    "pretrain": Command(
        "modelwright.recipes.pretrain", "pretrain", "train a model on text, from scratch or on from another"
    ),
    "tune": Command("modelwright.recipes.tune", "adapt", "tune a model on a task: full, LoRA or a soft prompt"),
    "merge": Command(
        "modelwright.recipes.merge", "adapt", "merge a LoRA into its base, and prove that nothing changed"
    ),
    "evaluate": Command("modelwright.recipes.evaluate", "evaluate", "measure a model on a task, or on a text"),
    "rank": Command("modelwright.recipes.rank", "align", "have people rank several answers to each prompt, on a page"),
    "align": Command(
        "modelwright.recipes.align", "align", "align a model with preferences or a reward: reward model, DPO, PPO, GRPO"
    ),
    "generate": Command("modelwright.recipes.generate", "integrate", "continue a prompt, or fill its masks"),
    "chat": Command("modelwright.recipes.chat", "integrate", "talk with a model"),
    "serve": Command("modelwright.recipes.serve", "integrate", "serve a model over HTTP, as OpenAI's API"),
    "bench": Command("modelwright.recipes.bench", "integrate", "load a server, and report how it bore it"),
    "report": Command("modelwright.project.show", "report", "build the page of a project's run again"),
}

EXAMPLES = """\
  modelwright tokenizer desk --output runs/tokenizer
  modelwright pretrain desk --tokenizer runs/tokenizer --time 2min --output runs/first
  modelwright generate runs/first/model "Agent:"
"""

NAMED = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code. MODELWRIGHT_DEBUG=1 lets every exception through."""
    args = sys.argv[1:] if argv is None else argv
    if not args or args[0] in ("-h", "--help", "help"):
        print(help_text(), end="")
        return 0
    if args[0] in ("-V", "--version"):
        print(f"modelwright {__version__}")
        return 0
    if args[0] not in COMMANDS:
        return complain(unknown(args[0]), as_json="--json" in args)
    return run(args[0], args[1:])


def run(name: str, args: list[str]) -> int:
    """Import the command's module, call its main, and turn the user's mistakes into exit codes."""
    keep_large_blocks()
    as_json = "--json" in args
    try:
        code = importlib.import_module(COMMANDS[name].module).main(args)
        sys.stdout.flush()
        return int(code or 0)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # What is still buffered has no reader; without this the interpreter's last flush would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except SystemExit as exit:  # argument parsers leave so
        return exit.code if isinstance(exit.code, int) else int(bool(exit.code))
    except Exception as error:
        if os.environ.get("MODELWRIGHT_DEBUG") == "1" or not is_mistake(error):
            raise
        return complain(sentence(error), as_json)


def is_mistake(error: Exception) -> bool:
    """Whether what went wrong is the user's to mend: a value, or a file that the system would not open, read or write.

    An OSError that names a file, or that has a sentence in place of the system's number, is told; one that says
    neither where nor what is a fault of ours, and shows its traceback as any other exception does.
    """
    if isinstance(error, OSError):
        named = error.filename is not None or (error.errno is None and str(error) != "")
        return named or isinstance(error, NAMED) or disk_full(error)
    return isinstance(error, ValueError) or disk_full(error)


def disk_full(error: Exception) -> bool:
    """Libraries written in Rust report the system's errors in their own exceptions, with the number in the text."""
    return getattr(error, "errno", None) in DISK_FULL or f"(os error {errno.ENOSPC})" in str(error)


def sentence(error: Exception) -> str:
    """What went wrong, in one line; what the system said, put into words."""
    if isinstance(error, OSError) and error.errno and error.strerror == os.strerror(error.errno):
        what = "the disk is full" if disk_full(error) else error.strerror.lower()
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return f"{what}: {' -> '.join(names)}" if names else what
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split()) or type(error).__name__


def complain(message: str, as_json: bool) -> int:
    text = json.dumps({"error": message}, ensure_ascii=False) if as_json else f"modelwright: {message}"
    print(text, file=sys.stderr)
    return 2


def unknown(name: str) -> str:
    near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"the commands are {', '.join(COMMANDS)}"
    return f"unknown command {name!r}; {hint}"


def help_text() -> str:
    width = max(map(len, COMMANDS))
    lines = ["usage: modelwright COMMAND ...   (modelwright COMMAND --help says what it takes)", ""]
    for stage in dict.fromkeys(command.stage for command in COMMANDS.values()):
        lines.append(f"{stage}:")
        lines += [f"  {name:<{width}}  {c.line}" for name, c in COMMANDS.items() if c.stage == stage]
    lines += ["", "example:", EXAMPLES.rstrip("\n"), ""]
    lines += ["--version says the version; MODELWRIGHT_DEBUG=1 in the environment shows tracebacks.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
