"""Plain torch.distributed send and recv between two hosts, gloo: the measure for every transport."""

from __future__ import annotations

import os

import torch
from hosts_process import GRADIENT, Told, counted, mark, require_mark, serve, told
from torch import distributed


def answer(weights: torch.Tensor, gradient: torch.Tensor) -> None:
    """As the server: until the worker is gone."""
    number = 0
    while True:
        number += 1
        try:
            distributed.recv(gradient, src=1)
        except RuntimeError:  # gloo says so when the other end is gone
            return
        require_mark(gradient, number)
        mark(weights, number)
        distributed.send(weights, dst=1)


def exchange(given: Told, weights: torch.Tensor, gradient: torch.Tensor) -> None:
    """As the worker."""
    count = 0

    def turn(times: int) -> dict[str, list[float]]:
        nonlocal count
        seconds: list[float] = []
        for _ in range(times):
            count += 1
            gradient.fill_(GRADIENT)
            mark(gradient, count)
            with counted(seconds):
                distributed.send(gradient, dst=0)
                distributed.recv(weights, src=0)
            require_mark(weights, count)
        return {"exchange": seconds}

    serve(turn)


def main() -> None:
    given = told()
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = given.interface
    rank = 0 if given.is_server else 1
    distributed.init_process_group("gloo", init_method=f"tcp://{given.address}", rank=rank, world_size=2)
    weights, gradient = torch.zeros(given.parameters), torch.zeros(given.parameters)
    if given.is_server:
        answer(weights, gradient)
    else:
        exchange(given, weights, gradient)
    os._exit(0)  # the other end may be gone already, which gloo takes for a fault


if __name__ == "__main__":
    main()
