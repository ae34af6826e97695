"""The parameter server without any engine: two workers, one of them slow, in an order written down by hand.

Type: python examples/simulate_by_hand.py
"""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

import tardigrad

ORDER = [0, 0, 0, 1] * 5  # whose push comes next: worker 1 needs three times as long as worker 0

generator = torch.Generator().manual_seed(0)
x = torch.randn(80, 3, generator=generator, dtype=torch.float64)
chance = torch.sigmoid(x @ torch.tensor([1.5, -1.0, 0.5], dtype=torch.float64))
y = torch.bernoulli(chance, generator=generator)


def gradient(weights, step):
    """The mean gradient over the four samples of this step, at the weights a worker holds."""
    w = weights.clone().requires_grad_()
    batch = slice(4 * step, 4 * step + 4)
    return torch.autograd.grad(cross_entropy(x[batch] @ w, y[batch]), [w])


def train(rule):
    """Yield (worker, staleness, loss over all samples) after each commit."""
    server = tardigrad.ParameterServer([torch.zeros(3, dtype=torch.float64)], rule, lr=2.0, workers=2)
    snapshots = {worker: server.pull(worker) for worker in (0, 1)}
    for step, worker in enumerate(ORDER):
        commit = server.push(worker, gradient(snapshots[worker].weights[0], step))
        snapshots[worker] = server.pull(worker)  # the backup of this worker is taken here
        (now,) = server.weights()
        yield worker, commit.staleness, cross_entropy(x @ now, y).item()


print("commit  worker  staleness    asgd  dc-asgd")
both = zip(train(tardigrad.rule("asgd")), train(tardigrad.rule("dc-asgd")), strict=True)
for commit, ((worker, staleness, plain), (_, _, compensated)) in enumerate(both, 1):
    print(f"{commit:>6}  {worker:>6}  {staleness:>9}  {plain:6.3f}  {compensated:7.3f}")
