"""The law books of transports and engines hold between hosts with addresses of their own."""

import json
import os
import signal
import sys
from contextlib import contextmanager

import pytest
from lab import TARDIGRAD

from hosts import Hosts, why_not
from tardigrad.testing import ENGINE_LAWS, check_transport
from tardigrad.transports.carrying import Site
from tardigrad.transports.credentials import new_secret, write_secret

pytestmark = [
    pytest.mark.long,
    pytest.mark.xdist_group("laws"),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.timeout(300),
]
ONE = "one worker is plain SGD"
PORT, PORT_OF_ONE = 7070, 7071
RATE = "200mbit"  # of each cable, in each direction
LAWS = """
import json, sys
from tardigrad.testing import check_engine
check_engine("joined", **json.loads(sys.argv[1]))
print("the laws hold")
"""


@pytest.fixture(scope="module")
def hosts():
    with Hosts(rate=RATE) as made:
        yield made


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    file = tmp_path_factory.mktemp("secret") / "secret"
    write_secret(file, new_secret())
    return str(file)


@contextmanager
def joining(hosts, names, port, secret):
    """An agent on each of these hosts, waiting for one run after the other."""
    words = ["join", f"{hosts.address('red')}:{port}", "--secret-file", secret, "--again"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    found = [hosts.popen(name, [*TARDIGRAD, *words], env=environment) for name in names]
    yield found
    for agent in found:
        agent.send_signal(signal.SIGTERM)
    assert [agent.wait(timeout=60) for agent in found] == [0] * len(found)


@pytest.fixture(scope="module")
def agents(hosts, secret):
    with joining(hosts, hosts.names, PORT, secret) as found:
        yield found


def laws_hold(hosts, laws, port, secret, shards):
    """In a process of the first host: what it starts, shards for one, is on that host too."""
    settings = {"laws": laws, "listen": f"{hosts.address('red')}:{port}", "secret_file": secret, "shards": shards}
    said = hosts.run("red", [sys.executable, "-c", LAWS, json.dumps(settings)], timeout=280)
    assert said.endswith("the laws hold\n")


def test_the_transport_keeps_its_laws_from_host_to_host(hosts):
    address = f"{hosts.address('red')}:0"
    site = Site(address, listening=lambda: hosts.inside("red"), dialling=lambda: hosts.inside("blue"))
    check_transport("stream", site=site)


@pytest.mark.parametrize("shards", [1, 2])
def test_the_engine_keeps_its_laws_with_its_workers_on_three_hosts(hosts, agents, secret, shards):
    laws_hold(hosts, [law for law in ENGINE_LAWS if law != ONE], PORT, secret, shards)
    assert all(agent.poll() is None for agent in agents)


@pytest.mark.parametrize("shards", [1, 2])
def test_one_worker_on_another_host_is_plain_sgd(hosts, secret, shards):
    """Alone: whoever else waited for a run would join it."""
    with joining(hosts, ["green"], PORT_OF_ONE, secret):
        laws_hold(hosts, [ONE], PORT_OF_ONE, secret, shards)
