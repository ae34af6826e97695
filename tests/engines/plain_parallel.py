"""The same training by plain PyTorch: DistributedDataParallel in processes of its own, without a server."""

from types import SimpleNamespace

import torch
import torch.distributed as dist
from group_scripts import BATCH, parts
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel


def normalized(rank, group, samples, meeting, found):
    """What `group_scripts.normalized` trains; process 0 saves the weights."""
    torch.set_num_threads(1)
    store = dist.FileStore(meeting, group)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=group)
    torch.manual_seed(0)
    model, optimizer, loader = parts(SimpleNamespace(group=1), samples, nn.BatchNorm1d(16))
    model = DistributedDataParallel(model, find_unused_parameters=True)
    for _ in range(2):
        for inputs, labels in loader:
            own = slice(rank * BATCH, (rank + 1) * BATCH)
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[own]), labels[own]).backward()
            optimizer.step()
    if rank == 0:
        torch.save(model.module.state_dict(), found)
    dist.destroy_process_group()
