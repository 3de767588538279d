"""Certificates for tests: good ones by default, with one flaw each where asked for."""

import datetime as dt
from dataclasses import dataclass, field, replace

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """What to put into a certificate; unchanged, a good one of an agent."""

    uris: tuple[str, ...] | None = ("spiffe://microedr.local/tenant/acme/host/host-a",)
    dns_names: tuple[str, ...] = ()
    now: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    starts_in: dt.timedelta = dt.timedelta(minutes=-5)
    life: dt.timedelta = dt.timedelta(days=1)
    for_clients: bool = True
    is_authority: bool = False

    def at(self, now: dt.datetime) -> "CertificateRequest":
        """The same, asked for at another moment."""
        return replace(self, now=now.replace(microsecond=0))


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """PEM."""

    cert_pem: bytes
    key_pem: bytes


class Authority:
    """A certificate authority that signs whatever it is asked to."""

    def __init__(self, name: str = "test CA") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = dt.datetime.now(dt.UTC)
        self.cert_pem = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1000))
            .not_valid_after(now + dt.timedelta(days=1000))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
        )

    def issue(self, request: CertificateRequest) -> IssuedCertificate:
        """A certificate as asked for, with a key of its own."""
        key = ec.generate_private_key(ec.SECP256R1())
        purpose = ExtendedKeyUsageOID.CLIENT_AUTH if request.for_clients else ExtendedKeyUsageOID.SERVER_AUTH
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(request.now + request.starts_in)
            .not_valid_after(request.now + request.life)
            .add_extension(x509.BasicConstraints(ca=request.is_authority, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        )
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in request.uris or ()]
        names += [x509.DNSName(name) for name in request.dns_names]
        if request.uris is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        return IssuedCertificate(
            builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
