"""Take a static member out of its group: neither client library does that when it closes.

They expect a static member to come back. Ours has left for good when its subscription is closed in
order; without this its partitions would stand still until the session timeout.
"""

import asyncio

import structlog
from aiokafka.client import AIOKafkaClient  # type: ignore[import-untyped]  # aiokafka has no types
from aiokafka.errors import KafkaError, UnknownMemberIdError, for_code  # type: ignore[import-untyped]  # aiokafka has no types
from aiokafka.protocol.coordination import FindCoordinatorRequest  # type: ignore[import-untyped]  # aiokafka has no types
from aiokafka.protocol.group import LeaveGroupRequest  # type: ignore[import-untyped]  # aiokafka has no types

from microedr_chassis.bus.kafka.client import KafkaOptions

_log = structlog.get_logger()

_TIMEOUT_S = 5.0
_GROUP_COORDINATOR = 0


async def leave_group(options: KafkaOptions, group: str, member_id: str) -> None:
    """Tell the coordinator. When that fails, others take over after the session timeout."""
    client = AIOKafkaClient(bootstrap_servers=options.servers.split(","), client_id="microedr-leave")
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await client.bootstrap()
            found = await client.send(client.get_random_node(), FindCoordinatorRequest(group, _GROUP_COORDINATOR))
            answer = await client.send(found.coordinator_id, LeaveGroupRequest(group, member_id))
        if answer.error_code not in (0, UnknownMemberIdError.errno):
            raise for_code(answer.error_code)
    except (KafkaError, TimeoutError) as error:
        _log.warning("kafka_leave_failed", group=group, error=repr(error), after_s=options.session_timeout_s)
    finally:
        await client.close()
