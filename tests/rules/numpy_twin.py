"""A second implementation of the server, in numpy, written from the equations and not from the package's code.

* Algorithm 2 of Zheng et al. 2017: w_bak(m) = w_0 at first, and w_t at each pull of worker m.
* Eq. 10: w <- w - lr (g + lambda_t g g (w - w_bak)); -c: lambda_t = lambda_0.
* Eq. 14: MS <- m MS + (1 - m) g^2, lambda_t = lambda_0 / sqrt(MS + eps); MS = 0 at first, one per worker or shared.
* damped: E = lambda_t g^2 becomes E / (1 + s E), and the compensation is E (w - w_bak); s = lr without momentum, else
  lr (1 - dampening) times -2 Re G, G = D / ((z - 1)(1 - momentum / z)), D = 1 or (Nesterov) 1 + momentum - momentum/z,
  at the first z = e^(i theta) at which (T + 1) theta + 2 arg(1 - momentum / z) - 2 arg D = 2 pi, T the longest delay.
* dc-lowrank: E = kappa S^T S, S the last 128 gradients, kappa = 0.3 sqrt(B / r) (B / 32)^(1/4), as matrices.
* clip: |lambda_t g (w - w_bak)| <= clip in each coordinate.
* controls, of the g' that another rule makes of g: sign-flipped 2 g - g'; sign-random g' where ``kept(version)`` and
  2 g - g' elsewhere; its-length g |g'| / |g|; its-direction g' |g| / |g'|.
* clipping: g min(1, max_norm / |g|).
* then d = g + wd w, v = momentum v + (1 - dampening) d (v = d at first), and w <- w - lr v, or - lr (d + momentum v).
* Kingma & Ba 2015, Algorithm 1: m = b1 m + (1 - b1) d, v = b2 v + (1 - b2) d^2, w <- w - lr (m / (1 - b1^t)) /
  (sqrt(v / (1 - b2^t)) + eps), where Adam's d = g + wd w, AdamW's d = g and w <- (1 - lr wd) w first; amsgrad: the
  largest v so far in v's place. Damped behind it: as behind momentum b1 with dampening b1; dc-lowrank by s times
  g P g / g g, P one over the denominator of the last step.
"""

from functools import lru_cache

import numpy as np


@lru_cache
def damping(momentum, nesterov, delay):
    """-2 Re G where the phase has gone round once; the bisection begins below, since the phase only grows."""

    def numerator(z):
        return 1.0 + momentum - momentum / z if nesterov else 1.0

    def turned(angle):
        z = np.exp(1j * angle)
        return (delay + 1) * angle + 2.0 * np.angle(1.0 - momentum / z) - 2.0 * np.angle(numerator(z))

    low, high = 0.0, np.pi
    for _ in range(100):
        middle = (low + high) / 2.0
        low, high = (middle, high) if turned(middle) < 2.0 * np.pi else (low, middle)
    z = np.exp(1j * high)
    return -2.0 * (numerator(z) / ((z - 1.0) * (1.0 - momentum / z))).real


