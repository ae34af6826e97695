"""The hosts on which runs between machines are tested are apart, reachable, breakable, and gone in the end."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hosts import Failed, Hosts, Prompt, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

# A server that answers each line, and a client that asks once and waits no longer than it must.
ANSWERING = """
import socket, sys
with socket.create_server(("", 7070)) as listening:
    print("ready", flush=True)
    while True:
        connection, (address, port) = listening.accept()
        with connection:
            connection.sendall(f"{socket.gethostname()} answers {address}".encode())
"""
ASKING = """
import socket, sys
with socket.create_connection((sys.argv[1], 7070), timeout=float(sys.argv[2])) as connection:
    print(connection.recv(100).decode())
"""


@pytest.fixture
def hosts():
    with Hosts() as made:
        yield made


def answering(hosts, name):
    process = hosts.popen(name, [sys.executable, "-c", ANSWERING], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def ask(hosts, asker, answerer, patience="0.3"):
    return hosts.run(asker, [sys.executable, "-c", ASKING, hosts.address(answerer), patience]).strip()


def namespaces_of(hosts):
    return {int(hosts.run(name, ["stat", "-Lc", "%i", "/proc/self/ns/net"])) for name in hosts.names}


def inhabited(namespaces):
    """Those of the network namespaces in which anything lives."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(os.stat(path).st_ino)
        except OSError:
            continue
    return found & namespaces


def children():
    """The numbers of the processes that this one has started and not reaped."""
    return set(Path("/proc/thread-self/children").read_text().split())


def test_each_host_has_its_name_its_address_and_its_ports(hosts):
    for name in ("red", "green"):
        answering(hosts, name)
    assert ask(hosts, "blue", "red") == "red answers 10.77.0.3"
    assert ask(hosts, "blue", "green") == "green answers 10.77.0.3"
    assert ask(hosts, "red", "red") == "red answers 10.77.0.1"


def test_a_thread_can_be_on_a_host_while_others_are_not(hosts):
    with hosts.inside("red"):
        listening = socket.create_server((hosts.address("red"), 0))
    with hosts.inside("blue"):
        asking = socket.create_connection(listening.getsockname(), timeout=20)
    with listening, asking, listening.accept()[0] as answering_end:
        assert answering_end.getpeername()[0] == hosts.address("blue")
    with pytest.raises(OSError, match="annot assign"):  # this thread is where it was
        socket.create_server((hosts.address("red"), 0))


def test_two_labs_have_the_same_addresses_and_nothing_in_common(hosts):
    answering(hosts, "red")
    with Hosts(["other", "asker"]) as others, pytest.raises(Failed, match="refused"):
        ask(others, "asker", "other")


def test_a_cut_cable_carries_nothing_and_a_healed_one_does_again(hosts):
    answering(hosts, "red")
    hosts.cut("red")
    with pytest.raises(Failed, match=r"timed out|No route"):
        ask(hosts, "blue", "red")
    hosts.heal("red")
    assert ask(hosts, "blue", "red", "20") == "red answers 10.77.0.3"


def test_a_connection_outlives_a_cut(hosts):
    words = "import socket; s = socket.create_server(('', 9)); c, _ = s.accept(); print(c.recv(9)); print(c.recv(9))"
    hears = hosts.popen("red", [sys.executable, "-uc", words], stdout=subprocess.PIPE, text=True)
    speak = f"""
import socket, sys, time
while True:
    try:
        s = socket.create_connection(("{hosts.address("red")}", 9), timeout=1)
        break
    except OSError:
        pass
s.sendall(b"before")
sys.stdin.readline()
s.sendall(b"after")
print("sent", flush=True)
sys.stdin.readline()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    speaks = hosts.popen("blue", [sys.executable, "-c", speak], **pipes)
    assert hears.stdout.readline() == "b'before'\n"
    hosts.cut("blue")
    speaks.stdin.write("\n")
    assert speaks.stdout.readline() == "sent\n"
    hosts.heal("blue")
    assert hears.stdout.readline() == "b'after'\n"


def test_a_host_whose_power_fails_says_nothing_more_and_can_be_there_again(hosts):
    process = answering(hosts, "red")
    orphan = hosts.popen("red", ["sh", "-c", "sleep 1000 & sleep 1000"])
    while len(hosts.processes("red")) < 4:
        assert orphan.poll() is None
    hosts.kill("red")
    assert process.poll() == orphan.poll() == -signal.SIGKILL
    assert hosts.processes("red") == []
    with pytest.raises(Failed, match=r"timed out|No route"):
        ask(hosts, "blue", "red")
    hosts.boot("red")
    answering(hosts, "red")
    assert ask(hosts, "blue", "red", "20") == "red answers 10.77.0.3"


def test_each_cable_is_as_narrow_as_is_asked_in_both_directions(hosts):
    def shape(name, device):
        words = [*hosts.way_into(name), "tc", "qdisc", "show", "dev", device]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    for rate, said in (("1gbit", "rate 1Gbit burst 262125b lat 50ms"), ("100mbit", "rate 100Mbit")):
        hosts.limit(rate)
        assert all(said in shape(name, "eth0") and said in shape("switch", name) for name in hosts.names)
    hosts.limit("")
    assert "tbf" not in shape("red", "eth0") + shape("switch", "red")


def test_what_fails_on_a_host_says_what_it_said(hosts):
    with pytest.raises(Failed, match=r"exit status 3\.\nwords"):
        hosts.run("red", ["sh", "-c", "echo words; exit 3"])
    with pytest.raises(subprocess.TimeoutExpired):
        hosts.run("red", ["sleep", "1000"], timeout=0.1)
    assert hosts.processes("red") == []


def test_nothing_is_left_whatever_happens():
    before, links, made = children(), os.listdir("/sys/class/net"), set()

    def fail():
        with Hosts() as hosts:
            made.update(namespaces_of(hosts))
            hosts.popen("red", ["sh", "-c", "trap '' TERM INT HUP; setsid sleep 1000 & sleep 1000"])
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert len(made) == 3
    assert not inhabited(made)
    with pytest.raises(Failed, match="exists"):  # the switch has something of that name
        Hosts(["one", "bridge"])
    assert children() == before
    assert os.listdir("/sys/class/net") == links


OWNER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from hosts import Hosts
hosts = Hosts()
hosts.popen("red", ["sleep", "1000"])
print(*(hosts.run(name, ["stat", "-Lc", "%i", "/proc/self/ns/net"]).strip() for name in hosts.names), flush=True)
time.sleep(1000)
"""


def test_what_is_killed_takes_its_hosts_along():
    words = [sys.executable, "-c", OWNER, str(Path(__file__).parent)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as owner:
        made = set(map(int, owner.stdout.readline().split()))
        assert inhabited(made) == made
        owner.kill()
    deadline = time.monotonic() + 30
    while inhabited(made):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_by_hand(hosts, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prompt = Prompt(hosts)
    for line in ("red hostname", "blue sleep 1000 &", "list", "kill blue", "cut red", "limit 1gbit", "limit", "what?"):
        prompt.obey(line)
    said = capfd.readouterr().out.splitlines()
    assert said[0] == "red"
    assert said[1] == "runs on blue; what it says is in blue-1.log"
    assert [line.split()[:3] for line in said[2:5]] == [
        ["red", "10.77.0.1", "0"], ["green", "10.77.0.2", "0"], ["blue", "10.77.0.3", "1"],
    ]  # fmt: skip
    assert said[5].startswith("HOST COMMAND")
    assert hosts.processes("blue") == []
