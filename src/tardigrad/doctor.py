"""`tardigrad doctor`: what this machine has, what is missing, and what to type."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tardigrad._version import __version__
from tardigrad.data.archives import find_source, size_flaw
from tardigrad.data.places import find_data_directory
from tardigrad.data.published import PUBLISHED
from tardigrad.environment import cpu_name

_PACKAGES = {
    "sklearn": ("scikit-learn", "digits", "the task 'digits'"),
    "matplotlib": ("matplotlib", "report", "pictures"),
    "jinja2": ("jinja2", "report", "the report's page"),
    "pooch": ("pooch", "data", "fetching data sets"),
}
_BFLOAT16 = {"avx512_bf16": "AVX-512 BF16", "amx_bf16": "AMX", "bf16": "Arm BF16"}  # as Linux calls them
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: whether all is well, what was found, and what to type where it is not."""

    good: bool
    subject: str
    found: str
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Look at platform, cores, memory, GPUs, compiler, packages and data."""
    linux = sys.platform == "linux"
    yield Finding(linux, "platform", platform.platform(), "" if linux else "use Linux: WSL 2, or a container")
    yield Finding(True, "tardigrad", __version__)
    yield Finding(sys.version_info >= (3, 11), "python", platform.python_version(), "install Python 3.11 or newer")
    cores = len(os.sched_getaffinity(0))
    yield Finding(True, "cores", f"{cores} usable of {os.cpu_count()}: {cpu_name()}")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Finding(True, "memory", f"{memory:.1f} GiB")
    yield Finding(True, "bfloat16", _bfloat16())
    yield from _torch()
    compiler = next((found for name in (os.environ.get("CXX"), "g++") if name and (found := shutil.which(name))), None)
    none = "none: commits of large models take the exact path, several times slower; install g++, or name one in CXX"
    yield Finding(True, "C++ compiler", compiler or none)
    yield from _packages()
    yield from _data()


def _bfloat16() -> str:
    """Whether this processor computes in bfloat16, or only pretends to."""
    try:
        words = set(_CPUINFO.read_text().split())
    except OSError:
        return "on CPU: not known"
    found = [name for word, name in _BFLOAT16.items() if word in words]
    if found:
        return f"on CPU: {' and '.join(found)}"
    return "on CPU: neither AVX-512 BF16 nor AMX, so --precision bfloat16 is 10 to 20 times slower than float32 there"


def _torch() -> Iterator[Finding]:
    import torch

    yield Finding(True, "torch", f"{torch.__version__}, CPU capability {torch.backends.cpu.get_cpu_capability()}")
    if not torch.cuda.is_available():
        yield Finding(True, "GPU", "none: --device cpu")
        return
    for number in range(torch.cuda.device_count()):
        yield Finding(True, "GPU", f"cuda:{number} {torch.cuda.get_device_name(number)}")


def _packages() -> Iterator[Finding]:
    for module, (package, extra, purpose) in _PACKAGES.items():
        try:
            version = getattr(importlib.import_module(module), "__version__", "found")
            yield Finding(True, package, str(version).removeprefix("v"))
        except ImportError:
            yield Finding(False, package, f"missing: {purpose}", f"pip install 'tardigrad[{extra}]'")


def _data() -> Iterator[Finding]:
    """The built-in data sets; only the digits need no download."""
    there = importlib.util.find_spec("sklearn") is not None
    found = "digits: bundled with scikit-learn" if there else "digits: not found"
    yield Finding(there, "data", found, "pip install 'tardigrad[digits]'")
    yield _cifar10()


def _cifar10() -> Finding:
    """Whether CIFAR-10 lies where it is looked for, by names and sizes: a look, not a check."""
    published, directory = PUBLISHED["cifar10"], find_data_directory()
    source = find_source(published, directory)
    if source is None:
        found = f"CIFAR-10: not in {directory}; the first run that needs it fetches it, or finds it under --data-dir"
        return Finding(True, "data", found)
    flaw = size_flaw(published, source)
    return Finding(
        not flaw, "data", f"CIFAR-10: {source}{flaw and ', but ' + flaw}", f"rm -r {shlex.quote(str(source))}"
    )


def print_examination() -> None:
    """Print every finding, then what to type."""
    findings = list(examine())
    for finding in findings:
        print(f"{'ok     ' if finding.good else 'MISSING'} {finding.subject:<13} {finding.found}")
    remedies = [finding.remedy for finding in findings if not finding.good and finding.remedy]
    print("\nTo type: " + "; ".join(dict.fromkeys(remedies)) if remedies else "\nNothing is missing.")
