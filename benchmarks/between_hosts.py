"""Between hosts: a gradient to the server and the weights back, from one host to another.

    python benchmarks/between_hosts.py [--quick] [--rounds 5] [--output results/bench/between-hosts.json]

Two processes on two hosts, which are network namespaces of this machine with a cable between them; without the right
to make them (root, ``ip``) both are on localhost, and the table says so. An *exchange* is as many float32 there and as
many back, one after the other: Tardigrad's stream alone, with TLS and on a network declared trusted; both again with
everything that a run has, a worker process, two bridges and the commit of dc-asgd; beside them plain torch.distributed
send and recv (gloo), and an actor server of Ray over its object store, on a cluster of the same two hosts; on localhost
its two actors share one store, and no cable is between them.

All stand ready at once, each exchanges some times, then the next, round after round; a ratio is taken within a round,
and what counts is its median. Under a limit of 1 Gbit/s (``tc`` tbf at both ends of the cable) the *share of the line*
is the bits of float32 there and back over what the line could carry in that time.

About five minutes on free cores, most of them for the compiler and the slow line.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from carriers import PARTS, SIZES, Carrier, Effort, line, middle, ratios, spread, verdict
from parts.hosts_cluster import Cluster
from parts.talking import Reply, Talk, started

from tardigrad.config import RunConfig
from tardigrad.environment import environment

WAYS: Mapping[str, tuple[str, bool]] = {
    "gloo, torch.distributed's send and recv": ("gloo", True),
    "stream alone, trusted network": ("stream", True),
    "stream alone, TLS": ("stream", False),
    "worker, bridges and commit, trusted network": ("bridge", True),
    "worker, bridges and commit, TLS": ("bridge", False),
}
GLOO, ALONE, *_ = WAYS_IN_SHORT = tuple(WAYS)[:2]
RAY = "ray, an actor server over the object store"
GBIT, SHAPE = 1e9, ("rate", "1gbit", "burst", "256k", "latency", "50ms")
OF_GLOO, OF_RAY, MILLISECONDS, SHARE = 0.85, 2.0, 1.5, 0.9
_SILENCE = 240.0  # seconds after which a process that says nothing is given up
_NETWORK, _PORT = "10.79.0", 7400


@dataclass(frozen=True)
class Hosts:
    """Where the two processes are.

    Attributes:
        names: of the namespaces of server and worker; empty: both are on localhost.
        interfaces: of the two.
        address: of the server, without a port.
    """

    names: tuple[str, ...] = ()
    interfaces: tuple[str, str] = ("lo", "lo")
    address: str = "127.0.0.1"

    def command(self, place: int, words: Sequence[str]) -> list[str]:
        """These words, to be run on one of the two."""
        return ["ip", "netns", "exec", self.names[place], *words] if self.names else list(words)

    def limit(self) -> None:
        """Slow the cable down, in both directions."""
        for name, interface in zip(self.names, self.interfaces, strict=True):
            _run("ip", "netns", "exec", name, "tc", "qdisc", "replace", "dev", interface, "root", "tbf", *SHAPE)


@contextmanager
def two_hosts() -> Iterator[Hosts]:
    """Two namespaces with a cable, or localhost where they cannot be made."""
    names = tuple(f"tg{os.getpid()}{which}" for which in "ab")
    made = Hosts(names, ("cable0", "cable1"), f"{_NETWORK}.1")
    if shutil.which("ip") is None or shutil.which("tc") is None or os.geteuid() != 0:
        yield Hosts()
        return
    try:
        try:
            _lay(made)
        except subprocess.CalledProcessError:
            made = Hosts()
        yield made
    finally:
        for name in names:
            with suppress(subprocess.CalledProcessError):
                _run("ip", "netns", "delete", name)


def _lay(hosts: Hosts) -> None:
    """The namespaces, and the cable between them."""
    for name in hosts.names:
        _run("ip", "netns", "add", name)
    (here, there), (one, two) = hosts.names, hosts.interfaces
    _run("ip", "link", "add", one, "netns", here, "type", "veth", "peer", "name", two, "netns", there)
    for number, (name, interface) in enumerate(zip(hosts.names, hosts.interfaces, strict=True), 1):
        _run("ip", "-n", name, "addr", "add", f"{_NETWORK}.{number}/24", "dev", interface)
        for each in (interface, "lo"):
            _run("ip", "-n", name, "link", "set", each, "up")


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


class Pair(Talk):
    """A carrier's two processes, of which the worker is talked to."""

    def __init__(self, way: str, hosts: Hosts, parameters: int, port: int, *, compiled: bool = True) -> None:
        part, trusted = WAYS[way]
        self._way = way
        errors, processes = tempfile.TemporaryFile("w+"), []  # noqa: SIM115 - closed in close
        told = {"address": f"{hosts.address}:{port}", "parameters": parameters, "trusted": trusted}
        told |= {"secret": secrets.token_hex(32), "compiled": compiled}
        for place, role in enumerate(("server", "worker")):
            words = json.dumps({**told, "role": role, "interface": hosts.interfaces[place]})
            command = hosts.command(place, [sys.executable, str(PARTS / f"hosts_{part}.py"), words])
            processes.append(started(command, errors))
        super().__init__(processes, errors, silence=_SILENCE, grace=10.0)

    def hear(self) -> Reply:
        """What the worker says next, such as that it stands ready: none of the two may be missing."""
        said = super().hear()
        if self.missing:
            raise RuntimeError(f"the worker of {self._way!r} {self.missing}")
        return said


