"""The archive is fetched whole or not at all; where it cannot be, a sentence says where it belongs and what to type."""

import fcntl
import http.server
import os
import sys
import threading
from dataclasses import dataclass, field

import pytest

from tardigrad.data.cifar import load_cifar
from tardigrad.data.download import fetch
from tardigrad.errors import DataError


@dataclass
class Site:
    """A web site of one answer on this machine."""

    content: bytes
    status: int = 200
    announced: int | None = None
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def site(small, monkeypatch):
    """Serves the small archive from this machine; the archive itself is gone from the folder."""
    site = Site(small.pack().read_bytes())
    small.archive.unlink()

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            site.asked.append(self.path)
            self.send_response(site.status)
            length = len(site.content) if site.announced is None else site.announced
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(site.content)

        def log_message(self, *_):
            pass

    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    small.publish_address(f"http://127.0.0.1:{server.server_address[1]}/{small.published.archive.name}")
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


def refusal(small):
    """What is said where CIFAR-10 cannot be had; every such sentence says the same of what to do."""
    with pytest.raises(DataError) as caught:
        load_cifar("cifar10")
    told = str(caught.value)
    for part in (
        "CIFAR-10 is not there: neither cifar-10-batches-py/ nor cifar-10-python.tar.gz lies in ",
        f"Fetch {small.published.address} into that folder",
        "--data-dir FOLDER",
        "TARDIGRAD_DATA=FOLDER",
        "pip install 'tardigrad[data]'",
    ):
        assert part in told
    return told


def test_what_is_missing_is_fetched_into_the_data_folder(small, site, monkeypatch, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert len(load_cifar("cifar10").train_labels) == 20
    assert list(small.directory.iterdir()) == [small.archive]
    assert small.archive.read_bytes() == site.content
    assert list(elsewhere.iterdir()) == []
    assert site.asked == ["/cifar-10-python.tar.gz"]


def test_the_folder_is_made(small, site):
    small.directory.rmdir()
    assert fetch(small.published, small.directory) == small.archive
    assert small.archive.is_file()


def test_what_is_there_is_not_fetched(small, site):
    small.unpack()
    load_cifar("cifar10")
    assert site.asked == []


def test_what_another_process_has_fetched_meanwhile_is_not_fetched_again(small, site, monkeypatch):
    """The other one holds the folder, and has the archive in its place when it lets go."""

    def wait_for_the_other(descriptor, operation):
        assert operation == fcntl.LOCK_EX
        assert os.path.samestat(os.fstat(descriptor), small.directory.stat())
        small.archive.write_bytes(site.content)

    monkeypatch.setattr(fcntl, "flock", wait_for_the_other)
    assert fetch(small.published, small.directory) == small.archive
    assert site.asked == []


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        ("torn and announced whole", "fetching it failed|torn or not what was published"),
        ("torn", "torn or not what was published"),
        ("changed", "torn or not what was published"),
        ("empty", "torn or not what was published"),
        ("404", "404"),
        ("500", "500"),
    ],
)
def test_what_is_torn_or_changed_is_never_kept(small, site, harm, expected):
    whole = site.content
    match harm:
        case "torn and announced whole":
            site.content, site.announced = whole[:-1], len(whole)
        case "torn":
            site.content = whole[: len(whole) // 2]
        case "changed":
            site.content = whole[:-1] + bytes([whole[-1] ^ 1])
        case "empty":
            site.content = b""
        case _:
            site.status = int(harm)
    told = refusal(small)
    assert any(part in told for part in expected.split("|"))
    assert list(small.directory.iterdir()) == []
    site.content, site.status, site.announced = whole, 200, None
    assert len(load_cifar("cifar10").train_labels) == 20


def test_stopped_by_hand_nothing_is_left(small, site, monkeypatch):
    """Ctrl-C between the download and its checksum."""

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pooch.core.hash_matches", stopped)
    with pytest.raises(KeyboardInterrupt):
        load_cifar("cifar10")
    assert site.asked
    assert list(small.directory.iterdir()) == []


def test_without_a_network(small, site):
    small.publish_address("http://127.0.0.1:1/cifar-10-python.tar.gz")  # a port at which nobody answers
    assert "the address cannot be reached" in refusal(small)
    assert site.asked == []


def test_without_pooch(small, site, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert "pooch, which would fetch it, is not installed" in refusal(small)
    assert site.asked == []


def test_without_a_folder_to_write_to(small, site):
    small.directory.rmdir()
    small.directory.write_text("a file in the folder's place")
    told = refusal(small)
    assert "(there is no such folder)" in told
    assert "fetching it failed" in told


def test_the_progress_bar_is_for_terminals(small, site, monkeypatch, capfd):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    fetch(small.published, small.directory)
    assert "%|" not in capfd.readouterr().err
    small.archive.unlink()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    fetch(small.published, small.directory)
    assert "100%|" in capfd.readouterr().err
