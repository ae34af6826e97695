"""Hugging Face's Trainer under a session: its loop stays; samples, optimizer and schedule become the server's.

`Session.prepare(trainer)` comes here. The Trainer object itself is handed back: its methods that must differ in a
worker are replaced on that one object. Its loop (``Trainer._run_epoch``) is called as it is, so gradient accumulation,
clipping, mixed precision and callbacks are the Trainer's own.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from tardigrad.errors import SessionError
from tardigrad.session.session import Session

_NO_SCORES = ("_runtime", "_samples_per_second", "_steps_per_second", "_model_preparation_time", "epoch")


def prepare(session: Session, trainer: Any) -> Any:
    """Put a `transformers.Trainer` under a served session; returns the same trainer.

    Each worker gets the batches that it is leased. The schedule follows the samples that all workers have applied, as
    do ``max_steps`` and the end of a fraction of an epoch. Evaluation, files and printed lines are the first worker's.

    Raises:
        SessionError: the Trainer is set up for something that a worker cannot do; the sentence says what.
    """
    _require_servable(session, trainer)
    trainer.args._n_gpu = min(1, trainer.args.n_gpu)  # the worker's own; several would start DataParallel
    trainer._train_batch_size = trainer.args.train_batch_size
    trainer.args.save_only_model = True  # the optimizer's state is in the run's checkpoints
    ServedTrainer(session, trainer)
    return trainer


class ServedTrainer:
    """What a worker's Trainer does differently.

    Args:
        session: a served one, not prepared yet.
        trainer: its methods are replaced.
    """

    def __init__(self, session: Session, trainer: Any) -> None:
        self._session, self._trainer = session, trainer
        self._accumulated: int = trainer.args.gradient_accumulation_steps
        loader = _plain_loader(trainer.get_train_dataloader(), session)
        epochs, *_, self._batches_of_epoch, steps = trainer.set_initial_training_values(trainer.args, loader)
        limit = _samples_in(steps, loader, self._accumulated)
        trainer.create_optimizer_and_scheduler(steps)
        _require_table(trainer.lr_scheduler)
        per_step = (loader.batch_size or 1) * self._accumulated
        _model, trainer.optimizer, self._loader, _scheduler = session.prepare(
            trainer.model, trainer.optimizer, loader, trainer.lr_scheduler, schedule=per_step, epochs=_known(epochs)
        )
        trainer.lr_scheduler, trainer._created_lr_scheduler = _Rates(trainer.optimizer), False
        self._epochs = session.epochs(epochs) if _known(epochs) else iter(itertools.count())
        self._last = epochs - 1
        self._fetched = 0  # batches of the loop that is running
        self._judging = self._begun = False
        self._replace(limit)

    def _replace(self, limit: int) -> None:
        """Put this object's methods in the place of the Trainer's."""
        trainer, session = self._trainer, self._session
        self._own = {
            name: getattr(trainer, name)
            for name in ("_run_epoch", "_init_training_state", "get_batch_samples", "evaluate", "log")
        }
        trainer.get_train_dataloader = lambda: self._loader
        trainer._run_epoch = self._run_epoch
        trainer._init_training_state = self._init_training_state
        trainer.get_batch_samples = self._get_batch_samples
        trainer.evaluate, trainer.log = self._evaluate, self._log
        for name in ("save_model", "_save_checkpoint"):
            setattr(trainer, name, _on_the_first(session, getattr(trainer, name)))
        trainer.is_world_process_zero = trainer.is_local_process_zero = lambda: session.is_first
        trainer.add_callback(_callback(session, limit))

    # -- the loop --------------------------------------------------------------------------------------------

    def _init_training_state(
        self, max_steps: int, steps_of_epoch: int, epochs: int, checkpoint: str | None, trial: object
    ) -> tuple[int, int]:
        if checkpoint is not None:
            raise SessionError(
                "trainer.train(resume_from_checkpoint=...) in a session: weights and optimizer are the server's. Leave "
                "it out; a run goes on when it is started again with the same directory."
            )
        if self._begun:
            raise SessionError(
                "trainer.train() was called a second time: a session trains once. Say the whole number of epochs in "
                "TrainingArguments(num_train_epochs=...)."
            )
        self._begun = True
        found: tuple[int, int] = self._own["_init_training_state"](max_steps, steps_of_epoch, epochs, None, trial)
        return found

    def _run_epoch(self, *, epoch: int, **given: Any) -> None:
        """The Trainer's own epoch, for the next that the session has; after the last, once more for what comes back.

        A worker that was started again begins where the run is, and has fewer epochs than the Trainer counts.
        """
        current = next(self._epochs, None)
        if current is None:
            self._trainer.control.should_training_stop = True
            return
        self._one_epoch(current, given)
        if current == self._last and not self._trainer.control.should_training_stop:
            for again in self._epochs:
                self._one_epoch(again, given)

    def _one_epoch(self, epoch: int, given: Mapping[str, Any]) -> None:
        """Run the Trainer's loop if this worker gets a batch at all; without any it would stop training.

        The Trainer makes as many steps as an epoch has. Where samples have come back, because a step was skipped, more
        are to be made: its loop is run again.
        """
        if callable(set_epoch := getattr(self._loader.dataset, "set_epoch", None)):
            set_epoch(epoch)
        loop = iter(self._loader)
        first = list(itertools.islice(loop, 1))
        if not first:
            self._empty_epoch(epoch, given)
        while first:
            self._fetched = 0
            try:
                self._own["_run_epoch"](epoch=epoch, **{**given, "train_dataloader": _Begun(first, loop)})
            finally:
                self._trainer.args.gradient_accumulation_steps = self._accumulated
            control = self._trainer.control
            ended = control.should_epoch_stop or control.should_training_stop
            first = [] if ended else list(itertools.islice(loop, 1))

    def _empty_epoch(self, epoch: int, given: Mapping[str, Any]) -> None:
        """What the Trainer does at the end of an epoch; the other workers had all of its samples."""
        trainer = self._trainer
        trainer.control = trainer.callback_handler.on_epoch_end(trainer.args, trainer.state, trainer.control)
        named = ("model", "trial", "ignore_keys_for_eval", "start_time")
        rest = {name: given[name] for name in named}
        trainer._maybe_log_save_evaluate(trainer._tr_loss, None, epoch=epoch, learning_rate=None, **rest)

    def _get_batch_samples(self, batches: Iterator[Any], number: int, device: Any) -> tuple[list[Any], Any]:
        """The batches of one step. Where they are fewer, because the rest is other workers', the step is made too.

        The Trainer steps after every ``gradient_accumulation_steps`` batches and after the last of a whole epoch; of a
        part of an epoch it does not know the last batch, and is told that its number is how many are accumulated.
        """
        trainer = self._trainer
        args = trainer.args
        args.gradient_accumulation_steps = self._accumulated
        found: tuple[list[Any], Any] = self._own["get_batch_samples"](batches, number, device)
        before, self._fetched = self._fetched, self._fetched + len(found[0])
        steps = self._fetched % self._accumulated == 0 or self._fetched == self._batches_of_epoch
        if found[0] and not steps:
            args.gradient_accumulation_steps = self._fetched
            if before:
                trainer.control = trainer.callback_handler.on_step_begin(args, trainer.state, trainer.control)
        return found

    # -- beside the loop -------------------------------------------------------------------------------------

    def _evaluate(self, *given: Any, metric_key_prefix: str = "eval", **named: Any) -> dict[str, float]:
        """Judge the run's weights of now on the first worker; nothing on the others."""
        found: dict[str, float] = {}

        def judge(model: nn.Module) -> dict[str, float]:
            found.update(self._own["evaluate"](*given, metric_key_prefix=metric_key_prefix, **named))
            return _scores(found, metric_key_prefix)

        if self._judging or not self._session.is_first:  # a dict of data sets is judged one by one
            return self._own["evaluate"](*given, metric_key_prefix=metric_key_prefix, **named) if self._judging else {}
        self._judging = True
        try:
            self._session.evaluate(judge, split=metric_key_prefix)
        finally:
            self._judging = False
        return found

    def _log(self, logs: dict[str, float], *given: Any, **named: Any) -> None:
        """As the Trainer does; the first worker's numbers go into the run's record too."""
        self._own["log"](logs, *given, **named)
        if self._session.is_first and not self._judging:
            self._session.log(**_numbers(logs))


