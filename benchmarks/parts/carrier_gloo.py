"""A parameter server over torch.distributed's send and recv, one worker: gloo, tensors that stay where they are."""

from __future__ import annotations

import os
import sys

import torch
from carrier_process import GRADIENT, Told, commit, now, serve, told
from torch import distributed
from torch.multiprocessing import get_context


def server(given: Told) -> None:
    """Rank 0: as many exchanges as the worker says, turn after turn; 0 ends it."""
    join(given, 0)
    weights, gradient = torch.ones(given.parameters), torch.zeros(given.parameters)
    times = torch.zeros(1, dtype=torch.int64)
    while True:
        distributed.recv(times, src=1)
        if not times:
            return
        commits = torch.zeros(int(times), dtype=torch.float64)
        for number in range(int(times)):
            distributed.recv(gradient, src=1)
            commits[number] = commit(weights, gradient)
            distributed.send(weights, dst=1)
        distributed.send(commits, dst=1)


def join(given: Told, rank: int) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group("gloo", init_method=f"file://{given.folder}/gloo", rank=rank, world_size=2)


def main() -> None:
    given = told()
    process = get_context("spawn").Process(target=server, args=(given,), daemon=True)
    process.start()
    join(given, 1)
    weights, gradient = torch.zeros(given.parameters), torch.zeros(given.parameters)

    def exchange(times: int) -> tuple[list[float], list[float], torch.Tensor]:
        distributed.send(torch.tensor([times]), dst=0)
        exchanges = []
        for _ in range(times):
            gradient.fill_(GRADIENT)
            begun = now()
            distributed.send(gradient, dst=0)
            distributed.recv(weights, src=0)
            exchanges.append(now() - begun)
        commits = torch.zeros(times, dtype=torch.float64)
        distributed.recv(commits, src=0)
        return exchanges, commits.tolist(), weights

    serve(exchange)
    distributed.send(torch.tensor([0]), dst=0)
    process.join(10)
    sys.exit(0)


if __name__ == "__main__":
    main()
