"""The settings' promise: what does not fit together is one line that names the variables, and no secret."""

from pathlib import Path
from typing import Any

import pytest

from microedr_alerts.settings import AlertsSettings
from microedr_chassis.errors import SettingsError
from microedr_chassis.settings import load_settings

GOOD: dict[str, Any] = {
    "bus": "memory:",
    "postgres_dir": Path("/state/postgres"),
    "api_listen": "127.0.0.1:8443",
    "api_token_file": Path("/state/api-token"),
}
TLS = {"api_cert_file": Path("/c.pem"), "api_key_file": Path("/k.pem")}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="embedded on loopback without TLS"),
        pytest.param({"api_listen": "0.0.0.0:8443", **TLS}, id="for others with TLS"),
        pytest.param({"postgres": "postgresql://h/db", "postgres_dir": None}, id="DSN"),
        pytest.param({"postgres": "postgresql://h/db", "parts": "writer", "api_token_file": None}, id="writer alone"),
        pytest.param({"postgres": "postgresql://h/db", "parts": "api"}, id="API alone"),
    ],
)
def test_what_fits_together_is_taken(changes: dict[str, Any]) -> None:
    assert load_settings(AlertsSettings, **{**GOOD, **changes})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        pytest.param({"postgres_dir": None}, "MICROEDR_ALERTS_POSTGRES", id="no database"),
        pytest.param({"api_token_file": None}, "MICROEDR_ALERTS_API_TOKEN_FILE", id="no token file"),
        pytest.param({"api_cert_file": Path("/c.pem")}, "MICROEDR_ALERTS_API_KEY_FILE", id="certificate without key"),
        pytest.param({"api_listen": "0.0.0.0:8443"}, "MICROEDR_ALERTS_API_CERT_FILE", id="for others without TLS"),
        pytest.param({"parts": "api"}, "MICROEDR_ALERTS_POSTGRES", id="a part alone on an embedded database"),
        pytest.param({"parts": "both"}, "MICROEDR_ALERTS_PARTS", id="unknown part"),
        pytest.param({"tenant": "a/b"}, "MICROEDR_TENANT", id="tenant"),
        pytest.param({"api_listen": "8443"}, "MICROEDR_ALERTS_API_LISTEN", id="address"),
        pytest.param({"max_streams": 0}, "MICROEDR_ALERTS_MAX_STREAMS", id="no streams"),
    ],
)
def test_what_does_not_is_one_line(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told) as caught:
        load_settings(AlertsSettings, **{**GOOD, **changes})

    assert "\n" not in str(caught.value)


def test_the_dsn_is_never_shown() -> None:
    settings = load_settings(AlertsSettings, **GOOD, postgres="postgresql://u:hunter2@h/db")

    assert "hunter2" not in repr(settings) + str(settings.model_dump())
