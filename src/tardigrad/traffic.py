"""Traffic: what an exchange carries, how many a second are wanted and how many are possible, and what to do about it.

An exchange is one gradient up and the weights down. With W workers of which each takes s seconds for a gradient, W / s
exchanges a second are wanted. Three things bound them: that a worker computes or exchanges and does not do both at
once, however free link and server are; the server's link, which all workers share, both ways at once; and the time of
a commit, of which there is one at a time.

Imports no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tardigrad.errors import InvalidArgument

_LINK = re.compile(r"(\d+(?:\.\d+)?(?:e\+?\d+)?)\s*([kMGT]?)(bit|b|B)(?:/s|ps)", re.IGNORECASE)
_POWERS = {"": 0, "k": 3, "m": 6, "g": 9, "t": 12}
_NOT_THERE = (
    "not there yet: several gradients summed in a worker before a push. Between machines there are --wire bfloat16, "
    "--shards 2 and tardigrad join --overlap"
)
_ENOUGH = 0.95  # of what is wanted: nobody would notice the rest


def bytes_per_second(link: str) -> float:
    """Bytes per second of a link such as ``1Gbit/s``, ``10 Gb/s``, ``125MB/s``; k, M, G and T are powers of 1000.

    >>> bytes_per_second("1Gbit/s"), bytes_per_second("125 MB/s")
    (125000000.0, 125000000.0)

    Raises:
        InvalidArgument: for anything else, or for none at all.
    """
    match = _LINK.fullmatch(link.strip())
    number, prefix, unit = match.groups() if match else ("0", "", "B")
    rate = float(number) * 10.0 ** _POWERS[prefix.lower()] / (1.0 if unit == "B" else 8.0)
    if rate <= 0.0 or math.isinf(rate):
        raise InvalidArgument(f"{link!r} is not the speed of a link; type 1Gbit/s (bits) or 125MB/s (bytes).")
    return rate


@dataclass(frozen=True, slots=True)
class Traffic:
    """Exchanges wanted and possible.

    Attributes:
        size: bytes of a gradient, or of the weights: one way.
        steps: seconds that each worker takes for a gradient.
        commit: seconds that the server takes for one exchange, > 0.
        link: bytes per second and way of a worker's link, and of the server's; infinite in shared memory.
        latency: seconds of a message, each way.
        tied: whether all go at the pace of the slowest.
    """

    size: int
    steps: Sequence[float]
    commit: float
    link: float = math.inf
    latency: float = 0.0
    tied: bool = False

    @property
    def exchange(self) -> float:
        """Seconds of an exchange on a worker's link that nobody else uses."""
        return 2.0 * (self.latency + self.size / self.link)

    @property
    def wanted(self) -> float:
        """Exchanges a second if nobody waited for link or server."""
        return self._pace(0.0)

    @property
    def of_workers(self) -> float:
        """Exchanges a second where each worker computes, then exchanges on a link and with a server all its own."""
        return self._pace(self.exchange + self.commit)

    @property
    def of_server_link(self) -> float:
        """Exchanges a second that the server's link carries: gradients come in while weights go out."""
        return self.link / self.size

    @property
    def of_commits(self) -> float:
        """Exchanges a second that the server can compute."""
        return 1.0 / self.commit

    @property
    def possible(self) -> float:
        """Exchanges a second that will be seen, at most."""
        return min(self.of_workers, self.of_server_link, self.of_commits)

    @property
    def is_enough(self) -> bool:
        """Whether link and server keep up with the workers."""
        return self.possible >= _ENOUGH * self.wanted

    @property
    def most_workers(self) -> int:
        """Workers of the mean step beyond which more add nothing; 0: not even one is kept busy by what it shares."""
        mean = sum(self.steps) / len(self.steps)
        return math.floor(min(self.of_server_link, self.of_commits) * (mean + self.exchange + self.commit))

    def _pace(self, more: float) -> float:
        """Exchanges a second of workers that take ``more`` seconds beside each gradient."""
        if self.tied:
            return len(self.steps) / (max(self.steps) + more)
        return sum(1.0 / (step + more) for step in self.steps)


