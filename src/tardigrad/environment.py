"""Environment: what a result depends on beside its configuration."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tardigrad._version import __version__
from tardigrad.config import RunConfig


def environment(config: RunConfig) -> dict[str, Any]:
    """What a result depends on beside its configuration."""
    cuda = torch.cuda.get_device_name() if config.device.startswith("cuda") else None
    return {
        "tardigrad": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": config.threads,
        "device": config.device,
        "cuda": cuda,
        "commit": _source_commit(),
        "command": shlex.join([_program(), *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cpu_name() -> str:
    """The processor's name as Linux gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _program() -> str:
    """The program as one would type it."""
    name = Path(sys.argv[0]).name
    return "tardigrad" if name == "__main__.py" else name


def _source_commit() -> str | None:
    """The commit of the source tree this package runs from, with ``+`` where it was changed; None if installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        call = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(call, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
