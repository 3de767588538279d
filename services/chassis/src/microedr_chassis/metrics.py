"""Metrics: what a metric is, and the one registry of a process with a view for each service.

The metrics themselves are listed in ``catalogue``; the page that serves them is ``endpoint``.
"""

import enum
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase

OTHER = "other"
"""A label value for whatever is not on the label's list, where the list has it."""


class MetricKind(enum.Enum):
    """What may be done with a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Label:
    """A name and every value it can have: the number of series is known before the first event."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of the catalogue. All of them have the label ``service`` as well."""

    name: str
    kind: MetricKind
    unit: str
    meaning: str
    labels: tuple[Label, ...] = ()
    buckets: tuple[float, ...] = field(default=())


class MetricRegistry:
    """All metrics of one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._families: dict[str, MetricWrapperBase] = {}

    def for_service(self, service: str) -> "Metrics":
        """The view whose series carry ``service``."""
        return Metrics(self, service)

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def sample(self, name: str, labels: dict[str, str]) -> float:
        """Value of one series, 0 when it was never touched."""
        return self._registry.get_sample_value(name, labels) or 0.0

    def family(self, metric: Metric) -> MetricWrapperBase:
        """What prometheus-client keeps for ``metric``."""
        family = self._families.get(metric.name)
        if family is None:
            family = self._families[metric.name] = self._register(metric)
        return family

    def _register(self, metric: Metric) -> MetricWrapperBase:
        names = ("service", *(label.name for label in metric.labels))
        match metric.kind:
            case MetricKind.COUNTER:
                return Counter(metric.name, metric.meaning, names, registry=self._registry)
            case MetricKind.GAUGE:
                return Gauge(metric.name, metric.meaning, names, registry=self._registry)
            case MetricKind.HISTOGRAM:
                return Histogram(metric.name, metric.meaning, names, registry=self._registry, buckets=metric.buckets)


class Metrics:
    """One service's view. Look series up once, not per event.

    Every method raises ``ValueError`` for a label value that is not on its list, unless the list has ``other``.
    """

    def __init__(self, registry: MetricRegistry, service: str) -> None:
        self._registry = registry
        self._service = service

    def counter(self, metric: Metric, **labels: str) -> Counter:
        """The counter, to be kept and incremented."""
        series = self._series(metric, labels)
        if not isinstance(series, Counter):
            raise TypeError(f"{metric.name} is a {metric.kind.value}")
        return series

    def gauge(self, metric: Metric, **labels: str) -> Gauge:
        """The gauge, to be kept and set."""
        series = self._series(metric, labels)
        if not isinstance(series, Gauge):
            raise TypeError(f"{metric.name} is a {metric.kind.value}")
        return series

    def histogram(self, metric: Metric, **labels: str) -> Histogram:
        """The histogram, to be kept and fed."""
        series = self._series(metric, labels)
        if not isinstance(series, Histogram):
            raise TypeError(f"{metric.name} is a {metric.kind.value}")
        return series

    def value(self, metric: Metric, **labels: str) -> float:
        """What a counter or gauge stands at."""
        return self._registry.sample(metric.name, {"service": self._service, **labels})

    def _series(self, metric: Metric, labels: dict[str, str]) -> MetricWrapperBase:
        if set(labels) != {label.name for label in metric.labels}:
            raise ValueError(f"{metric.name} has labels {[label.name for label in metric.labels]}")
        values = [_allowed(metric, label, labels[label.name]) for label in metric.labels]
        return self._registry.family(metric).labels(self._service, *values)


def _allowed(metric: Metric, label: Label, value: str) -> str:
    if value in label.values:
        return value
    if OTHER in label.values:
        return OTHER
    raise ValueError(f"{metric.name}: {label.name}={value!r} is not one of {label.values}")
