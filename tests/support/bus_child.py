"""A process at a bus, made to be killed.

python -m support.bus_child URL consume TOPIC GROUP MEMBER    print each value, commit nothing, for ever
python -m support.bus_child URL publish TOPIC                 publish 0, 1, 2 …, print each once it is durable
"""

import asyncio
import sys
from collections import deque

from microedr_chassis.bus.api import Bus, Record
from microedr_chassis.bus.connect import connect_bus
from microedr_chassis.bus.window import Place


async def consume(bus: Bus, topic: str, group: str, member: str) -> None:
    """Never commits."""
    subscription = await bus.subscribe([topic], group=group, member=member)
    while True:
        for record in await subscription.fetch(max_records=64, timeout_s=1.0):
            print(record.value.decode(), flush=True)  # noqa: T201 - the test reads it


async def publish(bus: Bus, topic: str) -> None:
    """Some are always under way."""
    under_way: deque[tuple[int, asyncio.Future[Place]]] = deque()
    number = 0
    while True:
        while len(under_way) < 32:
            under_way.append((number, bus.submit(Record(topic, b"host-1", str(number).encode() + b" " * 10_000))))
            number += 1
        done, future = under_way.popleft()
        await future
        print(done, flush=True)  # noqa: T201 - the test reads it


async def main(url: str, what: str, *arguments: str) -> None:
    """Until killed."""
    bus = connect_bus(url)
    await bus.start()
    if what == "consume":
        topic, group, member = arguments
        await consume(bus, topic, group, member)
    else:
        (topic,) = arguments
        await publish(bus, topic)


asyncio.run(main(*sys.argv[1:]))
