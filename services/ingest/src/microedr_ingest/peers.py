"""Who may open a stream, from what TLS says about the connection. gRPC checks none of this itself."""

from collections.abc import Iterable, Mapping

from grpc import StatusCode

from microedr_chassis.errors import IdentityError
from microedr_chassis.identity import Peer, parse_peer
from microedr_ingest.errors import PeerRefusedError

_TLS_VERSION = b"TLSv1.3"


def authenticate(auth_context: Mapping[str, Iterable[bytes]], *, now_unix_s: float, trust_domain: str) -> Peer:
    """The peer of a connection.

    Raises:
        PeerRefusedError: It is none of ours.
    """
    # A connection has a peer only if all of this holds:
    #
    # 1. It speaks TLS 1.3. grpcio cannot demand it: grpc/grpc#37305.
    # 2. It has one certificate, which the TLS stack verified against our authority.
    # 3. The certificate names exactly one peer of ours now.

    # 1.
    if list(auth_context.get("ssl_tls_version", ())) != [_TLS_VERSION]:
        raise PeerRefusedError("tls_version", "TLS 1.3 is needed", status=StatusCode.UNAUTHENTICATED)

    # 2.
    certificates = list(auth_context.get("x509_pem_cert", ()))
    if len(certificates) != 1:
        raise PeerRefusedError("certificate", "a client certificate is needed", status=StatusCode.UNAUTHENTICATED)

    # 3.
    try:
        return parse_peer(certificates[0], now_unix_s=now_unix_s, trust_domain=trust_domain)
    except IdentityError as error:
        raise PeerRefusedError("certificate", str(error), status=StatusCode.UNAUTHENTICATED) from error


def check_unexpired(peer: Peer, now_unix_s: float) -> None:
    """To be called before anything is taken from a connection that lives on.

    Raises:
        PeerRefusedError: The certificate has expired meanwhile.
    """
    if now_unix_s >= peer.not_after_unix_s:
        raise PeerRefusedError("certificate", "the certificate has expired", status=StatusCode.UNAUTHENTICATED)