def described(traffic: Traffic, *, about_commit: str) -> list[str]:
    """Lines that say what is wanted and what is possible; ``about_commit``: where the time of a commit is from."""
    workers, steps = len(traffic.steps), sorted(traffic.steps)
    pace = f"{steps[0]:.3g} s" if steps[-1] <= 1.01 * steps[0] else f"{steps[0]:.3g} to {steps[-1]:.3g} s"
    each = "1 worker" if workers == 1 else f"{workers} workers"
    lines = [f"an exchange: {_megabytes(2 * traffic.size)} MB (gradient up, weights down)"]
    if math.isfinite(traffic.link):
        lines[0] += f", {traffic.exchange:.3g} s at {_link(traffic.link)}"
    rows = [("wanted", traffic.wanted, f"{each}, {pace} a gradient{', all at the pace of the slowest' * traffic.tied}")]
    rows.append(("workers", traffic.of_workers, "each computes, then exchanges, as if alone"))
    if math.isfinite(traffic.link):
        rows.append(("server's link", traffic.of_server_link, "shared by all, both ways at once"))
    rows.append(("commits", traffic.of_commits, f"{1e3 * traffic.commit:.3g} ms each, {about_commit}"))
    lines += ["", "exchanges a second"]
    lines += [f"  {name:<16} {rate:>10.4g}  {words}" for name, rate, words in rows]
    return lines


def advice(traffic: Traffic, *, batch: int, faster_commit: str) -> list[str]:
    """What to do where link or server do not keep up; lines, the first a verdict.

    Args:
        traffic: wanted and possible.
        batch: samples in a gradient now.
        faster_commit: what to type for a commit that takes less time.
    """
    if traffic.is_enough:
        return ["link and server keep up with the workers." if math.isfinite(traffic.link) else "the server keeps up."]
    share = 100.0 * traffic.possible / traffic.wanted
    lines = [f"at most {share:.2g} % of what is wanted: {_culprit(traffic)}. What helps:"]
    more = traffic.wanted / min(traffic.of_server_link, traffic.of_commits)
    if more > 1.0:
        lines += _for_what_is_shared(traffic, more, batch)
    else:
        step = 20.0 * (traffic.exchange + traffic.commit)
        lines.append(f"larger batches: with steps of {step:.3g} s an exchange is 5 % of the time")
    if traffic.of_commits < _ENOUGH * traffic.wanted:
        lines.append(f"a faster commit: {faster_commit}")
    if traffic.of_server_link < traffic.wanted:
        lines.append(f"a faster link: the server's would have to carry {_link(traffic.wanted * traffic.size)} each way")
    return [*lines, _NOT_THERE]


def _for_what_is_shared(traffic: Traffic, more: float, batch: int) -> list[str]:
    """``more`` times as many exchanges are wanted as all workers together can have."""
    samples, most = math.ceil(more * batch), traffic.most_workers
    return [
        f"larger batches: {samples} samples instead of {batch}, a step {more:.2g} times as long; tune the rate again",
        f"fewer workers: beyond {most} more add nothing"
        if most
        else "fewer workers would not help: what they share does not keep even one busy",
    ]


def _culprit(traffic: Traffic) -> str:
    bounds = {
        "the server's link is full": traffic.of_server_link,
        "the server is busy with commits": traffic.of_commits,
        "workers wait for their own exchanges": traffic.of_workers,
    }
    return min(bounds, key=bounds.__getitem__)


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f}" if size >= 1e8 else f"{size / 1e6:.3g}"


def _link(rate: float) -> str:
    bits = 8.0 * rate
    return f"{bits / 1e9:.3g} Gbit/s" if bits >= 1e9 else f"{bits / 1e6:.3g} Mbit/s"
