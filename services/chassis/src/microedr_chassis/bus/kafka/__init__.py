"""The bus on Apache Kafka: two client libraries behind one protocol.

``confluent-kafka`` (librdkafka, its own threads) publishes everything and serves subscriptions to
high-rate topics: ``producer``, ``consumer``, ``subscription``. ``aiokafka`` (pure asyncio) serves tails
and subscriptions whose topics are all low-rate: ``low_rate``. ``client`` holds what both are configured with.

Rules for mixing them:

* The topics decide, never the process: a subscription goes to aiokafka only if each of its topics
  is in ``client.LOW_RATE_TOPICS``. All members of a group subscribe to the same topics, so a group
  never mixes the two, whose assignors do not know each other.
* Every record is partitioned by murmur2. librdkafka's default is not.
* A group stands in static membership (``group.instance.id`` is the member's name): a member that comes
  back within the session timeout finds its partitions as it left them. To leave for good,
  ``close`` tells the coordinator, which the clients themselves do not do for static members.
  A killed member's partitions go to others after the session timeout, or at once to its successor
  under the same name.
* Where a group never committed it begins at the beginning. Where it committed and the log no
  longer reaches back that far, it stops with BusRetentionError: no client ever skips records by itself.
"""

from microedr_chassis.bus.kafka.bus import KafkaBus

__all__ = ["KafkaBus"]
