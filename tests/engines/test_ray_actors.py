"""Hands and servers as Ray's actors: those that cannot begin, are one too many, stay silent, or are lost again."""

import os
import time

import pytest

pytest.importorskip("ray", reason="the Ray engine needs Ray: pip install 'tardigrad[ray]'")

import ray

from ray_cluster import connected
from tardigrad.engines.base import Meeting, Observer
from tardigrad.engines.joined.resolving import Means
from tardigrad.engines.ray import recruiting, serving
from tardigrad.engines.ray.cluster import reached
from tardigrad.engines.ray.hands import Errand, Report
from tardigrad.engines.ray.needs import Needs
from tardigrad.engines.ray.recruiting import RayRecruiter
from tardigrad.engines.ray.serving import Bulletin, Ending, Launch
from tardigrad.errors import InvalidArgument, TardigradError
from tardigrad.transports.credentials import new_secret

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("ray"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with connected() as made:
        yield made


@pytest.fixture
def recruit(monkeypatch):
    """Begins with so many hands of a kind."""
    made = []

    def begin(hand, workers, words=""):
        monkeypatch.setattr(recruiting, "_PAUSE", 0.0)
        monkeypatch.setattr(recruiting, "Hand", hand)
        recruiter = RayRecruiter(Needs.parse(words), Errand(Means()), reached(Meeting(None, ray=words)))
        made.append(recruiter)
        recruiter.begin("127.0.0.1:1", new_secret(), workers)
        return recruiter

    yield begin
    for recruiter in made:
        recruiter.close()


class Quiet(Observer):
    """Keeps what is noted."""

    def __init__(self):
        self.words = []

    def noted(self, time, words):
        self.words.append(words)


class Nobody:
    """A recruiter that only remembers."""

    def __init__(self):
        self.words, self.begun, self.ticks = [], [], []

    def begin(self, address, secret, workers, *, trusted):
        self.begun.append((address, workers, trusted))

    def tick(self, wanted):
        self.ticks.append(wanted)

    def close(self):
        pass


def launch(work, *, words="", stop=lambda: False):
    seen = Quiet()
    needs = Needs.parse(words)
    return Launch(work, needs, Nobody(), secret="", workers=2, observers=[seen], stop=stop), seen


def hand(**methods):
    """A kind of hand that Ray takes by value."""
    silent = {"work": lambda self, errand: time.sleep(60), "is_idle": lambda self: False, "leave": lambda self: None}
    return type("Hand", (), silent | methods)


def until(recruiter, wanted, done):
    while not done():
        recruiter.tick(wanted)


def test_a_hand_that_raises_when_it_begins_is_given_up_with_its_reason(recruit):
    def begins(self):
        raise ModuleNotFoundError("No module named 'tardigrad'")

    recruiter = recruit(hand(__init__=begins), 2)
    with pytest.raises(InvalidArgument, match="No module named 'tardigrad'"):
        until(recruiter, 2, lambda: False)
    assert len(recruiter.words) >= 3


def test_a_hand_whose_environment_cannot_be_made_is_given_up_with_its_reason(recruit):
    recruiter = recruit(hand(), 1, "runtime_env={'conda': 'no-such-environment'}")
    with pytest.raises(InvalidArgument, match="onda"):
        until(recruiter, 1, lambda: False)


def test_refusals_are_counted_in_a_row(recruit, tmp_path):
    def work(self, errand):
        errands = len(list(tmp_path.iterdir()))
        (tmp_path / f"{errands}").touch()
        return Report("over", worked=True) if errands == 2 else Report("refused", f"refusal {errands}")

    recruiter = recruit(hand(work=work), 1)
    with pytest.raises(InvalidArgument, match="refusal 5"):
        until(recruiter, 1, lambda: False)


def test_where_workers_are_one_too_many_those_at_work_stay(recruit, tmp_path):
    def begins(self):
        self.first = True
        try:
            (tmp_path / "first").mkdir()
        except FileExistsError:
            self.first = False

    recruiter = recruit(hand(__init__=begins, is_idle=lambda self: self.first), 3)
    idle = ray.get([post.here for post in recruiter._posts])
    stay = [post for post, one in zip(recruiter._posts, idle, strict=True) if not one]
    until(recruiter, 2, lambda: len(recruiter._posts) == 2)
    assert recruiter._posts == stay


def test_where_none_of_too_many_comes_to_its_end_the_last_ones_are_ended(recruit, monkeypatch):
    monkeypatch.setattr(recruiting, "_PARTING", 0.0)
    recruiter = recruit(hand(), 2)
    ray.get([post.here for post in recruiter._posts])
    first = recruiter._posts[0]
    recruiter.tick(1)
    assert recruiter._posts == [first]


def test_it_is_said_how_many_workers_ray_has_not_placed(recruit, monkeypatch):
    monkeypatch.setattr(recruiting, "_PATIENCE", 0.0)
    recruiter = recruit(hand(), 2, "strategy='strict-spread'")
    until(recruiter, 2, lambda: recruiter.words)
    assert "Ray has not placed 2 of 2 workers yet; waiting for nodes" in recruiter.words


def test_folders_of_this_machine_are_refused_where_the_connection_is_there_already():
    with pytest.raises(InvalidArgument, match="ray job submit --working-dir"):
        reached(Meeting(None, ray="runtime_env={'working_dir': '.'}"))


def test_what_happens_while_an_answer_is_late_is_told(monkeypatch):
    monkeypatch.setattr(serving, "_EVERY", 0.0)

    def work(news, stop):
        for number in range(200):
            news.noted(0.0, f"{number}")
            time.sleep(0.005)
        return Ending(0, "")

    one, seen = launch(work)
    assert one.run() == Ending(0, "")
    assert seen.words == [f"{number}" for number in range(200)]


def test_as_many_workers_as_the_server_says_whether_it_answers_or_not(monkeypatch):
    one, _ = launch(lambda news, stop: None)
    answers = iter([Bulletin("a", "host:1", 6, True, ()), None])
    monkeypatch.setattr(one, "_bulletin", lambda seconds: next(answers))
    one._look()
    one._look()
    assert one._recruiter.begun == [("host:1", 6, True)]
    assert one._recruiter.ticks == [6, 6]
    ray.kill(one._actor)


def test_a_server_that_is_never_placed_is_spoken_of_and_can_be_stopped(monkeypatch):
    monkeypatch.setattr(serving, "_PATIENCE", 0.0)
    one, seen = launch(lambda news, stop: None, words="server_resources={'big': 1}", stop=lambda: bool(seen.words))
    assert one.run() == Ending(3, "stopped before Ray had placed the server: nothing was begun")
    assert seen.words == ["Ray has not placed the server yet; waiting for a node that has what --ray says it needs"]


def test_a_server_that_dies_before_it_stopped_is_asked_again(tmp_path):
    def work(news, stop):
        news.noted(0.0, "begun")
        while not stop():
            time.sleep(0.01)
        if not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os._exit(1)
        return Ending(3, "stopped")

    one, seen = launch(work, stop=lambda: bool(seen.words))
    assert one.run() == Ending(3, "stopped")
    assert any("was lost" in words for words in seen.words)


def test_a_stop_does_not_wait_for_a_server_that_never_answers_again(monkeypatch):
    monkeypatch.setattr(serving, "_SILENCE", 0.0)
    one, _ = launch(lambda news, stop: time.sleep(60), stop=lambda: True)
    one._life, one._asked = "a", ray.put(None)
    assert one._to_stop().status == 3
    ray.kill(one._actor)


def test_a_server_that_dies_whenever_it_begins_is_given_up(monkeypatch):
    monkeypatch.setattr(serving, "_LIVES", 2)
    one, seen = launch(lambda news, stop: os._exit(1))
    with pytest.raises(TardigradError, match="lost 2 times without a commit"):
        one.run()
    assert len(seen.words) == 2
