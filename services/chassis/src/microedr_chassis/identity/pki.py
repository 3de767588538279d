"""The development PKI: an own certificate authority, made in the state directory at the first start.

For one machine and for trying things out. A fleet gets its agents' certificates by enrolment.
"""

import datetime as dt
import ipaddress
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from microedr_chassis.errors import IdentityError
from microedr_chassis.identity.spiffe import TRUST_DOMAIN, SpiffeId

CA_LIFE = dt.timedelta(days=3650)
"""Nothing can renew what every agent trusts without touching every agent."""

LEAF_LIFE = dt.timedelta(days=365)
"""Renewed at half life, but only when the system starts: an installation must survive half a year without
a restart. Certificates by enrolment, which renew while running, live 24 hours."""

_CLOCK_SKEW = dt.timedelta(minutes=5)
"""An agent's clock may be behind ours."""


@dataclass(frozen=True, slots=True)
class PkiPaths:
    """Where the PEM files are. Keys are readable by their owner alone."""

    ca_cert: Path
    ca_key: Path
    server_cert: Path
    server_key: Path
    agent_cert: Path
    agent_key: Path


def ensure_pki(  # noqa: PLR0913 - what certificates name
    directory: Path,
    *,
    tenant_id: str,
    host_id: str,
    server_names: Sequence[str] = (),
    trust_domain: str = TRUST_DOMAIN,
    now: dt.datetime | None = None,
) -> PkiPaths:
    """Create what is missing, renew what is past half its life, keep the rest.

    A server or agent certificate is also made anew when it names something else than asked for, does not fit
    its key or is of another authority. The authority is only made anew once it is expired.

    Args:
        directory: Made when missing.
        tenant_id: Of the agent certificate.
        host_id: Of the agent certificate.
        server_names: DNS names and addresses of the server, beside localhost and the host's name.
        trust_domain: Of the agent certificate.
        now: For tests.

    Raises:
        IdentityError: A name is not valid, or a file is there but cannot be used; the text names it.
    """
    moment = dt.datetime.now(dt.UTC) if now is None else now
    agent = SpiffeId(trust_domain, tenant_id, host_id)
    paths = PkiPaths(*(directory / name for name in _FILES))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        authority = _ensure_authority(paths, moment)
        uri = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(agent))])
        for leaf in (
            _Leaf(paths.server_cert, paths.server_key, _server_names(server_names), ExtendedKeyUsageOID.SERVER_AUTH),
            _Leaf(paths.agent_cert, paths.agent_key, uri, ExtendedKeyUsageOID.CLIENT_AUTH),
        ):
            _ensure_leaf(leaf, authority, moment)
    except OSError as error:
        raise IdentityError(f"{error.filename or directory}: {error.strerror}") from error
    return paths


_FILES = ("ca.crt", "ca.key", "server.crt", "server.key", "agent.crt", "agent.key")


@dataclass(frozen=True, slots=True)
class _Pair:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class _Leaf:
    cert_path: Path
    key_path: Path
    names: x509.SubjectAlternativeName
    purpose: x509.ObjectIdentifier


def _ensure_authority(paths: PkiPaths, now: dt.datetime) -> _Pair:
    known = _read_pair(paths.ca_cert, paths.ca_key)
    if known is not None and now < known.certificate.not_valid_after_utc:
        return known
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "microedr development CA")])
    usage = _key_usage(signs_certificates=True)
    certificate = (
        _builder(name, name, key, now, CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _write_pair(paths.ca_cert, paths.ca_key, _Pair(certificate, key))


def _ensure_leaf(leaf: _Leaf, authority: _Pair, now: dt.datetime) -> None:
    known = _read_pair(leaf.cert_path, leaf.key_path)
    if known is not None and _is_good(known.certificate, authority, leaf.names, now):
        return
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate
    certificate = (
        _builder(x509.Name([]), issuer.subject, key, now, LEAF_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([leaf.purpose]), critical=False)
        .add_extension(leaf.names, critical=True)  # critical because the subject is empty: RFC 5280, 4.2.1.6
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
        .sign(authority.key, hashes.SHA256())
    )
    _write_pair(leaf.cert_path, leaf.key_path, _Pair(certificate, key))


def _is_good(
    certificate: x509.Certificate, authority: _Pair, names: x509.SubjectAlternativeName, now: dt.datetime
) -> bool:
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - life / 2:
        return False
    try:
        certificate.verify_directly_issued_by(authority.certificate)
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return found == names


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: dt.datetime,
    life: dt.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + life)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _server_names(more: Sequence[str]) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = []
    for text in dict.fromkeys(("localhost", "127.0.0.1", "::1", socket.gethostname(), *more)):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(text)))
        except ValueError:
            names.append(x509.DNSName(text))
    return x509.SubjectAlternativeName(names)


def _read_pair(cert_path: Path, key_path: Path) -> _Pair | None:
    if not cert_path.exists() or not key_path.exists():
        return None
    path = cert_path
    try:
        certificate = x509.load_pem_x509_certificate(cert_path.read_bytes())
        path = key_path
        key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
    except ValueError as error:
        raise IdentityError(f"{path}: not PEM that can be read; move it away to have a new one made") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IdentityError(f"{key_path}: not an elliptic-curve key; move it away to have a new one made")
    if key.public_key() != certificate.public_key():
        return None  # a crash between the two writes
    return _Pair(certificate, key)


def _write_pair(cert_path: Path, key_path: Path, pair: _Pair) -> _Pair:
    key = pair.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(key_path, key, mode=0o600)
    _write(cert_path, pair.certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
    return pair


def _write(path: Path, content: bytes, *, mode: int) -> None:
    """Replace ``path`` atomically; nobody else can read a key even for a moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