def free_rows(
    name: str, parameters: int, hosts: Hosts, effort: Effort, *, quick: bool, ray: bool
) -> list[dict[str, Any]]:
    """All ways on a cable without a limit, in turn."""
    times, replies = effort.times(parameters), {way: [] for way in (*WAYS, RAY)}
    with ExitStack() as stack:
        started: dict[str, Any] = {}
        for number, way in enumerate(WAYS):
            started[way] = stack.enter_context(Pair(way, hosts, parameters, _PORT + number, compiled=not quick))
        for process in started.values():
            process.hear()
        if ray:
            started[RAY] = stack.enter_context(ray_on(hosts, parameters))
        for _ in range(effort.rounds):
            for way, process in started.items():
                replies[way].append(process.turn(times))
    rows = [row_of(name, way, replies[way], replies[GLOO], replies[ALONE]) for way in WAYS]
    if not ray or started[RAY].missing:
        return [*rows, {"parameters": name, "way": RAY, "missing": started[RAY].missing if ray else "left out"}]
    return [*rows, row_of(name, RAY, replies[RAY], replies[GLOO], replies[ALONE])]


class RayPair(Talk):
    """Ray's two actors, on a cluster of the two hosts."""

    def __init__(self, hosts: Hosts, parameters: int) -> None:
        self._cluster = Cluster(hosts.command, (hosts.address, f"{_NETWORK}.2"), parameters)
        errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in close
        super().__init__([self._cluster.driver], errors, silence=_SILENCE)
        self.hear()

    def close(self) -> None:
        """End the cluster."""
        super().close()
        self._cluster.close()


def ray_on(hosts: Hosts, parameters: int) -> RayPair | Carrier:
    """Ray between the two hosts, or on this one."""
    if importlib.util.find_spec("ray") is None or not hosts.names:
        return Carrier("ray", parameters=parameters)
    return RayPair(hosts, parameters)


def row_of(name: str, way: str, mine: Sequence[Reply], gloo: Sequence[Reply], alone: Sequence[Reply]) -> dict[str, Any]:
    """One line of the table."""
    row: dict[str, Any] = {"parameters": name, "way": way}
    for what in ("exchange", "commit"):
        if what in mine[0]:
            row |= spread(f"{what}, ms", [1e3 * middle(each[what]) for each in mine])
    row |= {"fastest exchange, ms": round(1e3 * min(min(each["exchange"]) for each in mine), 4)}
    row |= spread("speed over gloo's", ratios(gloo, mine))
    return row | spread("times the stream alone", ratios(mine, alone))


def limited_rows(name: str, parameters: int, hosts: Hosts, effort: Effort, *, compiled: bool) -> list[dict[str, Any]]:
    """All ways on a cable of 1 Gbit/s, one after the other."""
    bits, rows = 2 * 32 * parameters, []
    for number, way in enumerate(WAYS if compiled else WAYS_IN_SHORT):
        with Pair(way, hosts, parameters, _PORT + 50 + number, compiled=compiled) as pair:
            pair.hear()
            replies = [pair.turn(max(2, effort.times(parameters) // 3)) for _ in range(2)]
        took = [middle(each["exchange"]) - middle(each.get("commit", [0.0])) for each in replies]
        row = {"parameters": name, "way": way, "line": "1 Gbit/s"}
        rows.append(row | spread("share of the line", [bits / (seconds * GBIT) for seconds in took]))
        print(line(rows[-1]), flush=True)
    return rows


def verdicts(found: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """What was to be reached, and whether it is."""
    rows = {(row["parameters"], row["way"]): row for row in found["free"]}
    ours = {name: row for (name, way), row in rows.items() if way == ALONE}
    words = []
    if "25.6 M" in ours:
        words.append(verdict("25.6 M: stream alone, speed over gloo's", ours["25.6 M"]["speed over gloo's"], OF_GLOO))
        ray = rows.get(("25.6 M", RAY), {})
        if "exchange, ms" in ray:
            took = ours["25.6 M"]["exchange, ms"]
            words.append(verdict("25.6 M: speed over ray's median", ray["exchange, ms"] / took, OF_RAY))
            words.append(verdict("25.6 M: speed over ray's best", ray["fastest exchange, ms"] / took, 1.0))
    if "0.27 M" in ours:
        took = ours["0.27 M"]["exchange, ms"]
        words.append(verdict("0.27 M: stream alone, exchange, ms", took, MILLISECONDS, most=True))
    for row in found["limited"]:
        if row["way"].startswith("stream") and row["parameters"] == "25.6 M":
            words.append(verdict(f"1 Gbit/s: {row['way']}, share of the line", row["share of the line"], SHARE))
    return words


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small, short, without ray")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each, at least 2")
    parser.add_argument("--no-ray", action="store_true", help="leave ray out")
    parser.add_argument("--output", type=Path, help="write the tables as JSON")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    options = parsed(words)
    torch.set_num_threads(1)
    quick = options.quick
    sizes = {"1,000": 1000} if quick else SIZES
    effort = Effort(2, 1e4, 5) if quick else Effort(options.rounds, 1.2e9, 100)
    found: dict[str, list[dict[str, Any]]] = {"free": [], "limited": []}
    with two_hosts() as hosts:
        place = "two network namespaces" if hosts.names else "localhost: namespaces cannot be made here"
        print(place, flush=True)
        for name, parameters in sizes.items():
            rows = free_rows(name, parameters, hosts, effort, quick=quick, ray=not (quick or options.no_ray))
            print("\n".join(line(row) for row in rows), flush=True)
            found["free"] += rows
        if hosts.names:
            hosts.limit()
            largest = max(sizes.items(), key=lambda size: size[1])
            found["limited"] = limited_rows(*largest, hosts, effort, compiled=not quick)
    judged = verdicts(found)
    print("\n".join(judged), flush=True)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        whole = {"environment": environment(RunConfig(threads=1)), "hosts": place, **found, "limits": judged}
        options.output.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
