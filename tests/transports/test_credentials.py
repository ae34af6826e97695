"""Credentials: secrets that nobody guesses or reads, and what is derived from one."""

import os
import ssl
import stat
import sys

import pytest

from tardigrad.errors import InvalidArgument, MissingDependencyError
from tardigrad.transports import credentials
from tardigrad.transports.credentials import Credentials, new_secret, read_secret, require_secret, write_secret

SECRET = "tg-" + "abcdefgh" * 6 + "ijkl"


def test_every_secret_is_another_one_with_256_bits():
    secrets = {new_secret() for _ in range(20)}
    assert len(secrets) == 20
    assert all(len(each) == 3 + 52 and each.startswith("tg-") and each.isascii() for each in secrets)


@pytest.mark.parametrize("short", ["", "password", "x" * 31, "x" * 20 + " " + "x" * 20])
def test_what_could_be_guessed_is_no_secret(short):
    with pytest.raises(InvalidArgument, match="it needs at least 32"):
        Credentials(short)


def test_space_around_a_secret_does_not_count():
    assert require_secret(f" {SECRET}\n") == SECRET
    assert Credentials(SECRET).proof("a", b"") == Credentials(f"{SECRET}\n").proof("a", b"")


def test_a_secret_is_not_shown():
    assert SECRET not in repr(Credentials(SECRET))


def test_a_file_is_written_for_its_owner_alone_and_read_again(tmp_path):
    file = tmp_path / "secret"
    file.write_text("of before")
    file.chmod(0o644)
    write_secret(file, SECRET)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_secret(file) == SECRET


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_file_that_others_may_read_is_refused(tmp_path, mode):
    file = tmp_path / "secret"
    write_secret(file, SECRET)
    file.chmod(mode)
    with pytest.raises(InvalidArgument, match=f"others may read.*mode {mode:o}.*Type: chmod 600 .*secret"):
        read_secret(file)


def test_a_file_without_a_secret_is_refused(tmp_path):
    with pytest.raises(InvalidArgument, match="no secret can be read from"):
        read_secret(tmp_path / "missing")
    (tmp_path / "bytes").write_bytes(b"\xff" * 40)
    (tmp_path / "bytes").chmod(0o600)
    with pytest.raises(InvalidArgument, match="no secret can be read from"):
        read_secret(tmp_path / "bytes")


def test_the_same_secret_gives_the_same_identity_and_another_one_another():
    identities = {credentials._identity(credentials._derived(secret, "certificate")) for secret in (SECRET, SECRET)}
    assert len(identities) == 1
    assert credentials._identity(credentials._derived(SECRET + "m", "certificate")) not in identities


def test_key_derivation_is_that_of_rfc_5869():
    """Its first test case, whose 42 bytes begin with our only block."""
    import hmac

    extracted = hmac.digest(bytes(range(13)), b"\x0b" * 22, "sha256")
    assert (
        hmac.digest(extracted, bytes(range(0xF0, 0xFA)) + b"\x01", "sha256").hex().startswith("3cb25f25faacd57a90434f")
    )
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    theirs = HKDF(algorithm=hashes.SHA256(), length=32, salt=b"tardigrad network 1", info=b"proof")
    assert credentials._derived(SECRET, "proof") == theirs.derive(SECRET.encode())


def test_proofs_differ_by_secret_role_and_challenges():
    proofs = {
        Credentials(secret).proof(role, challenges)
        for secret in (SECRET, SECRET + "m")
        for role in ("listener", "dialler")
        for challenges in (b"1", b"2")
    }
    assert len(proofs) == 8


@pytest.mark.parametrize("server", [False, True])
def test_tls_is_no_older_than_1_3_and_verifies(server):
    context = Credentials(SECRET).tls(server=server)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert len(context.get_ca_certs()) <= 1


def test_the_key_lies_in_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(os.listdir("/proc/self/fd"))
    Credentials(SECRET).tls(server=True)
    assert os.listdir(tmp_path) == []
    assert set(os.listdir("/proc/self/fd")) == before


def test_without_the_package_a_sentence_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'tardigrad\[network\]'"):
        Credentials(SECRET).tls(server=False)
    assert len(Credentials(SECRET, trusted=True).proof("listener", b"")) == 32  # needs nothing
