"""How to join a run, as its directory says it."""

import stat

import pytest

from tardigrad.errors import RunDirectoryError
from tardigrad.invitation import JOIN, Invitation, find_invitation, reachable, withdraw

INVITED = Invitation("10.0.0.2:7070", "runs/one two/secret", trusted=True, script="/home/me/train.py")


def test_what_was_written_is_read_and_only_its_owner_may(tmp_path):
    INVITED.write(tmp_path)
    assert Invitation.read(tmp_path) == INVITED
    assert stat.S_IMODE((tmp_path / JOIN).stat().st_mode) == 0o600
    withdraw(tmp_path)
    withdraw(tmp_path)
    assert find_invitation(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', '{"format": 1, "address": "x", "other": 1}'])
def test_a_damaged_file_is_explained(tmp_path, text):
    (tmp_path / JOIN).write_text(text)
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        Invitation.read(tmp_path)


def test_a_run_that_waits_for_nobody(tmp_path):
    with pytest.raises(RunDirectoryError, match="tardigrad serve"):
        Invitation.read(tmp_path)


def test_the_line_can_be_typed_as_it_is(tmp_path):
    assert INVITED.line == (
        "tardigrad join 10.0.0.2:7070 --secret-file 'runs/one two/secret' --trusted-network train.py"
    )
    (tmp_path / "secret").write_text("tg-abc\n")
    plain = Invitation("10.0.0.2:7070", str(tmp_path / "secret"))
    assert plain.line_with_secret() == "TARDIGRAD_SECRET=tg-abc tardigrad join 10.0.0.2:7070"
    assert "tg-abc" not in plain.line
    (tmp_path / "secret").write_text("own words; $HOME\n")
    assert plain.line_with_secret().startswith("TARDIGRAD_SECRET='own words; $HOME' tardigrad")


@pytest.mark.parametrize("everywhere", [":7070", "0.0.0.0:7070", "[::]:7070"])
def test_an_address_for_all_becomes_one_that_others_can_type(everywhere):
    host, _, port = reachable(everywhere).rpartition(":")
    assert host not in ("", "0.0.0.0", "[::]")
    assert port == "7070"
    assert reachable("127.0.0.1:7070") == "127.0.0.1:7070"
