"""What every carrier of carriers.py has in common: a process that exchanges as often as it is told to, line by line.

    python benchmarks/parts/carrier_gloo.py '{"parameters": 1000}'

It prints one line of JSON when it stands ready. For every line that it reads, a number, it exchanges so many times and
prints the seconds of each, and of the commit in each as its server measured it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

now = time.perf_counter
LR, GRADIENT = 1e-3, 1e-2
DROPPED = 3  # exchanges at the beginning of each turn: the processes slept


@dataclass(frozen=True)
class Told:
    """What a carrier is told at its start.

    Attributes:
        parameters: how many float32 there are.
        folder: for files of its own.
        rule, path, workers: of Tardigrad's alone.
    """

    parameters: int
    folder: str = "."
    rule: str = "asgd"
    path: str = "auto"
    workers: int = 1


def told() -> Told:
    """From the command line."""
    return Told(**json.loads(sys.argv[1]))


def say(words: Mapping[str, object]) -> None:
    print(json.dumps(words), flush=True)


def turns() -> Iterator[int]:
    """How often to exchange, turn after turn, until there is no more to do; the first that count are not."""
    say({"ready": True})
    for line in sys.stdin:
        yield int(line)


def serve(exchange: Callable[[int], tuple[Sequence[float], Sequence[float], Tensor]]) -> None:
    """Answer every turn with the seconds of the exchanges and of their commits; look at the weights that came."""
    steps = 0
    for times in turns():
        exchanges, commits, weights = exchange(times + DROPPED)
        steps += times + DROPPED
        require_moved(weights, steps)
        say({"exchange": list(exchanges[DROPPED:]), "commit": list(commits[DROPPED:])})


def require_moved(weights: Tensor, steps: int) -> None:
    """The weights, 1 at first, must have come with all steps applied: else it was not the same work."""
    moved = (1.0 - float(weights[-1])) / (LR * GRADIENT)
    if abs(moved - steps) > 0.01 * steps + 0.1:
        raise RuntimeError(f"after {steps} commits the worker holds weights of {moved:.1f} steps")


def commit(weights: Tensor, gradient: Tensor) -> float:
    """Plain SGD on flat weights, as fast as PyTorch does it; return its seconds."""
    begun = now()
    weights.add_(gradient, alpha=-LR)
    return now() - begun