class _Rates:
    """The learning rates in the place of the Trainer's scheduler; the server goes through the schedule."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self.step()

    def step(self) -> None:
        """Note the rates of the step to come: after a step the Trainer asks for those that it was made with."""
        self._now = [group["lr"] for group in self._optimizer.param_groups]

    def get_last_lr(self) -> list[float]:
        return self._now

    def state_dict(self) -> dict[str, Any]:
        return {}


class _Begun:
    """A loader whose loop has begun."""

    def __init__(self, first: Sequence[Any], loop: Iterator[Any]) -> None:
        self._batches = itertools.chain(first, loop)

    def __iter__(self) -> Iterator[Any]:
        return self._batches


class _Share(IterableDataset[Any]):
    """Of a stream that every worker goes through alike, every so many batches one."""

    def __init__(self, dataset: Any, batch_size: int, worker: int, workers: int) -> None:
        self.dataset = dataset
        self._size, self._worker, self._workers = batch_size, worker, workers

    def __iter__(self) -> Iterator[Any]:
        for place, sample in enumerate(self.dataset):
            if place // self._size % self._workers == self._worker:
                yield sample

    def set_epoch(self, epoch: int) -> None:
        """Tell the stream, if it wants to know."""
        if callable(set_epoch := getattr(self.dataset, "set_epoch", None)):
            set_epoch(epoch)


class _SizedShare(_Share):
    """The same of a stream that knows its length; every worker counts the whole, as it counts whole epochs."""

    def __len__(self) -> int:
        return len(self.dataset)


def _plain_loader(loader: Any, session: Session) -> DataLoader[Any]:
    """The Trainer's loader without what accelerate puts around it, which fetches a batch ahead of the loop."""
    dataset, sampler = loader.dataset, loader.batch_sampler
    kept = ("collate_fn", "num_workers", "pin_memory", "timeout", "worker_init_fn", "generator", "persistent_workers")
    same: dict[str, Any] = {name: getattr(loader, name) for name in kept}
    if loader.num_workers > 0:
        same |= {name: getattr(loader, name) for name in ("prefetch_factor", "multiprocessing_context")}
    if isinstance(dataset, IterableDataset):
        kind = _SizedShare if hasattr(dataset, "__len__") else _Share
        shared = kind(dataset, loader.batch_size, session.worker, session.workers)
        return DataLoader(shared, batch_size=loader.batch_size, drop_last=loader.drop_last, **same)
    if type(sampler) is not BatchSampler:
        raise SessionError(
            f"the Trainer's data loader has a {type(sampler).__name__}: the server decides which samples a batch has. "
            "Leave train_sampling_strategy at 'random', or override get_train_dataloader to return a "
            "DataLoader(dataset, batch_size=..., sampler=...)."
        )
    size, last = sampler.batch_size, sampler.drop_last
    return DataLoader(dataset, batch_size=size, sampler=sampler.sampler, drop_last=last, **same)