class Twin:
    """The server's weights, one vector of float64."""

    def __init__(
        self,
        w0,
        name,
        *,
        lr,
        lambda0=0.0,
        m=None,
        eps=1e-7,
        clip=None,
        damped=False,
        shared=False,
        power=None,
        of=None,
        kept=None,
        max_norm=None,
    ):
        self.w, self.lr, self.name = w0.copy(), lr, name
        self.lambda0, self.m, self.eps, self.clip, self.damped, self.shared = lambda0, m, eps, clip, damped, shared
        self.power, self.of, self.kept, self.max_norm = power, of, kept, max_norm
        self.w0, self.backup, self.read = w0.copy(), {}, {}
        self.mean_square = {}
        self.version = 0
        self.momentum = self.dampening = self.weight_decay = 0.0
        self.nesterov, self.v = False, None
        self.adam, self.moments = None, [0.0, 0.0, 0.0]
        self.recent = []

    def pull(self, worker):
        self.backup[worker], self.read[worker] = self.w.copy(), self.version
        return self.w.copy()

    def push(self, worker, g):
        staleness = self.version - self.read.get(worker, 0)
        self.step(self.spoilt(g, self.repaired(self.of or self.name, worker, g, staleness)))
        self.version += 1
        return staleness

    def spoilt(self, g, repaired):
        lengths = np.sqrt(np.sum(g**2)), np.sqrt(np.sum(repaired**2))
        if self.name == "sign-flipped":
            return g - (repaired - g)
        if self.name == "sign-random":
            return g + np.where(self.kept(self.version), 1.0, -1.0) * (repaired - g)
        if self.name == "its-length":
            return g * lengths[1] / lengths[0]
        if self.name == "its-direction":
            return repaired * lengths[0] / lengths[1]
        return repaired

    def repaired(self, name, worker, g, staleness):
        if name == "staleness-lr":
            return g / max(1, staleness) ** self.power
        if name == "clipping":
            return g * min(1.0, self.max_norm / np.sqrt(np.sum(g**2)))
        self.recent = [*self.recent, g][-128:]
        if name == "asgd":
            return g
        distance = self.w - self.backup.get(worker, self.w0)
        step = self.lr * self.gain(max(staleness, 3, 2))
        if name == "dc-lowrank":
            step = step * self.stretched(g)
            rows = np.array(self.recent)
            matrix = 0.3 * np.sqrt(1.0 / len(rows)) * (1.0 / 32.0) ** 0.25 * rows.T @ rows
            return g + matrix @ np.linalg.solve(np.eye(len(g)) + step * matrix, distance)
        lambda_t = self.lambda_t(worker, g)
        curvature = lambda_t * g**2
        if self.damped:
            curvature = curvature / (1.0 + step * curvature)
        compensation = curvature * distance
        if self.clip is not None:
            compensation = np.clip(compensation, -self.clip * np.abs(g), self.clip * np.abs(g))
        return g + compensation

    def gain(self, delay):
        if self.adam:
            return (1.0 - self.adam["beta1"]) * damping(self.adam["beta1"], False, delay)
        return (1.0 - self.dampening) * damping(self.momentum, self.nesterov, delay) if self.momentum else 1.0

    def stretched(self, g):
        if not self.adam or self.version == 0:
            return 1.0
        v = self.moments[2 if self.adam["amsgrad"] else 1]
        p = 1.0 / (np.sqrt(v / (1.0 - self.adam["beta2"] ** self.version)) + self.adam["eps"])
        return (g * p * g).sum() / (g * g).sum()

    def lambda_t(self, worker, g):
        if self.m is None:
            return self.lambda0
        key = "everyone" if self.shared else worker
        self.mean_square[key] = self.m * self.mean_square.get(key, 0.0) + (1.0 - self.m) * g**2
        return self.lambda0 / np.sqrt(self.mean_square[key] + self.eps)

    def step(self, g):
        if self.adam:
            self.adams_step(g, **self.adam)
            return
        d = g + self.weight_decay * self.w
        if self.momentum:
            self.v = d if self.v is None else self.momentum * self.v + (1.0 - self.dampening) * d
            d = d + self.momentum * self.v if self.nesterov else self.v
        self.w = self.w - self.lr * d

    def adams_step(self, g, *, beta1, beta2, eps, decoupled, weight_decay, amsgrad):
        d = g if decoupled else g + weight_decay * self.w
        first, second, largest = self.moments
        first = beta1 * first + (1.0 - beta1) * d
        second = beta2 * second + (1.0 - beta2) * d**2
        largest = np.maximum(largest, second)
        self.moments, t = [first, second, largest], self.version + 1
        root = np.sqrt((largest if amsgrad else second) / (1.0 - beta2**t))
        kept = self.w - self.lr * weight_decay * self.w if decoupled else self.w
        self.w = kept - self.lr * first / (1.0 - beta1**t) / (root + eps)
