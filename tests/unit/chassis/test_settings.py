"""Wrong settings are told in one line that names the variable and never its value."""

import pytest
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from microedr_chassis.address import join_address, split_address
from microedr_chassis.errors import SettingsError
from microedr_chassis.settings import ServiceSettings, load_settings, variables


class _DoorSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="MICROEDR_DOOR_")

    width_cm: int = Field(gt=0, le=300)
    key: SecretStr = Field(min_length=8)
    hinges: tuple[str, ...] = ()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("MICROEDR_BUS", "memory:")
    monkeypatch.setenv("MICROEDR_DOOR_WIDTH_CM", "90")
    monkeypatch.setenv("MICROEDR_DOOR_KEY", "open sesame")
    return monkeypatch


def test_settings_come_from_variables_with_and_without_the_service_prefix(environment: pytest.MonkeyPatch) -> None:
    settings = load_settings(_DoorSettings)

    assert (settings.bus, settings.width_cm, settings.bus_partitions) == ("memory:", 90, 12)
    assert settings.member


def test_overrides_go_by_field_name_and_win(environment: pytest.MonkeyPatch) -> None:
    settings = load_settings(_DoorSettings, bus="sqlite:///x", width_cm=80)

    assert (settings.bus, settings.width_cm) == ("sqlite:///x", 80)


def test_settings_cannot_be_changed(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings(_DoorSettings).width_cm = 3


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        pytest.param("MICROEDR_BUS", "", "MICROEDR_BUS: must be set", id="empty counts as missing"),
        pytest.param("MICROEDR_DOOR_WIDTH_CM", "wide", "MICROEDR_DOOR_WIDTH_CM: .* integer", id="no number"),
        pytest.param("MICROEDR_DOOR_WIDTH_CM", "301", "MICROEDR_DOOR_WIDTH_CM: .* 300", id="out of bounds"),
        pytest.param("MICROEDR_DOOR_KEY", "sesame", "MICROEDR_DOOR_KEY: .* 8", id="secret too short"),
        pytest.param("MICROEDR_DOOR_HINGES", "[sesame", "MICROEDR_DOOR_HINGES: must be JSON", id="no JSON"),
        pytest.param("MICROEDR_LOG_LEVEL", "sesame", "MICROEDR_LOG_LEVEL: .* 'debug'", id="not on the list"),
        pytest.param("MICROEDR_METRICS_LISTEN", "sesame", "MICROEDR_METRICS_LISTEN: write host:port", id="no port"),
    ],
)
def test_one_wrong_variable_is_named_without_its_value(
    environment: pytest.MonkeyPatch, variable: str, value: str, line: str
) -> None:
    environment.setenv(variable, value)

    with pytest.raises(SettingsError, match=line) as caught:
        load_settings(_DoorSettings)

    assert "sesame" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_field_has_a_variable() -> None:
    assert variables(_DoorSettings) == {
        "bus": "MICROEDR_BUS",
        "bus_partitions": "MICROEDR_BUS_PARTITIONS",
        "log_level": "MICROEDR_LOG_LEVEL",
        "metrics_listen": "MICROEDR_METRICS_LISTEN",
        "member": "MICROEDR_MEMBER",
        "width_cm": "MICROEDR_DOOR_WIDTH_CM",
        "key": "MICROEDR_DOOR_KEY",
        "hinges": "MICROEDR_DOOR_HINGES",
    }


@pytest.mark.parametrize("text", ["127.0.0.1:8443", "[::1]:0", "localhost:65535"])
def test_an_address_splits_and_joins_to_itself(text: str) -> None:
    assert join_address(*split_address(text)) == text


@pytest.mark.parametrize("text", ["", "8443", ":8443", "host:", "host:65536", "host:-1", "::1:80", "[::1:80", "host:٣"])
def test_what_is_not_an_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|port"):
        split_address(text)
