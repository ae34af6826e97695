"""Commits of a rule whose window is full and says how long each of its products took."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tardigrad.commit.base import CommitPath, Part
from tardigrad.layout import FlatLayout
from tardigrad.records import Facts
from tardigrad.window import Window, WindowPlan

PARTS_OF_A_COMMIT = ("add and Gram row", "S d", "system", "S^T y", "rest")
_SOME = 1 << 16  # columns that the whole Gram matrix is timed on
_READ = 1 << 26  # float32 that are read to know the memory's speed


class Case:
    """One rule on one path; a call is a commit of a gradient that is one commit late."""

    def __init__(self, path: CommitPath, weights: Tensor, gradient: Tensor) -> None:
        self.path, self.weights, self.gradient = path, weights, gradient
        self.backup, self.version = weights.clone().mul_(0.999), 0
        path.prepare(mirrored=False, several=False, measure=False)

    def __call__(self) -> None:
        """So small a step that the weights stay."""
        facts = Facts(staleness=1, lr=1e-8, version=self.version, live=2, step=self.version)
        self.version += 1
        self.path.apply(self.weights, [Part(0, self.gradient, self.backup, facts)])


class Watched(Window):
    """A window that notes when each product begins and ends; ``settle`` waits for the device."""

    def __init__(self, plan: WindowPlan, layout: FlatLayout, settle: Callable[[], None]) -> None:
        super().__init__(plan, layout)
        self._settle, self._columns = settle, layout.size
        self._spans: dict[str, tuple[float, float]] = {}

    def add(self, gradient: Tensor, *, live: int) -> None:
        """As a window does."""
        self._noted("add and Gram row", lambda: Window.add(self, gradient, live=live))

    def against(self, vector: Tensor) -> Tensor:
        """As a window does."""
        return self._noted("S d", lambda: Window.against(self, vector))

    @property
    def gram(self) -> Tensor:
        """As a window's."""
        return self._noted("gram", lambda: Window.gram.fget(self))  # type: ignore[attr-defined]

    def combined(self, factors: Tensor) -> Tensor:
        """As a window does."""
        return self._noted("S^T y", lambda: Window.combined(self, factors))

    def split(self, whole: float) -> dict[str, float]:
        """Milliseconds of each part of the last commit, which took ``whole``; what is solved lies between products."""
        spans = {name: 1e3 * (end - begin) for name, (begin, end) in self._spans.items()}
        asked = max(self._spans["S d"][1], self._spans["gram"][1])
        spans["system"] = 1e3 * (self._spans["S^T y"][0] - asked) + spans.pop("gram")
        spans["rest"] = whole - sum(spans.values())
        return spans

    def some_rows(self) -> Tensor:
        """All rows, cut to a part of the columns, as float32."""
        return self._rows[:, :_SOME].float()

    def share(self) -> float:
        """How many such parts the columns are."""
        return self._columns / min(_SOME, self._columns)

    def _noted(self, name: str, action: Callable[[], Tensor]) -> Tensor:
        self._settle()
        begin = time.perf_counter()
        found = action()
        self._settle()
        self._spans[name] = begin, time.perf_counter()
        return found


def full_window(
    case: Case, plan: WindowPlan, layout: FlatLayout, gradient: Tensor, settle: Callable[[], None]
) -> Watched:
    """Give a case a window in which every row is this gradient, without a commit for each."""
    rows, window = plan.rows_for(1), Watched(plan, layout, settle)
    window.load_state_dict(
        {
            "rows": gradient.expand(rows, -1),
            "number": torch.arange(1, rows + 1),
            "gram": gradient.double().square().sum().cpu().expand(rows, rows),
            "used": torch.tensor(rows),
            "pushes": torch.tensor(rows),
        }
    )
    case.path.state.window = window
    return window


def recomputed_gram(rows: Tensor) -> Tensor:
    """S S^T."""
    return rows @ rows.t()


class Reader:
    """Reads memory, knows what is free, and waits for the device."""

    def __init__(self, device: torch.device, *, quick: bool) -> None:
        self.device = device
        self._memory = torch.ones(1 << 16 if quick else _READ, device=device)

    def settle(self) -> None:
        """Wait until the device has done everything."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def bytes_a_second(self) -> float:
        """Of reading, the faster of one stream and of two."""
        half = len(self._memory) // 2
        seconds = []
        for action in (self._memory.sum, lambda: torch.dot(self._memory[:half], self._memory[half:])):
            self.settle()
            begun = time.perf_counter()
            action()
            self.settle()
            seconds.append(time.perf_counter() - begun)
        return self._memory.numel() * self._memory.element_size() / min(seconds)

    def free(self) -> int:
        """Bytes that can be taken now, a GiB left over."""
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0] - 2**30
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) - 2**30
