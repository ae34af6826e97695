"""What training.py measures: settings, scenarios and arms; what a measurement is told, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tardigrad.config import RunConfig
from tardigrad.recipes import load_recipe

PARTS = Path(__file__).resolve().parent
SLOW = (1.0, 0.25)


@dataclass(frozen=True)
class Setting:
    """A model, and how it is trained."""

    title: str
    config: RunConfig
    """Batch, learning rate, schedule and memory format of every arm."""
    task: str
    """With places for what a measurement chooses."""
    size: int
    """Samples to train on."""
    bound: str
    """What its pace hangs on."""


_IMAGES = (
    "timed(images={images!r}, model='%s', size={size}, judged={judged}, batch={batch}, "
    "chance={chance}, nap={nap}, seed={seed})"
)
SETTINGS = {
    "mlp": Setting(
        "perceptron of 176,650 parameters, batch 8",
        RunConfig(task="mlp", batch_size=8, lr=0.05),
        "mlp(size={size})",
        20_000,
        "commit",
    ),
    "small": Setting(
        "ResNet of depth 8 (19,218 parameters), batch 32",
        load_recipe("cifar10-small"),
        _IMAGES % "small",
        25_000,
        "both",
    ),
    "resnet20": Setting(
        "ResNet-20 (0.27 M parameters), batch 128",
        load_recipe("cifar10-resnet20").replace(leases="dynamic", lr=0.1, schedule="constant"),
        _IMAGES % "resnet20",
        25_000,
        "compute",
    ),
}


@dataclass(frozen=True)
class Case:
    """One arm: who trains, and how."""

    name: str
    kind: str
    """plain, simulated, local, ddp or hogwild."""
    workers: int = 1
    speeds: tuple[float, ...] = ()
    consistency: str = "asynchronous"
    rule: str = "asgd"
    batches: tuple[int, ...] = ()
    """Of each worker; empty: the setting's for all."""
    lr_factor: float = 1.0
    """On the learning rate of DistributedDataParallel. (Synchronous workers have it in their consistency.)"""

    @property
    def slowest(self) -> float:
        """Speed of the slowest."""
        return min(self.speeds, default=1.0)

    @property
    def synchronous(self) -> bool:
        """Whether a commit is of a round."""
        return self.kind == "ddp" or self.consistency.startswith("synchronous")

    @property
    def tied(self) -> bool:
        """Whether all go at the slowest's pace."""
        return self.workers == 1 or self.synchronous

    @property
    def family(self) -> str:
        """What the table compares it as."""
        return "plain" if self.kind == "plain" else "synchronous" if self.synchronous else "asynchronous"


@dataclass(frozen=True)
class Scenario:
    """What the two workers have to put up with."""

    name: str
    title: str
    words: str
    speeds: tuple[float, ...] = ()
    chance: float = 0.0
    """That a gradient is a straggler."""
    factor: float = 1.0
    """How many times longer a straggler takes."""
    deaths: tuple[float, ...] = ()
    """Of worker 1, in epochs of all samples; one for each seed, in turn."""


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("equal", "equal workers", "both as fast as their core"),
        Scenario(
            "slow",
            "one 4 times slower",
            "worker 1 sleeps until its gradient has taken four times as long; the plain loop runs on the fast one",
            speeds=SLOW,
        ),
        Scenario(
            "stragglers",
            "random stragglers",
            "one gradient in ten takes five times as long, whoever computes it, the plain loop included: it sleeps",
            chance=0.1,
            factor=5.0,
        ),
        Scenario(
            "churn",
            "workers come and go",
            "worker 1 is killed (SIGKILL) while it computes a gradient 0.35, 0.65 or 1.15 epochs from the start, by "
            "seed, and is started again at once; the plain loop runs where nobody is killed. DistributedDataParallel "
            "ends with a worker: both processes are started anew, as torchrun does, and go on from the checkpoint of "
            "the last whole epoch, or from the start; the seconds of that count. Hogwild's process is started anew and "
            "goes on on the shared weights",
            deaths=(0.35, 0.65, 1.15),
        ),
    )
}


@dataclass(frozen=True)
class Measure:
    """What is measured, and how long: handed to the processes of others as JSON."""

    setting: str
    images: str
    """cifar10 or synthetic."""
    place: str
    """Folder with CIFAR-10."""
    size: int
    """Samples to train on."""
    seed: int = 0
    warm_up: int = 0
    """Steps of each worker that do not count."""
    steps: int = 0
    """Steps that do, of a worker at full speed; 0: until the error is reached."""
    judged: int = 0
    """Validation images."""
    target: float = 0.0
    """Validation error to reach."""
    limit: float = 60.0
    """Seconds after which it is given up."""
    chance: float = 0.0
    """That a gradient is a straggler."""
    nap: float = 0.0
    """Seconds that a straggler sleeps."""
    death: float = 0.0
    """Epochs after which worker 1 is killed; 0: never."""
    device: str = "cpu"
    """cpu, or of a pace cuda."""

    @property
    def config(self) -> RunConfig:
        """The setting's."""
        return SETTINGS[self.setting].config

    @property
    def batch(self) -> int:
        """Samples in a gradient."""
        size = self.config.batch_size
        assert isinstance(size, int)
        return size

    @property
    def task(self) -> str:
        """The spec of the task."""
        return SETTINGS[self.setting].task.format(
            images=self.images,
            size=self.size,
            judged=self.judged,
            batch=self.batch,
            chance=self.chance,
            nap=self.nap,
            seed=self.seed,
        )

    def counted(self, case: Case) -> int:
        """Steps of all workers that count, so that every case takes about as long."""
        if case.tied:
            return max(2, round(self.steps * case.slowest)) * case.workers
        at_once = 1 if case.kind == "simulated" else min(2, case.workers)  # on two cores
        return max(2, round(self.steps * sum(case.speeds or (1.0,) * at_once)))

    def dying_step(self, case: Case) -> int:
        """In which of its steps worker 1 is killed, from 1; 0: never. It takes a half of all, were both alike."""
        return max(2, round(self.death * self.size / (self.batch * case.workers))) if self.death else 0


