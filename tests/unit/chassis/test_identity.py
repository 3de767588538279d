"""A certificate names exactly one peer of ours or is refused; the development PKI makes such certificates."""

import datetime as dt
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from microedr_chassis.errors import IdentityError
from microedr_chassis.identity import TRUST_DOMAIN, SpiffeId, ensure_pki, parse_peer
from support.certificates import Authority, CertificateRequest

_NOW = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
_YEAR = dt.timedelta(days=365)
_NAMES = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True).filter(lambda name: name not in {".", ".."})


@given(tenant=_NAMES, host=_NAMES)
def test_an_id_reads_back_from_its_uri(tenant: str, host: str) -> None:
    spiffe_id = SpiffeId(TRUST_DOMAIN, tenant, host)

    assert SpiffeId.parse(str(spiffe_id)) == spiffe_id


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://microedr.local/tenant/t/host/h",
        "spiffe://microedr.local/tenant/t/host/",
        "spiffe://microedr.local/tenant//host/h",
        "spiffe://microedr.local/tenant/t/host/..",
        "spiffe://microedr.local/tenant/t/host/h/",
        "spiffe://microedr.local/tenant/t/host/h?x=1",
        "spiffe://microedr.local/tenant/t/host/h#x",
        "spiffe://microedr.local/tenant/t%2Fu/host/h",
        "spiffe://user@microedr.local/tenant/t/host/h",
        "spiffe://microedr.local:8443/tenant/t/host/h",
        "spiffe://MICROEDR.LOCAL/tenant/t/host/h",
        "SPIFFE://microedr.local/tenant/t/host/h",
        "spiffe://microedr.local/host/h/tenant/t",
        "spiffe://microedr.local/tenant/t/host/h\n",
        "spiffe://microedr.local/tenant/t/host/hé",
        "spiffe://microedr.local/tenant/t/host/" + "h" * 65,
        "spiffe:///tenant/t/host/h",
    ],
)
def test_a_uri_of_another_shape_is_no_id(uri: str) -> None:
    with pytest.raises(IdentityError):
        SpiffeId.parse(uri)


def test_a_good_certificate_names_tenant_and_host() -> None:
    pem = Authority().issue(CertificateRequest(now=_NOW)).cert_pem

    peer = parse_peer(pem, now_unix_s=_NOW.timestamp())

    assert (peer.tenant_id, peer.host_id) == ("acme", "host-a")
    assert peer.not_after_unix_s == (_NOW + CertificateRequest().life).timestamp()


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        pytest.param(CertificateRequest(uris=()), "0 URIs", id="no URI"),
        pytest.param(CertificateRequest(uris=None), "0 URIs", id="no names at all"),
        pytest.param(
            CertificateRequest(
                uris=(str(SpiffeId(TRUST_DOMAIN, "acme", "a")), str(SpiffeId(TRUST_DOMAIN, "acme", "b")))
            ),
            "2 URIs",
            id="two URIs",
        ),
        pytest.param(CertificateRequest(uris=("https://example.com/",)), "not spiffe://", id="another kind of URI"),
        pytest.param(
            CertificateRequest(uris=("spiffe://elsewhere/tenant/acme/host/host-a",)), "trust domain", id="not of ours"
        ),
        pytest.param(CertificateRequest(life=dt.timedelta(0)), "expired", id="expires now"),
        pytest.param(CertificateRequest(starts_in=dt.timedelta(seconds=1)), "not yet", id="not yet valid"),
        pytest.param(CertificateRequest(for_clients=False), "not for clients", id="for servers"),
        pytest.param(CertificateRequest(is_authority=True), "not for clients", id="an authority's"),
    ],
)
def test_one_flaw_is_enough_to_refuse_a_certificate(request_: CertificateRequest, reason: str) -> None:
    pem = Authority().issue(request_.at(_NOW)).cert_pem

    with pytest.raises(IdentityError, match=reason):
        parse_peer(pem, now_unix_s=_NOW.timestamp())


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_refused(pem: bytes) -> None:
    with pytest.raises(IdentityError, match="does not parse"):
        parse_peer(pem, now_unix_s=0)


def test_the_development_pki_is_made_once_and_kept(tmp_path: Path) -> None:
    first = ensure_pki(tmp_path / "pki", tenant_id="acme", host_id="host-a", now=_NOW)
    before = {path.name: path.read_bytes() for path in (tmp_path / "pki").iterdir()}
    ensure_pki(tmp_path / "pki", tenant_id="acme", host_id="host-a", now=_NOW + _YEAR / 3)

    assert {path.name: path.read_bytes() for path in (tmp_path / "pki").iterdir()} == before
    assert set(before) == {"ca.crt", "ca.key", "server.crt", "server.key", "agent.crt", "agent.key"}
    assert parse_peer(first.agent_cert.read_bytes(), now_unix_s=_NOW.timestamp()).host_id == "host-a"


def test_keys_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    paths = ensure_pki(tmp_path, tenant_id="acme", host_id="host-a")

    for key in (paths.ca_key, paths.server_key, paths.agent_key):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_certificates_are_renewed_after_half_their_life_and_the_authority_stays(tmp_path: Path) -> None:
    paths = ensure_pki(tmp_path, tenant_id="acme", host_id="host-a", now=_NOW)
    authority, agent = paths.ca_cert.read_bytes(), paths.agent_cert.read_bytes()
    ensure_pki(tmp_path, tenant_id="acme", host_id="host-a", now=_NOW + _YEAR * 0.51)

    assert paths.ca_cert.read_bytes() == authority
    assert paths.agent_cert.read_bytes() != agent


def test_an_expired_authority_is_replaced_with_all_it_signed(tmp_path: Path) -> None:
    paths = ensure_pki(tmp_path, tenant_id="acme", host_id="host-a", now=_NOW)
    later = _NOW + 11 * _YEAR
    ensure_pki(tmp_path, tenant_id="acme", host_id="host-a", now=later)
    authority = x509.load_pem_x509_certificate(paths.ca_cert.read_bytes())

    assert authority.not_valid_after_utc > later
    x509.load_pem_x509_certificate(paths.server_cert.read_bytes()).verify_directly_issued_by(authority)


def test_another_host_id_gets_another_certificate(tmp_path: Path) -> None:
    ensure_pki(tmp_path, tenant_id="acme", host_id="host-a", now=_NOW)
    paths = ensure_pki(tmp_path, tenant_id="acme", host_id="host-b", now=_NOW)

    assert parse_peer(paths.agent_cert.read_bytes(), now_unix_s=_NOW.timestamp()).host_id == "host-b"


def test_a_crash_between_key_and_certificate_is_repaired(tmp_path: Path) -> None:
    paths = ensure_pki(tmp_path, tenant_id="acme", host_id="host-a")
    paths.server_key.write_bytes(paths.agent_key.read_bytes())
    ensure_pki(tmp_path, tenant_id="acme", host_id="host-a")

    ssl.create_default_context().load_cert_chain(paths.server_cert, paths.server_key)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    paths = ensure_pki(tmp_path, tenant_id="acme", host_id="host-a")
    paths.server_key.write_text("not PEM")

    with pytest.raises(IdentityError, match=r"server\.key: not PEM"):
        ensure_pki(tmp_path, tenant_id="acme", host_id="host-a")


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(IdentityError, match="file"):
        ensure_pki(tmp_path / "file" / "pki", tenant_id="acme", host_id="host-a")
