"""What the partitions counted, as metrics."""

from microedr_chassis import catalogue
from microedr_chassis.metrics import Metrics
from microedr_correlator.partition import Partition


class Tally:
    """Turns the partitions' running totals into increments."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._totals = {
            "events_total": metrics.counter(catalogue.EVENTS_CONSUMED),
            "duplicates_total": metrics.counter(catalogue.EVENTS_DUPLICATE),
            "missing_total": metrics.counter(catalogue.EVENTS_MISSING),
            "raised_total": metrics.counter(catalogue.ALERTS_RAISED),
            "revised_total": metrics.counter(catalogue.ALERTS_REVISED),
            "folded_total": metrics.counter(catalogue.MATCHES_FOLDED),
        }
        self._evicted = metrics.counter(catalogue.WINDOW_EVICTED)
        self._hosts = metrics.gauge(catalogue.WINDOW_HOSTS)
        self._processes = metrics.gauge(catalogue.WINDOW_PROCESSES)
        self._counted: dict[int, dict[str, int]] = {}
        self._held: dict[int, tuple[int, int]] = {}

    def count(self, number: int, partition: Partition) -> None:
        """Bring the metrics up to what ``partition`` counts now."""
        counted = self._counted.setdefault(number, {})
        for name, counter in self._totals.items():
            total = getattr(partition.counts, name)
            if total != counted.get(name, 0):
                counter.inc(total - counted.get(name, 0))
                counted[name] = total
        evicted = partition.windows.evicted_total
        if evicted > counted.get("evicted", 0):
            self._evicted.inc(evicted - counted.get("evicted", 0))
            counted["evicted"] = evicted
        held = (len(partition.windows), partition.windows.processes)
        if held != self._held.get(number):
            self._held[number] = held
            self._show_held()

    def forget(self, number: int) -> None:
        """The partition is another's."""
        self._counted.pop(number, None)
        self._held.pop(number, None)
        self._show_held()

    def published(self, topic: str) -> None:
        """A record is durable."""
        self._metrics.counter(catalogue.RECORDS_PUBLISHED, topic=topic).inc()

    def unpublishable(self, topic: str) -> None:
        """A record can never be published."""
        self._metrics.counter(catalogue.RECORDS_DEAD_LETTERED, topic=topic, reason="unpublishable").inc()

    def _show_held(self) -> None:
        self._hosts.set(sum(hosts for hosts, _ in self._held.values()))
        self._processes.set(sum(processes for _, processes in self._held.values()))
