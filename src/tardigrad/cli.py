"""The command line. Imports no torch until a command needs it, so that help and lists answer at once."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from tardigrad.errors import FAILURES, Stopped, TardigradError, UnknownName

HELP = """usage: tardigrad COMMAND ...

Asynchronous data-parallel training in which a recipe tuned for one machine keeps working.

  tardigrad train RECIPE [--rule RULE] [--workers N] ...     train once; every setting is an option
  tardigrad train RECIPE --engine local ...                  the same with a process for each worker
  tardigrad train --resume RUN                               go on with a run that was stopped
  tardigrad run [--workers N] ... SCRIPT.py [ITS ARGUMENTS]  your own training script, with a process for each worker
  tardigrad serve RECIPE_OR_SCRIPT --listen :7070 ...        either of them, for workers that join from any machine
  tardigrad join HOST:PORT --secret-file FILE ...            work for such a run, from now until it is over
  tardigrad status RUN                                       a run's workers, pace and events, live
  tardigrad workers RUN --set N                              more or fewer workers while it goes on
  tardigrad export RUN [--output FILE]                       its weights, for the plain model
  tardigrad replay RUN [--rule RULE] ...                     computed again from its log: bit for bit equal? or what if?
  tardigrad compare RECIPE [--lrs LR ...] [--seeds S ...]    algorithms x workers x learning rates x seeds, resumable
  tardigrad tune RECIPE [--workers N ...] ...                the same trials for every algorithm; what is best for each
  tardigrad report RUN ...                                   pictures, table and verdict of runs as one page
  tardigrad list [KIND]                                      recipes, rules, delays and everything else with a name
  tardigrad doctor                                           what this machine has, what is missing, what to type

Each command has its own --help. Start with: tardigrad compare digits --lrs 0.1 --seeds 0
"""

COMMANDS = {
    "train": "tardigrad.commands.train:train",
    "run": "tardigrad.commands.run:run",
    "serve": "tardigrad.commands.serve:serve",
    "join": "tardigrad.commands.join:join",
    "status": "tardigrad.commands.runs:status",
    "workers": "tardigrad.commands.runs:workers",
    "export": "tardigrad.commands.runs:export",
    "replay": "tardigrad.commands.replay:replay",
    "compare": "tardigrad.commands.compare:compare",
    "tune": "tardigrad.commands.compare:tune",
    "report": "tardigrad.commands.report:report",
    "list": "tardigrad.commands.about:names",
    "doctor": "tardigrad.commands.about:doctor",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status.

    0; 1 for a run that failed or diverged; 2 for a bad request; 3 where it was stopped before its end and can go on.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except FAILURES as error:
        return _complain(error, status=1)
    except Stopped as error:
        return _complain(error, status=3)
    except TardigradError as error:
        return _complain(error, status=2)
    except BrokenPipeError:  # the reader (head, a pager) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        hint = "; the same command goes on where this one ended" if words[:1] in (["compare"], ["tune"]) else ""
        print(f"\nstopped{hint}", file=sys.stderr)
        return 130


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if words[0] == "--version":
        from tardigrad._version import __version__

        print(f"tardigrad {__version__}")
        return 0
    if words[0] not in COMMANDS:
        raise UnknownName("command", words[0], COMMANDS)
    module, _, function = COMMANDS[words[0]].partition(":")
    status: int = getattr(importlib.import_module(module), function)(words[1:])
    return status


def _complain(error: Exception, *, status: int) -> int:
    print(f"tardigrad: {error}", file=sys.stderr)
    for note in getattr(error, "__notes__", []):
        print(note, file=sys.stderr)
    return status
