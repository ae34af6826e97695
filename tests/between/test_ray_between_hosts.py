"""A Ray cluster of three nodes on three hosts: the engine keeps its laws, and outlives a host."""

import os
import sys
import tempfile

import pytest

from hosts import Hosts, why_not

pytest.importorskip("ray", reason="the Ray engine needs Ray: pip install 'tardigrad[ray]'")

from lab import TARDIGRAD, wait_until

import tardigrad
from tardigrad.audit import audit
from tardigrad.logs import read_events

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.xdist_group("ray"),
    pytest.mark.timeout(400),
]
PORT = 6379
EACH = ["--num-cpus=2", '--resources={"place": 1}', "--disable-usage-stats", "--object-store-memory=100000000"]
ONE_A_HOST = "strategy='strict-spread', num_cpus=1"
ONE_PLACE = "resources={'place': 1}, num_cpus=1"  # of which each node has one: without a group hands stay
RATE = "1gbit"  # of each cable
LAWS = f"""
import logging, sys
import ray
from tardigrad.engines.ray.keeping import hands_kept
from tardigrad.testing import check_engine
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
assert len(ray.nodes()) == 3
with hands_kept():
    check_engine("ray", ray={ONE_PLACE!r}, first_step=120.0, shards=int(sys.argv[2]))
print("the laws hold")
"""


@pytest.fixture(scope="module")
def environment():
    plain = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    return os.environ | plain


@pytest.fixture(scope="module")
def cluster(environment):
    """Three hosts, a node on each; the first one is the head. Ray makes sockets there: the path must be short."""
    with Hosts(rate=RATE) as hosts, tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as here:
        first = f"{hosts.address('red')}:{PORT}"
        for name in hosts.names:
            part = ["--head", f"--port={PORT}", f"--temp-dir={here}", "--include-dashboard=false"]
            where = part if name == "red" else [f"--address={first}"]
            words = ["start", *where, f"--node-ip-address={hosts.address(name)}", *EACH]
            hosts.run(name, [sys.executable, "-m", "ray.scripts.scripts", *words], env=environment, timeout=120)
        yield hosts


@pytest.mark.parametrize("shards", [1, 2])
def test_the_engine_keeps_its_laws_on_three_nodes(cluster, environment, shards):
    words = [sys.executable, "-c", LAWS, f"{cluster.address('red')}:{PORT}", str(shards)]
    said = cluster.run("red", words, env=environment, timeout=300)
    assert said.endswith("the laws hold\n")


def test_a_run_outlives_a_host(cluster, environment, tmp_path):
    place = tmp_path / "run"
    words = ["train", "quadratic", "--engine", "ray", "--address", f"{cluster.address('red')}:{PORT}", "--workers", "3"]
    words += ["--ray", ONE_A_HOST, "--epochs", "150", "--reconnect-within", "3", "--directory", str(place)]
    log = tmp_path / "said"
    with log.open("wb") as file:
        run = cluster.popen("red", [*TARDIGRAD, *words], env=environment, stdout=file, stderr=file)

    def commits(least):
        assert run.poll() is None, log.read_text()
        done = [event for event in read_events(place) if event[0] == "commit"] if (place / "log.jsonl").exists() else []
        return len({event[5][0][0] for event in done}) == 3 and len(done) > least

    wait_until(lambda: commits(100), log.read_text)
    cluster.kill("green")
    assert run.wait(timeout=250) == 0, log.read_text()
    found = audit(place)
    assert found.ok, found.verdict
    assert found.failures >= 1
    assert tardigrad.replay(place).equal
