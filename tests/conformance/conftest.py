"""The one parameter of the suite: which backend it runs against.

``kafka`` is served by confluent-kafka, ``kafka-low-rate`` by aiokafka, both on a real broker.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.buses import KAFKA, Backend, backends


@pytest.fixture(params=backends("memory", "sqlite", *KAFKA))
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    """One store of its own; every test meets every backend."""
    servers = request.getfixturevalue("kafka_servers") if request.param in KAFKA else None
    made = Backend(request.param, tmp_path, servers)
    yield made
    await made.close()
