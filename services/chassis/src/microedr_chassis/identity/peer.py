"""Who a connected agent is, by the certificate it proved to hold."""

from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from microedr_chassis.errors import IdentityError
from microedr_chassis.identity.spiffe import TRUST_DOMAIN, SpiffeId


@dataclass(frozen=True, slots=True)
class Peer:
    """An agent installation and the certificate that says so."""

    tenant_id: str
    host_id: str
    serial: int
    not_after_unix_s: float


def parse_peer(pem: bytes, *, now_unix_s: float, trust_domain: str = TRUST_DOMAIN) -> Peer:
    """The peer that the certificate in ``pem`` names.

    The TLS stack has verified the chain and that the peer holds the key. It does not check what stands
    below, and never looks again at a connection that lives on.

    Raises:
        IdentityError: The certificate does not name exactly one peer of ours now; the text says why.
    """
    # A certificate names a peer only if all of this holds:
    #
    # 1. It parses.
    # 2. Now is within its life.
    # 3. It is for clients, and is no certificate authority.
    # 4. It has exactly one URI, and that is an id of ours.
    # 5. The id is of our trust domain.

    # 1.
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        extensions = certificate.extensions
    except ValueError as error:
        raise IdentityError("the certificate does not parse") from error

    # 2.
    not_after_unix_s = certificate.not_valid_after_utc.timestamp()
    if not certificate.not_valid_before_utc.timestamp() <= now_unix_s < not_after_unix_s:
        raise IdentityError("the certificate is expired or not yet valid")

    # 3.
    if _is_authority(extensions) or not _is_for_clients(extensions):
        raise IdentityError("the certificate is not for clients")

    # 4.
    uris = _uris(extensions)
    if len(uris) != 1:
        raise IdentityError(f"the certificate has {len(uris)} URIs, exactly one is needed")
    spiffe_id = SpiffeId.parse(uris[0])

    # 5.
    if spiffe_id.trust_domain != trust_domain:
        raise IdentityError("the certificate is of another trust domain")
    return Peer(spiffe_id.tenant_id, spiffe_id.host_id, certificate.serial_number, not_after_unix_s)


def _is_authority(extensions: x509.Extensions) -> bool:
    try:
        return extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _is_for_clients(extensions: x509.Extensions) -> bool:
    try:
        usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return ExtendedKeyUsageOID.CLIENT_AUTH in usage


def _uris(extensions: x509.Extensions) -> list[str]:
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)
