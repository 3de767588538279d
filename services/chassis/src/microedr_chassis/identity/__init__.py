"""Who is who: SPIFFE ids (``spiffe``), peers by their certificate (``peer``), the development PKI (``pki``)."""

from microedr_chassis.identity.peer import Peer, parse_peer
from microedr_chassis.identity.pki import PkiPaths, ensure_pki
from microedr_chassis.identity.spiffe import TRUST_DOMAIN, SpiffeId

__all__ = ["TRUST_DOMAIN", "Peer", "PkiPaths", "SpiffeId", "ensure_pki", "parse_peer"]
