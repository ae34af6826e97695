"""Every engine keeps the laws of an engine; and whatever goes wrong, a run's own log bears it out."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tardigrad
from tardigrad.audit import audit
from tardigrad.chaos import ENDING, describe
from tardigrad.config import RunConfig
from tardigrad.engines import ENGINES
from tardigrad.errors import AllWorkersLost
from tardigrad.faults import Fault, FaultPlan
from tardigrad.replaying import replay
from tardigrad.testing import ENGINE_LAWS, check_engine
from tardigrad.testing.engine_runs import REPLAYED

WITH_AGENTS = {"joined", "ray"}  # checked in tests/engines, where agents are started beside
ENGINES_CHECKED = sorted({*ENGINES.names(), REPLAYED} - WITH_AGENTS)


@pytest.mark.parametrize("name", ENGINES_CHECKED)
def test_every_engine_keeps_the_laws(name):
    check_engine(name)


def test_there_is_a_law_for_each_promise():
    assert len(ENGINE_LAWS) == 11
    assert ENGINES_CHECKED == ["local", "replayed", "simulated"]


counted = {"worker": st.integers(0, 3), "at": st.integers(1, 6)}
faults = (
    st.builds(Fault, kind=st.just("kill"), moment=st.sampled_from((0.0, 0.5)), **counted)
    | st.builds(Fault, kind=st.sampled_from(("raise", "hang", "corrupt")), **counted)
    | st.builds(Fault, kind=st.just("pause"), seconds=st.sampled_from((0.5, 9.0)), **counted)
)
plans = st.lists(faults, max_size=8, unique_by=lambda fault: (fault.worker, fault.at)).map(FaultPlan)
runs = {
    "consistency": st.sampled_from(("asynchronous", "ssp(0)", "ssp(1)", "synchronous", "synchronous(wait_for=2)")),
    "leases": st.sampled_from(("dynamic", "static")),
    "task": st.sampled_from([f"quadratic(dimension=2, samples={samples})" for samples in (20, 40, 70)]),
    "delay": st.sampled_from(("constant(1)", "exponential")),
    "max_restarts": st.integers(0, 3),
    "max_staleness": st.sampled_from((None, 1)),
    "rule": st.sampled_from(("asgd", "dc-asgd-a")),
}


@settings(max_examples=60)
@given(plan=plans, changes=st.fixed_dictionaries(runs))
def test_whatever_goes_wrong_the_audit_finds_nothing_and_the_replay_is_equal(plan, changes):
    """With epochs so short that a worker may get no part of one, and gradients lost in every way."""
    config = RunConfig(workers=4, batch_size=10, epochs=3, lr=0.05, hang_after=3.0, first_step=5.0)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        try:
            tardigrad.train(config.replace(chaos=describe(plan), **changes), directory=place)
        except AllWorkersLost:
            done = tardigrad.train(config.replace(chaos=describe(plan), **changes), directory=place)
            assert done.summary["status"] == "finished"
        found, replayed = audit(place), replay(place)
    assert found.ok, found.violations
    assert replayed.equal, replayed.verdict
    assert found.epochs == 3
    assert found.restarts <= found.failures <= sum(fault.kind in ENDING for fault in plan.faults)
