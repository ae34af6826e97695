"""`join` with a run's directory: where the secret and the script are found, whoever asks, from wherever."""

from dataclasses import replace

import pytest

from tardigrad.engines.base import Meeting
from tardigrad.engines.joined.facts import Facts
from tardigrad.engines.joined.reception import Reception
from tardigrad.errors import InvalidArgument, Unreachable
from tardigrad.invitation import Invitation
from tardigrad.joining import join
from tardigrad.transports.credentials import new_secret, write_secret


def served(directory, **settings):
    """The invitation that a server leaves in this directory, which is gone by now."""
    reception = Reception(Meeting(directory, trusted_network=True, **settings), Facts.own(), lambda arrival: None)
    invitation = Invitation.read(directory)
    reception.close(finished=False)
    invitation.write(directory)
    return invitation


@pytest.mark.parametrize("secret_file", ["", "own"])
def test_a_run_of_a_relative_directory_is_joined_from_anywhere(tmp_path, monkeypatch, secret_file):
    (tmp_path / "server").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "server")
    if secret_file:
        write_secret(tmp_path / "server" / secret_file, new_secret())
    served((tmp_path / "server" / "run").relative_to(tmp_path / "server"), secret_file=secret_file)
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(Unreachable):
        join(tmp_path / "server" / "run", keep_trying=0.0)


def test_a_directory_that_lies_elsewhere_here_holds_the_secret(tmp_path):
    served(tmp_path / "there")
    (tmp_path / "there").rename(tmp_path / "here")
    with pytest.raises(Unreachable):
        join(tmp_path / "here", keep_trying=0.0)


def test_the_servers_script_that_is_not_on_this_machine_is_named(tmp_path):
    replace(served(tmp_path / "run"), script="/nowhere/train.py").write(tmp_path / "run")
    with pytest.raises(InvalidArgument, match=r"there is no script /nowhere/train\.py"):
        join(tmp_path / "run", keep_trying=0.0)
