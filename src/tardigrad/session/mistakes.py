"""Mistakes in a training script, each with its sentence: what was done, and what to write instead."""

from __future__ import annotations

from collections.abc import Sequence

from tardigrad.errors import SessionError


def unknown_object(given: object) -> SessionError:
    """`Session.prepare` was given something that it cannot serve."""
    return SessionError(
        f"session.prepare does not know what to do with a {_kind(given)}. It takes the model, its optimizer, the "
        "DataLoader to train on and a learning rate scheduler; whatever else a script uses stays as it is."
    )


def given_twice(kind: str) -> SessionError:
    """Two objects of one kind."""
    hint = " Prepare the one that is trained on; loaders for evaluation stay as they are." if kind == "loader" else ""
    return SessionError(f"session.prepare was given two objects of one kind: it takes one {kind}.{hint}")


def not_given(kind: str) -> SessionError:
    """The model or the optimizer is missing."""
    return SessionError(
        f"session.prepare was given no {kind}; write "
        "model, optimizer, loader = session.prepare(model, optimizer, loader)."
    )


def prepared_twice() -> SessionError:
    """A second call of `Session.prepare`."""
    return SessionError("session.prepare was called a second time; a script prepares once, before its loop.")


def not_prepared(call: str) -> SessionError:
    """A call that needs what `Session.prepare` makes."""
    return SessionError(f"session.{call} was called before session.prepare; prepare first.")


def not_made_yet(name: str) -> SessionError:
    """A lazy parameter without a shape, or one without memory."""
    return SessionError(
        f"the parameter {name} has no values yet (a lazy module, or the device 'meta'): "
        "run one batch through the model, or give it memory, before session.prepare."
    )


def several_devices(devices: Sequence[str]) -> SessionError:
    """The parameters lie on several devices."""
    return SessionError(
        f"the model's parameters lie on {' and '.join(devices)}; a worker's model has one device: "
        "write model.to(session.device) before session.prepare."
    )


def wrong_device(model: str, session: str) -> SessionError:
    """The model lies elsewhere than the worker computes."""
    kind = model.partition(":")[0]
    return SessionError(
        f"the model is on {model}, and this worker computes on {session}: write model.to(session.device) before the "
        f"optimizer is made, or start the run with device='{kind}'."
    )


def not_storable(name: str, dtype: str) -> SessionError:
    """Parameters in half precision, or in two precisions."""
    return SessionError(
        f"the parameter {name} is {dtype}. Parameters that are trained are all torch.float32 or all torch.float64; "
        "for lower precision keep them so, and compute in torch.autocast."
    )


def load_state() -> SessionError:
    """``load_state_dict`` of a served optimizer with something in it."""
    return SessionError(
        "this optimizer's state lies on the server and is part of the run's checkpoints: leave load_state_dict out. "
        "A run goes on when it is started again with the same directory."
    )


def group_added() -> SessionError:
    """``add_param_group`` of a served optimizer."""
    return SessionError(
        "add_param_group after session.prepare: the server has laid out the parameters it was given. Make every "
        "group before session.prepare; one that is to begin later may begin with lr=0 and a scheduler."
    )


def no_backward() -> SessionError:
    """``step()`` without a gradient."""
    return SessionError(
        "optimizer.step() found no gradient: call loss.backward() before it, and zero_grad() before that."
    )


def stepped_twice() -> SessionError:
    """``step()`` with the gradient of the step before."""
    return SessionError(
        "optimizer.step() was called twice with one gradient: it was pushed already. Call loss.backward() again, or "
        "leave the second step() out."
    )


def no_batch() -> SessionError:
    """``step()`` without a batch of the prepared loader since the one before."""
    return SessionError(
        "optimizer.step() was called without a batch of the prepared loader since the step before. Loop over the "
        "loader that session.prepare returned, not over the one it was given; and step once for a batch at most."
    )


def not_averaged() -> SessionError:
    """A gradient that is one process's own, in a worker of several."""
    return SessionError(
        "optimizer.step() found gradients that were not averaged over this worker's processes: compute the loss with "
        "the model that session.prepare returned, and its gradients with loss.backward()."
    )


