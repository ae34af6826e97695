"""The Ray engine with a cluster of its own on this machine: its laws, and what it refuses."""

import threading

import pytest

pytest.importorskip("ray", reason="the Ray engine needs Ray: pip install 'tardigrad[ray]'")

import ray

import tardigrad
from tardigrad import cli
from tardigrad.audit import audit
from tardigrad.commands.elsewhere import train_elsewhere
from tardigrad.engines.base import Meeting
from tardigrad.engines.ray.cluster import let_go, reached
from tardigrad.engines.ray.keeping import hands_kept
from tardigrad.errors import InvalidArgument
from tardigrad.testing import check_engine

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("ray"), pytest.mark.timeout(240)]
RECIPE = tardigrad.RunConfig(task="quadratic(dimension=3, samples=128)", lr=0.05)
SETTINGS = {"engine": "ray", "workers": 1, "epochs": 1, "batch_size": 8}
SCRIPT = """
import torch
from torch.utils.data import DataLoader, TensorDataset

import tardigrad
from beside import LOSS


def main(session):
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(torch.ones(64, 4), torch.ones(64).long()), batch_size=8)
    model, optimizer, loader = session.prepare(model, optimizer, loader)
    for _ in session.epochs(1):
        for batch, labels in loader:
            optimizer.zero_grad()
            LOSS(model(batch), labels).backward()
            optimizer.step()
"""


@pytest.fixture(autouse=True)
def no_cluster_is_left():
    yield
    assert not ray.is_initialized()


@pytest.fixture
def own_cluster():
    """One cluster of its own for several runs."""
    cluster = reached(Meeting(None, workers=3, shards=2)).hold()
    with hands_kept():
        yield
    cluster.close()


@pytest.mark.usefixtures("own_cluster")
def test_it_keeps_the_laws_of_an_engine():
    check_engine("ray", first_step=120.0, shards=2)


def test_what_one_node_can_never_have_is_refused_before_anything_begins(tmp_path):
    with pytest.raises(InvalidArgument, match="wants 2 nodes"):
        tardigrad.train(RECIPE, directory=tmp_path, **SETTINGS | {"workers": 2, "ray": "strategy='strict-spread'"})
    with pytest.raises(InvalidArgument, match="'nowhere', which is not here"):
        tardigrad.train(RECIPE, directory=tmp_path, **SETTINGS | {"ray": "runtime_env={'working_dir': 'nowhere'}"})


def test_a_server_that_could_never_be_placed_is_refused():
    with pytest.raises(InvalidArgument, match="2 big more"):
        reached(Meeting(None, shards=2, ray="server_resources={'big': 1}"), server_actor=True)


def test_a_cluster_that_a_failed_run_has_left_is_not_the_next_ones():
    first = reached(Meeting(None, workers=1))
    assert reached(Meeting(None, workers=1)) is first
    assert reached(Meeting(None, workers=7)) is not first
    assert ray.cluster_resources()["CPU"] >= 7
    let_go()


def test_a_cluster_that_is_needed_is_used_for_what_it_has_and_no_more():
    cluster = reached(Meeting(None, workers=1)).hold()
    try:
        assert reached(Meeting(None, workers=1, data_dir="elsewhere")) is cluster
        with pytest.raises(InvalidArgument, match="more than a cluster of its own has"):
            reached(Meeting(None, workers=100))
        with pytest.raises(InvalidArgument, match="still has a Ray cluster"):
            reached(Meeting(None, workers=1, address="10.0.0.1:6379"))
    finally:
        cluster.close()
    let_go()


def test_the_server_and_its_shards_have_room_too(tmp_path):
    config, _ = tardigrad.training.resolve(RECIPE, **SETTINGS | {"workers": 2, "shards": 3})
    too_late = threading.Event()
    timer = threading.Timer(150.0, too_late.set)
    timer.start()
    try:
        assert train_elsewhere(config, tmp_path / "run", observers=[], stop=too_late.is_set) == 0
    finally:
        timer.cancel()
    assert audit(tmp_path / "run").ok


@pytest.mark.parametrize("where", [[], ["--server-actor"]])
def test_a_folder_is_brought_to_the_workers(where, tmp_path, monkeypatch):
    folder, place = tmp_path / "mine", tmp_path / "run"
    folder.mkdir()
    (folder / "script.py").write_text(SCRIPT)
    (folder / "beside.py").write_text("from torch.nn.functional import cross_entropy as LOSS\n")
    monkeypatch.chdir(folder)
    words = ["--workers", "1", "--ray", "runtime_env={'working_dir': '.'}", "--directory", str(place)]
    assert cli.main(["run", "--engine", "ray", *where, *words, "script.py"]) == 0
    assert audit(place).ok
