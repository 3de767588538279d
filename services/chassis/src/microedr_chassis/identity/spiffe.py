"""The one URI in an agent's certificate: ``spiffe://<trust domain>/tenant/<tenant>/host/<host>``."""

import re
from dataclasses import dataclass

from microedr.ids import is_valid_name
from microedr_chassis.errors import IdentityError

TRUST_DOMAIN = "microedr.local"
"""Of installations that do not choose one."""

_MAX_URI_CHARS = 2048  # SPIFFE-ID, section 2.4
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}", re.ASCII)
_PATH = re.compile(r"spiffe://([^/]*)/tenant/([^/]*)/host/([^/]*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """One agent installation, as the certificate authority names it."""

    trust_domain: str
    tenant_id: str
    host_id: str

    def __post_init__(self) -> None:
        if _TRUST_DOMAIN.fullmatch(self.trust_domain) is None:
            raise IdentityError("not a trust domain: letters a-z, digits, '.', '-' and '_'")
        for kind, name in (("tenant", self.tenant_id), ("host", self.host_id)):
            if not is_valid_name(name):
                raise IdentityError(f"not a {kind} id: at most 64 of A-Z, a-z, 0-9, '.', '_' and '-'")

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/tenant/{self.tenant_id}/host/{self.host_id}"

    @classmethod
    def parse(cls, uri: str) -> "SpiffeId":
        """The id that ``uri`` writes; ``str`` of it is ``uri`` again.

        Raises:
            IdentityError: It is of another shape.
        """
        found = _PATH.fullmatch(uri) if len(uri) <= _MAX_URI_CHARS else None
        if found is None:
            raise IdentityError("the URI is not spiffe://<trust domain>/tenant/<tenant>/host/<host>")
        return cls(*found.groups())
