"""MICROEDR_BUS names a bus, or the error says what would."""

from pathlib import Path

import pytest

from microedr_chassis.bus.connect import connect_bus
from microedr_chassis.bus.kafka import KafkaBus
from microedr_chassis.bus.memory import MemoryBus
from microedr_chassis.bus.sqlite import SqliteBus
from microedr_chassis.errors import SettingsError


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("memory", MemoryBus),
        ("memory://", MemoryBus),
        ("sqlite:///var/lib/microedr/bus/bus.db", SqliteBus),
        ("sqlite:bus.db", SqliteBus),
        ("kafka://localhost:9092", KafkaBus),
        ("kafka://kafka-0:9092,kafka-1:9092/?session_timeout_s=10", KafkaBus),
    ],
)
def test_a_url_names_a_bus(url: str, kind: type) -> None:
    assert type(connect_bus(url)) is kind


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis://localhost",
        "sqlite:",
        "sqlite://host/path",
        "sqlite:/",
        "kafka://",
        "kafka://localhost",
        "kafka://localhost:0",
        "kafka://localhost:99999",
        "kafka://localhost:9092/topic",
        "kafka://localhost:9092?acks=0",
        "kafka://localhost:9092?session_timeout_s=0",
        "kafka://localhost:9092?session_timeout_s=soon",
    ],
)
def test_what_is_not_a_bus_is_refused_by_name(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^MICROEDR_BUS: "):
        connect_bus(url)


def test_a_directory_is_not_a_bus_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is a directory"):
        connect_bus(f"sqlite://{tmp_path}")


def test_a_password_is_never_repeated() -> None:
    with pytest.raises(SettingsError) as caught:
        connect_bus("kafka://user:hunter2@localhost:9092")

    assert "hunter2" not in str(caught.value)
