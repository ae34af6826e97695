"""Credentials: one secret that a server and its agents share, and what both ends derive from it.

The secret never travels. From it both ends derive the same key and the same certificate for TLS, each shows it and
takes no other: so whoever has the secret gets in, as server or as agent, and nobody else learns or changes anything.
Where the network is trusted, nothing is encrypted, and both ends prove the secret by answering a challenge.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import ssl
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tardigrad.errors import InvalidArgument, MissingDependencyError

_SHORTEST = 32  # characters
_NAME = "tardigrad"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What an end proves itself with.

    Attributes:
        secret: see `new_secret`; at least 32 characters.
        trusted: whether the network is trusted: then nothing is encrypted, but both ends still prove the secret.

    Raises:
        InvalidArgument: the secret is too short.
    """

    secret: str = field(repr=False)
    trusted: bool = False

    def __post_init__(self) -> None:
        require_secret(self.secret)

    def proof(self, role: str, challenges: bytes) -> bytes:
        """What only a holder of the secret can answer in this role to these challenges: 32 bytes (HMAC-SHA-256)."""
        return hmac.digest(_derived(self.secret, "proof"), role.encode() + b"\0" + challenges, "sha256")

    def tls(self, *, server: bool) -> ssl.SSLContext:
        """TLS 1.3 that shows the secret's certificate and takes nothing but the same one.

        Raises:
            MissingDependencyError: the package ``cryptography`` is needed.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the certificate is the secret's, whatever the host's name
        context.verify_mode = ssl.CERT_REQUIRED
        if server:
            context.num_tickets = 0  # each connection proves the secret anew
        key, certificate = _identity(_derived(self.secret, "certificate"))
        context.load_verify_locations(cadata=certificate.decode())
        in_memory = os.memfd_create("identity", os.MFD_CLOEXEC)  # the ssl module reads files only
        with open(in_memory, "wb") as file:
            file.write(key + certificate)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{in_memory}")
        return context


def new_secret() -> str:
    """256 bits from the system's source of randomness, as ``"tg-"`` and 52 letters and digits."""
    return "tg-" + base64.b32encode(secrets.token_bytes(32)).decode().rstrip("=").lower()


def require_secret(secret: str) -> str:
    """The secret, without the space around it.

    Raises:
        InvalidArgument: it is too short to be safe.
    """
    stripped = secret.strip()
    if len(stripped) < _SHORTEST or any(letter.isspace() for letter in stripped):
        raise InvalidArgument(
            f"the secret has {len(stripped)} characters; it needs at least {_SHORTEST}, without spaces. A new one: "
            'python -c "from tardigrad.transports.credentials import new_secret; print(new_secret())"'
        )
    return stripped


def read_secret(path: Path | str) -> str:
    """The secret that a file holds.

    Raises:
        InvalidArgument: there is none, or others than the owner may read it.
    """
    file = Path(path)
    try:
        mode, text = stat.S_IMODE(file.stat().st_mode), file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"no secret can be read from {file}: {error}.") from None
    if mode & 0o077:
        raise InvalidArgument(f"others may read the secret in {file} (mode {mode:o}). Type: chmod 600 {file}")
    return require_secret(text)


def write_secret(path: Path | str, secret: str) -> None:
    """Write a file that only its owner may read; one of this name is replaced."""
    file = Path(path)
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as opened:
        opened.write(require_secret(secret) + "\n")


def _derived(secret: str, purpose: str) -> bytes:
    """32 bytes for one purpose: HKDF with SHA-256 (RFC 5869), of one block."""
    extracted = hmac.digest(b"tardigrad network 1", require_secret(secret).encode(), "sha256")
    return hmac.digest(extracted, purpose.encode() + b"\x01", hashlib.sha256)


def _identity(seed: bytes) -> tuple[bytes, bytes]:
    """Key and self-signed certificate, as PEM; the same for the same 32 bytes: Ed25519 draws nothing."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        purpose = "a connection with TLS (a network that is not declared trusted)"
        raise MissingDependencyError("cryptography", extra="network", purpose=purpose) from error
    key = Ed25519PrivateKey.from_private_bytes(seed)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2000, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))  # RFC 5280: it has no end
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, None)
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)
