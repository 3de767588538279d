"""Metrics are those of the catalogue, with label values from closed sets, and the page shows them."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from microedr_chassis import catalogue
from microedr_chassis.endpoint import Endpoint
from microedr_chassis.errors import SettingsError
from microedr_chassis.lifecycle import Health
from microedr_chassis.metrics import MetricKind, MetricRegistry

_PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_the_page_in_docs_is_that_of_the_catalogue() -> None:
    assert _PAGE.read_text(encoding="utf-8") == catalogue.page(), (
        "run: python -m microedr_chassis.catalogue docs/metrics.md"
    )


def test_names_are_unique_and_say_kind_and_unit() -> None:
    assert len({m.name for m in catalogue.METRICS}) == len(catalogue.METRICS)
    for metric in catalogue.METRICS:
        assert metric.name.startswith("microedr_")
        assert metric.name.endswith("_total") == (metric.kind is MetricKind.COUNTER), metric.name
        assert metric.meaning.endswith(".")
        assert metric.kind is not MetricKind.HISTOGRAM or metric.name.endswith(f"_{metric.unit}")


def test_services_of_one_process_share_a_metric_and_keep_their_own_count() -> None:
    registry = MetricRegistry()
    one, other = registry.for_service("one"), registry.for_service("other")

    one.counter(catalogue.EVENTS_RECEIVED).inc(3)
    other.counter(catalogue.EVENTS_RECEIVED).inc(4)

    assert (one.value(catalogue.EVENTS_RECEIVED), other.value(catalogue.EVENTS_RECEIVED)) == (3, 4)


def test_a_label_value_off_the_list_is_refused() -> None:
    metrics = MetricRegistry().for_service("one")

    with pytest.raises(ValueError, match="microedr_events_refused_total: reason='weather'"):
        metrics.counter(catalogue.EVENTS_REFUSED, reason="weather")


def test_a_label_with_other_takes_what_is_off_the_list() -> None:
    metrics = MetricRegistry().for_service("one")

    metrics.counter(catalogue.RECORDS_CONSUMED, topic="a.topic.of.a.test").inc()

    assert metrics.value(catalogue.RECORDS_CONSUMED, topic="other") == 1


class _State:
    health = Health(ok=True)


@pytest.fixture
def state() -> _State:
    return _State()


@pytest.fixture
def url(state: _State) -> Iterator[str]:
    registry = MetricRegistry()
    registry.for_service("one").counter(catalogue.EVENTS_RECEIVED).inc(7)
    endpoint = Endpoint("127.0.0.1:0", registry, lambda: state.health)
    yield f"http://{endpoint.start()}"
    endpoint.stop()


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - our own endpoint
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_endpoint_serves_metrics(url: str) -> None:
    status, body = _get(f"{url}/metrics")

    assert status == 200
    assert 'microedr_events_received_total{service="one"} 7.0' in body


@pytest.mark.parametrize(
    ("health", "alive", "ready"),
    [
        pytest.param(Health(ok=True), 200, 200, id="all is well"),
        pytest.param(Health(ok=False, detail="kafka is away"), 200, 503, id="waiting is alive"),
        pytest.param(Health(ok=False, detail="no progress", alive=False), 503, 503, id="stuck"),
    ],
)
def test_alive_and_ready_are_different_questions(
    url: str, state: _State, health: Health, alive: int, ready: int
) -> None:
    state.health = health

    assert (_get(f"{url}/healthz")[0], _get(f"{url}/readyz")[0]) == (alive, ready)
    assert health.detail in _get(f"{url}/readyz")[1]


def test_other_paths_are_not_found(url: str) -> None:
    assert _get(f"{url}/etc/passwd")[0] == 404


def test_a_used_port_is_named(url: str) -> None:
    taken = url.removeprefix("http://")

    with pytest.raises(SettingsError, match=f"MICROEDR_METRICS_LISTEN: cannot listen on {taken}"):
        Endpoint(taken, MetricRegistry(), lambda: Health(ok=True)).start()