def _require_servable(session: Session, trainer: Any) -> None:
    """Refuse what a Trainer can be set to and a worker cannot do."""
    args = trainer.args
    refused = {
        "a model_init": trainer.model_init is not None and "give the Trainer a model=",
        "DeepSpeed or FSDP": (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled) and "a worker has one device",
        "several processes of its own": args.world_size > 1 and "start the script by tardigrad alone",
        "auto_find_batch_size": args.auto_find_batch_size and "give per_device_train_batch_size=",
        "in_order=False": not args.dataloader_in_order and "batches come in the order in which they are leased",
        "this version of transformers": not hasattr(trainer, "_run_epoch") and "type: pip install 'transformers>=5.23'",
        "an EarlyStoppingCallback": session.workers > 1 and _stops_early(trainer) and "it could stop one worker alone",
    }
    for what, hint in refused.items():
        if hint:
            raise SessionError(f"session.prepare cannot serve a Trainer with {what}: {hint}.")


def _require_table(scheduler: Any) -> None:
    if isinstance(scheduler, ReduceLROnPlateau) or not isinstance(scheduler, LRScheduler):
        raise SessionError(
            f"the Trainer's {type(scheduler).__name__} follows a metric, and the server goes through a schedule that "
            "is known ahead. Take another lr_scheduler_type, such as 'linear' or 'cosine'."
        )


def _stops_early(trainer: Any) -> bool:
    kinds = (kind.__name__ for callback in trainer.callback_handler.callbacks for kind in type(callback).__mro__)
    return "EarlyStoppingCallback" in kinds


def _callback(session: Session, limit: int) -> Any:
    """What is done at the Trainer's own events; the class needs transformers, which is there if a Trainer is."""
    from transformers import TrainerCallback

    class Served(TrainerCallback):  # type: ignore[misc]  # transformers is not looked into
        """Stops after as many samples as the Trainer was to train on, by all workers; evaluates and saves on one."""

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if getattr(given["optimizer"], "step_was_skipped", False):  # an overflow of half precision
                given["optimizer"].zero_grad()  # the Trainer clears the model's gradients, which tells nobody

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if session.samples >= limit:
                control.should_training_stop = True
            elif state.global_step >= state.max_steps:  # the Trainer's own counts steps, the skipped ones too
                control.should_training_stop = False
            self.on_epoch_end(args, state, control)

        def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if not session.is_first:
                control.should_evaluate = control.should_save = False

    return Served()


def _on_the_first(session: Session, method: Callable[..., Any]) -> Callable[..., None]:
    def called(*given: Any, **named: Any) -> None:
        if session.is_first:
            method(*given, **named)

    return called


def _samples_in(steps: int, loader: DataLoader[Any], accumulated: int) -> int:
    """Samples behind so many steps of the Trainer, with the short ones at the end of an epoch."""
    size = loader.batch_size or 1
    per_step = size * accumulated
    if isinstance(loader.dataset, IterableDataset):
        return steps * per_step
    samples = len(loader) * size if loader.drop_last else len(loader.sampler)  # type: ignore[arg-type]
    epochs, rest = divmod(steps, -(-len(loader) // accumulated))
    return epochs * samples + min(rest * per_step, samples)


def _known(epochs: int) -> int | None:
    """The number of epochs; None where the Trainer counts steps of a stream without end."""
    return epochs if epochs < sys.maxsize else None


def _scores(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Scores without the prefix, and without how long it took."""
    names = (name for name in metrics if not name.endswith(_NO_SCORES))
    return _numbers({name.removeprefix(prefix + "_"): metrics[name] for name in names})


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if isinstance(value, Real)}
