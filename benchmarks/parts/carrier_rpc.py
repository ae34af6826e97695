"""A parameter server over torch.distributed.rpc in the shape of PyTorch's tutorial on batch updates, one worker.

The trainer calls ``update_and_fetch_model`` of the server's owner by rpc_sync, with a reference to the server and its
gradients; an asynchronous execution applies them under a lock, and the new model is what the future returns. Here the
model is one flat tensor, and the batch is one trainer's gradient, so nothing is summed up.
"""

from __future__ import annotations

import os
import threading
import warnings

import torch
from carrier_process import GRADIENT, Told, commit, now, serve, told
from torch import Tensor
from torch.distributed import rpc
from torch.multiprocessing import get_context


class ParameterServer:
    """On the server's process."""

    def __init__(self, parameters: int) -> None:
        self.weights = torch.ones(parameters)
        self.lock = threading.Lock()
        self.future: torch.futures.Future[Tensor] = torch.futures.Future()
        self.commits: list[float] = []

    @staticmethod
    @rpc.functions.async_execution
    def update_and_fetch_model(reference: rpc.RRef, gradient: Tensor) -> torch.futures.Future[Tensor]:
        """One trainer's gradient in, the new model out."""
        self = reference.local_value()
        with self.lock:
            future = self.future
            self.commits.append(commit(self.weights, gradient))
            future.set_result(self.weights)
            self.future = torch.futures.Future()
        return future

    @staticmethod
    def taken(reference: rpc.RRef) -> list[float]:
        """Seconds of the commits since this was last asked."""
        self = reference.local_value()
        commits, self.commits = self.commits, []
        return commits


def join(given: Told, name: str, rank: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.environ.setdefault("TP_SOCKET_IFNAME", "lo")
    options = rpc.TensorPipeRpcBackendOptions(init_method=f"file://{given.folder}/rpc", rpc_timeout=60)
    rpc.init_rpc(name, rank=rank, world_size=2, rpc_backend_options=options)


def server(given: Told) -> None:
    """Nothing but answering."""
    join(given, "server", 0)
    rpc.shutdown()


def main() -> None:
    given = told()
    process = get_context("spawn").Process(target=server, args=(given,), daemon=True)
    process.start()
    join(given, "trainer", 1)
    reference, gradient = rpc.remote("server", ParameterServer, args=(given.parameters,)), torch.zeros(given.parameters)

    def exchange(times: int) -> tuple[list[float], list[float], torch.Tensor]:
        exchanges, model = [], None
        for _ in range(times):
            gradient.fill_(GRADIENT)
            begun = now()
            model = rpc.rpc_sync(reference.owner(), ParameterServer.update_and_fetch_model, args=(reference, gradient))
            exchanges.append(now() - begun)
        assert model is not None
        return exchanges, rpc.rpc_sync(reference.owner(), ParameterServer.taken, args=(reference,)), model

    serve(exchange)
    rpc.shutdown(graceful=False)
    process.kill()


if __name__ == "__main__":
    main()