@dataclass
class Found:
    """What a measurement found."""

    pace: float | None = None
    """Samples a second."""
    commits: float | None = None
    """Commits a second."""
    seconds: float | None = None
    """Of training, until the target was reached; None: it was not."""
    epochs: float = 0.0
    best: float = 1.0
    """Lowest validation error seen."""
    lives: int = 1
    """Of worker 1."""


def judged(found: Found, measure: Measure, error: float, seconds: float, epoch: float) -> bool:
    """Note an evaluation; whether it was the last: the target is reached, or the time is up."""
    found.best, found.epochs = min(found.best, error), epoch
    if error <= measure.target and seconds <= measure.limit:
        found.seconds = seconds
    return found.seconds is not None or seconds > measure.limit


def register() -> None:
    """Make the tasks known in this process."""
    from tardigrad.imports import import_all

    import_all([str(PARTS / "timed_task.py"), str(PARTS / "mlp_task.py")])


def _local(name: str, **words: object) -> Case:
    return Case(name, "local", 2, **words)  # type: ignore[arg-type]


_EVERYONE = (
    Case("plain loop", "plain"),
    Case("simulated, 1 worker", "simulated"),
    Case("simulated, 4 workers", "simulated", 4),
    Case("1 worker, asgd", "local"),
    Case("1 worker, dc-asgd", "local", rule="dc-asgd"),
    _local("2 workers, asgd"),
    _local("2 workers, dc-asgd", rule="dc-asgd"),
    _local("2 workers, synchronous", consistency="synchronous"),
    Case("4 workers, asgd", "local", 4),
    Case("4 workers, dc-asgd", "local", 4, rule="dc-asgd"),
    Case("2 processes, DDP", "ddp", 2),
    Case("2 processes, Hogwild", "hogwild", 2),
)
_SLOWED = (
    Case("plain loop", "plain"),
    Case("1 worker, asgd", "local"),
    Case("1 worker, slowed 4 x", "local", 1, SLOW[1:]),
    _local("2 workers, asgd"),
    _local("2 workers, synchronous", consistency="synchronous"),
    Case("2 processes, DDP", "ddp", 2),
    _local("2 workers, one slowed 4 x, asgd", speeds=SLOW),
    _local("2 workers, one slowed 4 x, synchronous", speeds=SLOW, consistency="synchronous"),
    _local("2 workers, one slowed 4 x, batch by speed", speeds=SLOW, consistency="synchronous", batches=(51, 13)),
    Case("2 processes, one slowed 4 x, DDP", "ddp", 2, SLOW),
)
PACE = {"mlp": _EVERYONE, "resnet20": _EVERYONE, "small": _SLOWED}

_LINEAR = "synchronous(lr_scaling='linear')"
_ARMS = (
    Case("plain loop", "plain"),
    Case("DDP", "ddp", 2),
    Case("DDP, lr x 2", "ddp", 2, lr_factor=2.0),
    _local("SSGD", consistency="synchronous"),
    _local("SSGD, lr x 2", consistency=_LINEAR),
    _local("batch by speed", consistency="synchronous", batches=(51, 13)),
    _local("batch by speed, lr x 2", consistency=_LINEAR, batches=(51, 13)),
    _local("m-synchronous, 1 of 2", consistency="synchronous(wait_for=1)"),
    Case("Hogwild", "hogwild", 2),
    _local("asgd"),
    _local("dc-asgd-a", rule="dc-asgd-a"),
    _local("dc-asgd", rule="dc-asgd"),
)


def race(scenario: Scenario, *, batch: int) -> list[Case]:
    """The arms of a scenario. Where no worker is always slow, batch by speed is SSGD, and left out."""
    both = 2 * batch
    slow = round(both / (1.0 + 1.0 / SLOW[1]))
    arms = []
    for case in _ARMS:
        if case.batches and not scenario.speeds:
            continue
        batches = (both - slow, slow) if case.batches else ()
        speeds = scenario.speeds if case.workers == 2 else ()
        arms.append(Case(**{**_fields(case), "speeds": speeds, "batches": batches}))
    return arms


def _fields(case: Case) -> dict[str, object]:
    return {name: getattr(case, name) for name in case.__dataclass_fields__}
