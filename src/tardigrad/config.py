"""The configuration of a run. Imports no torch, so that the command line answers at once."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tardigrad.errors import InvalidArgument
from tardigrad.hyperparameters import require_choice, require_flag, require_integer, require_number
from tardigrad.specs import as_declared

FORMAT = 1
_NAMES_AND_PLACES = ("label", "imports", "recipe", "data_dir", "store", "address", "ray")
_SAFETY = (
    "checkpoint_every",
    "checkpoints_kept",
    "digest_every",
    "hang_after",
    "first_step",
    "max_restarts",
    "on_failure",
)
_BETWEEN_MACHINES = ("listen", "secret_file", "trusted_network", "reconnect_within", "own_workers", "shards")
_NOT_IDENTITY = _NAMES_AND_PLACES + _SAFETY + _BETWEEN_MACHINES


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Everything that decides what a run computes. Every field is an option of the command line."""

    task: str = "digits"
    """What to train: a registered task, with its own keywords in brackets."""
    rule: str = "dc-asgd"
    """What a late gradient becomes: asgd, dc-asgd, dc-asgd-c, 'dc-asgd-a(lambda0=4)', staleness-lr, clipping, or a
    control such as "its-length(of='dc-asgd-a')"."""
    optimizer: str = "sgd"
    """The step it makes: 'sgd(momentum=0.9, nesterov=True, weight_decay=5e-4)', 'adamw(weight_decay=0.1)'."""
    lr: float = 0.1
    """Learning rate at the start, >= 0."""
    schedule: str = "constant"
    """Of the learning rate, in epochs of samples applied: 'step(at=(80, 120), gamma=0.1)', 'cosine(epochs=20)'."""
    warmup: float = 0.0
    """Epochs of linear warm-up before the schedule, >= 0."""
    workers: int = 8
    """How many workers, >= 1."""
    batch_size: int | tuple[int, ...] = 32
    """Samples in a gradient, or one number for each worker: '51 13' spares one that is four times slower."""
    epochs: int = 10
    """How often every sample is applied, >= 0."""
    consistency: str = "asynchronous"
    """Who may read, and how many pushes make a commit: asynchronous, 'ssp(2)', synchronous,
    'synchronous(wait_for=6, lr_scaling="linear")'."""
    max_staleness: int | None = None
    """Pushes older than this many commits are treated by on_stale."""
    on_stale: Literal["reject", "reweight"] = "reject"
    """Reject them, or scale them by max_staleness / staleness."""
    leases: Literal["dynamic", "static"] = "dynamic"
    """Whoever asks next gets the next samples, or each epoch is dealt to the workers in advance (the paper)."""
    batchnorm: Literal["mean", "latest", "recalibrate"] = "mean"
    """Which BatchNorm statistics an evaluation uses."""
    delay: str = "gamma(mean=1.0, machine_cv=0.1, task_cv=0.1)"
    """How long a gradient takes in virtual time: 'constant(1)', uniform, 'gamma(machine_cv=0.6)', lognormal,
    'shifted-exponential(shift=0.5)', exponential, 'pareto(shape=2.5)', phases, 'trace("runs/mine")'."""
    speeds: tuple[float, ...] = ()
    """One factor for each worker: a worker of speed 2 needs half the time. Empty: all alike. With real workers at most
    1: one of speed 0.25 sleeps until its gradient has taken four times as long."""
    straggler_probability: float = 0.0
    """Chance that a gradient is a straggler, in [0, 1]."""
    straggler_factor: float = 10.0
    """How many times longer a straggler takes, >= 1."""
    latency: float = 0.0
    """Seconds of virtual time for a message, each way."""
    bandwidth: float = float("inf")
    """Bytes per second of virtual time of a worker's link."""
    service: float = 0.0
    """Seconds of virtual time for which a push keeps the server busy."""
    engine: str = "simulated"
    """Where server and workers live: simulated (one process, virtual time), local (a process for each worker), joined
    (the same, from any machine: see tardigrad serve) or ray (a Ray actor for each, on one machine or a cluster)."""
    commit_path: str = "auto"
    """How the rule's equations are applied: exact, torch.optim's own arithmetic; compiled, one pass over the memory;
    auto, compiled where parameters and commits are many enough to repay it."""
    commit_threads: int = 0
    """Threads that compute a commit; 0: one, or the cores that no worker needs where the model is large."""
    seed: int = 0
    """Of initial weights, order of samples, delays and everything else that is random."""
    evaluate_every: float = 1.0
    """Epochs between evaluations, > 0."""
    measure_every: int = 20
    """Commits between measurements of ||compensation|| / ||gradient||; 0: never."""
    probe_every: int = 0
    """Commits between probes, which hold compensated gradients against the gradient of now; 0: never."""
    probe_rules: tuple[str, ...] = ()
    """Rules that probes judge beside the run's own: asgd 'dc-asgd-a(lambda0=4)'. They change nothing."""
    threads: int = 0
    """Threads that compute a gradient; 0: one in the simulator, with real workers the cores divided among them."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What a forward pass computes in: bfloat16 is autocast; weights and gradients stay float32. On CPUs without
    AVX-512 bfloat16 is many times slower."""
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    """Of images and of the weights of convolutions."""
    cuda_graph: bool = True
    """On CUDA, capture a gradient's computation once and replay it."""
    wire: Literal["float32", "bfloat16"] = "float32"
    """What workers hand gradients in as: bfloat16 rounds every number to 8 bits of mantissa, which then travels between
    machines in 2 bytes; weights travel whole. It changes what is trained, with every engine alike."""
    data_dir: str = ""
    """Folder with data sets; empty: TARDIGRAD_DATA, else a cache folder."""
    checkpoint_every: float = 0.0
    """Minutes between checkpoints; 0: with real workers 5, in the simulator only when a run is stopped."""
    checkpoints_kept: int = 2
    """How many checkpoints are kept, >= 1; 2 or more survive one that is torn."""
    store: str = ""
    """Keep the run's checkpoint and log there too, and go on from there where the directory is not here: a folder of
    its own at anything fsspec reaches, such as s3://bucket/run-7 or file:///mnt/shared/run-7."""
    address: str = ""
    """With --engine ray: of a cluster that runs, such as auto or 10.0.0.1:6379; empty: one of its own on this
    machine."""
    ray: str = ""
    """With --engine ray: what each worker needs and where, such as "num_cpus=2, num_gpus=1, strategy='spread'"."""
    digest_every: int = 0
    """Commits between digests of the weights in the log, which a replay compares; 0: at evaluations and at the end."""
    hang_after: float = 30.0
    """Seconds without a push after which a real worker is ended and restarted, or 20 times its median step if more."""
    first_step: float = 120.0
    """Seconds a real worker may take to start and to push for the first time."""
    max_restarts: int = 3
    """How often a real worker is restarted after it died, raised or hung."""
    on_failure: Literal["restart", "raise"] = "restart"
    """What a worker's failure does: the worker is restarted, or the run ends with its traceback."""
    listen: str = "127.0.0.1:0"
    """Where workers of other machines join: 'host:port', ':7070' for every address of this machine; port 0: any."""
    secret_file: str = ""
    """File with the secret that they prove themselves with; empty: a new one, in the run's directory."""
    trusted_network: bool = False
    """Encrypt nothing that travels to other machines. The secret is proven all the same."""
    reconnect_within: float = 30.0
    """Seconds for which a worker that cannot be reached keeps its place and its samples, > 0."""
    own_workers: int = 0
    """How many of the workers are processes of the server's machine, where others join from elsewhere."""
    shards: int = 1
    """Processes that hold the weights, each a part of them, >= 1."""
    chaos: str = ""
    """Faults to bring about: a seed, or a list such as 'kill worker 2 at push 40; pause worker 1 at push 3 for 3 s'."""
    imports: tuple[str, ...] = ()
    """Modules or Python files to import first: those that register your own rules and tasks."""
    label: str = ""
    """A name for tables; by default the rule's."""
    recipe: str = ""
    """The recipe this began as."""

    def __post_init__(self) -> None:
        """Refuse what can be refused without building anything."""
        _check(self)

    @property
    def shown(self) -> str:
        """The label, or the rule's name; of ``module:Class`` the class."""
        return self.label or self.rule.split("(")[0].split(":")[-1].split(".")[-1]

    @property
    def digest(self) -> str:
        """Six letters that tell one configuration from another.

        Names do not count, nor does a setting at its default: so a setting that is new in a later version leaves the
        digests of older runs as they were.
        """
        default = RunConfig().as_json()
        content = {key: value for key, value in self.computes.items() if value != default[key]}
        if self.threads == 1:  # what 0 means in the simulator
            del content["threads"]
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=3).hexdigest()

    @property
    def computes(self) -> dict[str, Any]:
        """The settings that decide what is computed: all but names and places."""
        return {key: value for key, value in self.as_json().items() if key not in _NOT_IDENTITY}

    @property
    def directory_name(self) -> str:
        """What a run directory of this configuration is called."""
        return f"{file_name(self.shown)}-w{self.workers}-lr{self.lr:g}-s{self.seed}-{self.digest}"

    def as_json(self) -> dict[str, Any]:
        """Plain data; infinity becomes None."""
        plain: dict[str, Any] = {"format": FORMAT}
        for item in dataclasses.fields(self):
            value = as_declared(getattr(self, item.name), str(item.type))
            plain[item.name] = list(value) if isinstance(value, tuple) else None if value == float("inf") else value
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> RunConfig:
        """The inverse of `as_json`."""
        if plain.get("format") != FORMAT:
            raise InvalidArgument(f"a configuration of format {plain.get('format')!r} cannot be read, only {FORMAT}.")
        values = {key: tuple(v) if isinstance(v, list) else v for key, v in plain.items() if key != "format"}
        if values.get("bandwidth", 0.0) is None:
            values["bandwidth"] = float("inf")
        return cls().replace(**values)

    def replace(self, **changes: Any) -> RunConfig:
        """A copy with some fields changed; an unknown name is refused with a suggestion."""
        known = [item.name for item in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise InvalidArgument(f"a run has no setting {name!r}.{hint} It has: {', '.join(known)}.")
        return dataclasses.replace(self, **changes)


def file_name(text: str) -> str:
    """The text as a part of a path: letters, digits, '-', '_' and '.'; anything else becomes '_'."""
    return "".join(c if c.isalnum() or c in "-._" else "_" for c in text)


def _check(config: RunConfig) -> None:
    for name in ("lr", "warmup", "latency", "service"):
        require_number("run", name, getattr(config, name), low=0.0, high=float("inf"), include_high=False)
    require_number("run", "bandwidth", config.bandwidth, low=0.0, include_low=False)
    require_number("run", "evaluate_every", config.evaluate_every, low=0.0, include_low=False)
    require_integer("run", "workers", config.workers, low=1)
    require_integer("run", "epochs", config.epochs, low=0)
    require_integer("run", "threads", config.threads, low=0)
    require_integer("run", "commit_threads", config.commit_threads, low=0)
    require_integer("run", "checkpoints_kept", config.checkpoints_kept, low=1)
    require_integer("run", "digest_every", config.digest_every, low=0)
    require_integer("run", "max_restarts", config.max_restarts, low=0)
    require_choice("run", "on_failure", config.on_failure, ("restart", "raise"))
    require_flag("run", "trusted_network", config.trusted_network)
    require_integer("run", "own_workers", config.own_workers, low=0, high=config.workers)
    require_integer("run", "shards", config.shards, low=1)
    require_number("run", "reconnect_within", config.reconnect_within, low=0.0, high=float("inf"), include_low=False)
    for name in ("hang_after", "first_step"):
        require_number("run", name, getattr(config, name), low=0.0, high=float("inf"), include_low=False)
    require_integer("run", "measure_every", config.measure_every, low=0)
    require_integer("run", "probe_every", config.probe_every, low=0)
    if config.probe_rules and not config.probe_every:
        raise InvalidArgument(f"run: probe_rules={config.probe_rules!r} without probes; type --probe-every 50 too.")
    require_integer("run", "seed", config.seed, low=0)
    require_choice("run", "on_stale", config.on_stale, ("reject", "reweight"))
    require_choice("run", "leases", config.leases, ("dynamic", "static"))
    require_number("run", "checkpoint_every", config.checkpoint_every, low=0.0, high=float("inf"), include_high=False)
    require_choice("run", "precision", config.precision, ("float32", "bfloat16"))
    require_choice("run", "wire", config.wire, ("float32", "bfloat16"))
    require_choice("run", "memory_format", config.memory_format, ("contiguous", "channels_last"))
    require_flag("run", "cuda_graph", config.cuda_graph)
    require_choice("run", "batchnorm", config.batchnorm, ("mean", "latest", "recalibrate"))
