"""How much more memory a process held at its peak than before."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

import torch


class Held:
    """What is held now; the record of the peak begins anew."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
            return
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before is given back, or it would hide what is taken now
        with suppress(OSError):  # a sandbox that cannot begin the record anew shows too much, never too little
            Path("/proc/self/clear_refs").write_text("5")
        self.before = status("VmRSS")

    def beyond(self) -> int:
        """Bytes held at the peak since, over those held then."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.before
        return max(0, status("VmHWM") - self.before)


def status(word: str) -> int:
    """A line of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(word + ":"))
