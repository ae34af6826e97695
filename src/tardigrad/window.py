r"""The window: the last gradients that were pushed, row by row, and their inner products.

With the rows of S the last r gradients, :math:`S^T S` is r times the mean outer product of gradients, the matrix that
the paper's Eq. 6 puts in the Hessian's place and of which its Eq. 10 keeps the diagonal. It is never formed: what is
asked of it are products with S (r numbers) and with :math:`S^T` (a vector like the weights), each one reading of S, and
the Gram matrix :math:`S S^T`, to which every gradient adds one row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tardigrad.layout import FlatLayout

Kept = Literal["as the weights", "bfloat16"]
_BLOCK = 1 << 14  # columns multiplied at once: sums over them are float32, sums of those float64
_CONVERTED = 1 << 20  # on CUDA, where all columns are multiplied at once unless rows have to be converted for it
_SYSTEMS = 6  # matrices as large as the Gram matrix that are alive at once while a rule solves with it, at most


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """How many gradients a rule wants to keep, and how.

    Attributes:
        rows: gradients kept, >= 1; None: ``per_worker`` for each live worker, at least ``least``.
        per_worker, least: see ``rows``.
        kept: in the weights' own dtype or, in half the memory of float32, as bfloat16.
    """

    rows: int | None = None
    per_worker: int = 8
    least: int = 128
    kept: Kept = "as the weights"

    def rows_for(self, live: int) -> int:
        """Gradients kept with so many live workers."""
        return self.rows or max(self.least, self.per_worker * live)

    def dtype_for(self, weights: torch.dtype) -> torch.dtype:
        """In which gradients are kept."""
        return torch.bfloat16 if self.kept == "bfloat16" else weights

    def bytes_for(self, live: int, layout: FlatLayout) -> int:
        """Bytes that a window holds with so many live workers: rows, their numbers and their inner products."""
        rows = self.rows_for(live)
        return rows * (layout.size * self.dtype_for(layout.dtype).itemsize + 8 + 8 * rows)

    def scratch_for(self, live: int, layout: FlatLayout) -> int:
        """Bytes alive for a while, at most: rows converted block by block, and what is solved with the Gram matrix."""
        rows, converted = self.rows_for(live), 0
        if self.dtype_for(layout.dtype) != layout.dtype:
            converted = rows * min(layout.size, _block(layout, converts=True)) * layout.dtype.itemsize
        return converted + _SYSTEMS * 8 * rows * rows


class Window:
    """The last gradients pushed by all workers, the newest included, in no particular order of rows.

    It grows when workers join; when they leave, its memory stays, and only as many rows count as the plan then has.

    Args:
        plan: how many, and how.
        layout: of the flat buffers.
    """

    def __init__(self, plan: WindowPlan, layout: FlatLayout) -> None:
        self._plan, self._layout = plan, layout
        self._used = self._pushes = 0
        self._rows = self._empty(0)
        self._number = torch.zeros(0, dtype=torch.int64)  # of the push in each row, from 1; 0: none yet
        self._gram = torch.zeros(0, 0, dtype=torch.float64)

    @property
    def size(self) -> int:
        """How many gradients count now."""
        return int(self._counted().sum())

    @property
    def ages(self) -> Tensor:
        """How many gradients came after each row's, 0 for the newest: int64, shape (rows,)."""
        return self._pushes - self._number

    @property
    def gram(self) -> Tensor:
        """Inner products of the rows that count, zero for others: float64 on the CPU, shape (rows, rows)."""
        count = self._counted()
        return self._gram * (count[:, None] & count)

    def add(self, gradient: Tensor, *, live: int) -> None:
        """Keep one more gradient, flat, in place of the oldest once the window is full.

        Args:
            gradient: flat, in the layout.
            live: workers taking part, >= 1.
        """
        self._used = self._plan.rows_for(live)
        self._grow(self._used)
        self._pushes += 1
        row = int(self._number.argmin())
        self._rows[row].copy_(gradient)
        self._number[row] = self._pushes
        products = self._products(self._rows[row].to(gradient.dtype))
        self._gram[row], self._gram[:, row] = products, products

    def against(self, vector: Tensor) -> Tensor:
        """S v: the inner product of every row that counts with a flat vector: float64 on the CPU, shape (rows,)."""
        return self._products(vector) * self._counted()

    def _products(self, vector: Tensor) -> Tensor:
        total = torch.zeros(len(self._rows), dtype=torch.float64, device=vector.device)
        for start in range(0, self._layout.size, self._step):
            cut = slice(start, start + self._step)
            total += self._rows[:, cut].to(vector.dtype) @ vector[cut]
        return total.cpu()

    def combined(self, factors: Tensor) -> Tensor:
        """S^T y: the sum of the rows, each times its factor; factors: shape (rows,); a flat vector in the layout."""
        out = self._layout.zeros()
        y = factors.to(out)
        for start in range(0, self._layout.size, self._step):
            cut = slice(start, start + self._step)
            torch.mv(self._rows[:, cut].to(out.dtype).t(), y, out=out[cut])
        return out

    def _counted(self) -> Tensor:
        return (self.ages < self._used) & (self._number > 0)

    @property
    def _step(self) -> int:
        return _block(self._layout, converts=self._rows.dtype != self._layout.dtype)

    def _empty(self, rows: int) -> Tensor:
        dtype = self._plan.dtype_for(self._layout.dtype)
        return torch.zeros(rows, self._layout.size, dtype=dtype, device=self._layout.device)

    def _grow(self, rows: int) -> None:
        """Make room for so many gradients; those held stay where they are."""
        held = len(self._rows)
        if rows <= held:
            return
        wider = self._empty(rows)
        wider[:held].copy_(self._rows)
        self._rows = wider
        self._number = torch.cat([self._number, self._number.new_zeros(rows - held)])
        gram = self._gram.new_zeros(rows, rows)
        gram[:held, :held] = self._gram
        self._gram = gram

    def bytes_held(self) -> int:
        """Bytes of all rows and of their inner products."""
        tensors = (self._rows, self._number, self._gram)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def state_dict(self) -> dict[str, Any]:
        """Rows, their order and inner products, copied."""
        return {
            "rows": self._rows.clone(),
            "number": self._number.clone(),
            "gram": self._gram.clone(),
            "used": torch.tensor(self._used),
            "pushes": torch.tensor(self._pushes),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave, whatever the number of rows was."""
        self._rows = state["rows"].to(self._rows, copy=True)
        self._number, self._gram = state["number"].clone(), state["gram"].clone()
        self._used, self._pushes = int(state["used"]), int(state["pushes"])


def _block(layout: FlatLayout, *, converts: bool) -> int:
    """Columns that are multiplied at once; ``converts``: the rows are kept in another dtype than the weights'."""
    if layout.device.type != "cuda":
        return _BLOCK
    return _CONVERTED if converts else layout.size
