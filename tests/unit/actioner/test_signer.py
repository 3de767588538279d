"""The signing key is made once, kept to its owner, and what it signs verifies."""

from pathlib import Path

import pytest
from nacl.signing import VerifyKey

from microedr.signing import ACTION_PAYLOAD_TYPE, key_id, pre_authentication_encoding
from microedr_actioner.errors import SigningKeyError
from microedr_actioner.settings import ActionerSettings
from microedr_actioner.signer import ensure_signing_key, load_signer
from microedr_chassis.settings import load_settings
from support.orders import Order


def test_the_key_is_made_once_and_kept_to_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "actions" / "signing-key"

    first = ensure_signing_key(path)

    assert ensure_signing_key(path) == first == load_signer(path).public_key
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["signing-key"]


def test_what_is_signed_verifies_over_exactly_the_bytes_that_travel(tmp_path: Path) -> None:
    public_key = ensure_signing_key(tmp_path / "key")
    signed = load_signer(tmp_path / "key").sign(Order().action())

    message = pre_authentication_encoding(ACTION_PAYLOAD_TYPE, signed.action)
    VerifyKey(public_key).verify(message, signed.signatures[0].signature)
    assert signed.signatures[0].key_id == key_id(public_key)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    ensure_signing_key(tmp_path / "key")
    (tmp_path / "key").chmod(mode)

    with pytest.raises(SigningKeyError, match="allowed is 0600"):
        ensure_signing_key(tmp_path / "key")


@pytest.mark.parametrize("content", ["", "secret-but-wrong", "zz" * 32, "00" * 31])
def test_what_is_no_key_is_refused_and_not_quoted(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key"
    path.write_text(content)
    path.chmod(0o600)

    with pytest.raises(SigningKeyError) as caught:
        load_signer(path)

    assert "signing-key" not in str(caught.value)
    assert not content or content not in str(caught.value)


def test_rules_are_armed_by_a_list_of_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MICROEDR_BUS", "memory:")
    monkeypatch.setenv("MICROEDR_ACTIONER_SIGNING_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("MICROEDR_ACTIONER_AUTO_RULES", "one, two,")

    settings = load_settings(ActionerSettings)

    assert settings.auto_rules == ("one", "two")
    assert not settings.auto
