"""The token's promise: drawn once, strong, and readable by its owner only."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from microedr_alerts.token import ensure_token, is_same_token
from microedr_chassis.errors import SettingsError


def test_a_token_is_drawn_once_and_private(tmp_path: Path) -> None:
    file = tmp_path / "state" / "api-token"
    token = ensure_token(file)

    assert ensure_token(file) == token
    assert len(token) == 43, "32 bytes"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["api-token"]


def test_starts_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(lambda _: ensure_token(tmp_path / "api-token"), range(8)))

    assert len(tokens) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_token_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "api-token"
    ensure_token(file)
    file.chmod(mode)

    with pytest.raises(SettingsError, match="chmod 600"):
        ensure_token(file)


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff" * 40])
def test_a_weak_or_broken_token_is_refused_unshown(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "api-token"
    file.write_bytes(content)
    file.chmod(0o600)

    with pytest.raises(SettingsError) as caught:
        ensure_token(file)

    assert "short" not in str(caught.value)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(SettingsError, match="file/api-token"):
        ensure_token(tmp_path / "file" / "api-token")


def test_only_the_same_token_is_the_same() -> None:
    assert is_same_token("a" * 43, "a" * 43)
    assert not is_same_token("a" * 42, "a" * 43)
    assert not is_same_token("ü", "a" * 43)