def no_trainer_in_a_group() -> SessionError:
    """A `transformers.Trainer` in a worker of several processes."""
    return SessionError(
        "session.prepare(trainer) serves a worker of one process: start the run without group=, with more workers."
    )


def parallel_already() -> SessionError:
    """A model that is wrapped for several processes or devices by the script."""
    return SessionError(
        "the model is wrapped in DistributedDataParallel or DataParallel already: give session.prepare the model "
        "itself. In a run with group=, session.prepare wraps it."
    )


def gradients_are_sparse(name: str) -> SessionError:
    """A sparse gradient."""
    return SessionError(f"the gradient of {name} is sparse; gradients are dense: write sparse=False in its module.")


def moved(name: str) -> SessionError:
    """A parameter got other memory, another dtype, device or shape after `Session.prepare`."""
    return SessionError(
        f"the parameter {name} was moved, converted or changed in shape after session.prepare (model.to, model.half, "
        "an assignment to .data): the server would not see it. Do it before session.prepare."
    )


def written(name: str) -> SessionError:
    """A parameter was written in place after `Session.prepare`."""
    return SessionError(
        f"the parameter {name} was written after session.prepare (load_state_dict, an initialisation, a clamp): the "
        "weights are the server's, and a worker only reads them. Do it before session.prepare; to evaluate other "
        "weights, write them into a copy of the model."
    )


def replaced(name: str) -> SessionError:
    """A parameter of the model or of the optimizer is another object than at `Session.prepare`."""
    return SessionError(
        f"the parameter {name} is not one that was there at session.prepare: it was replaced, or its module was. "
        "Change the model before session.prepare."
    )


def unfrozen(name: str) -> SessionError:
    """A parameter of the optimizer was frozen at `Session.prepare`, and is not any more."""
    return SessionError(
        f"the parameter {name} had requires_grad=False at session.prepare, and has True now: what is frozen does not "
        "travel, so it cannot be trained later. Prepare it with requires_grad=True and lr=0 in a group of its own."
    )


def rate_changed(given: float, served: float) -> SessionError:
    """The script changed a learning rate."""
    return SessionError(
        f"the learning rate in optimizer.param_groups was set to {given:g}; the server decides it: {served:g}. "
        "A scheduler of the worker's own would step once per worker, and so decay that many times too fast: pass it to "
        "session.prepare(model, optimizer, loader, scheduler)."
    )


def setting_changed(name: str, given: object, served: object) -> SessionError:
    """The script changed another number of a parameter group."""
    return SessionError(
        f"{name!r} in optimizer.param_groups was changed from {served!r} to {given!r} after session.prepare; "
        "the arithmetic is the server's, with the settings that the optimizer was prepared with."
    )


def in_the_middle(call: str) -> SessionError:
    """A call between a backward pass and its step."""
    return SessionError(
        f"session.{call} was called with a gradient begun and not stepped: call it after optimizer.step(), or, where "
        "several batches are accumulated, after the last of them."
    )


def not_scores(given: object) -> SessionError:
    """What `Session.evaluate`'s function returned is no number and no dict of numbers."""
    return SessionError(
        f"the function given to session.evaluate returned a {_kind(given)}; return a number, or a dict of numbers by "
        "name, such as {'accuracy': 0.9}."
    )


def not_a_number(name: str, given: object) -> SessionError:
    """A value of `Session.log` is no number."""
    return SessionError(f"session.log({name}=...) was given a {_kind(given)}; numbers are logged, such as loss.item().")


def saved_twice(name: str) -> SessionError:
    """Two things saved under one name."""
    return SessionError(
        f"session.save_with was called twice with the name {name!r}; give each thing a name of its own."
    )


def no_epoch_without_a_loader() -> SessionError:
    """``schedule="epoch"`` where nothing says how many samples an epoch has."""
    return SessionError(
        "a schedule by epochs needs a loader, which says how many samples an epoch has: give it to session.prepare, or "
        "write session.prepare(..., schedule='step')."
    )


def _kind(given: object) -> str:
    return type(given).__name__
