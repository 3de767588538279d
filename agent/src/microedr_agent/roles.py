"""Which processes a command starts, and what each of them runs.

What a process needs is imported in it, after the fork: the supervisor and the children share what is in
memory before, and none of them shall carry the others' libraries.
"""

from collections.abc import Callable, Mapping

from microedr_agent import privileges, seccomp
from microedr_agent.child import ChildContext, ChildSpec
from microedr_agent.config import AgentConfig
from microedr_agent.log import Log
from microedr_agent.rundir import prepare_run_dir
from microedr_agent.supervisor import Supervisor

SENSOR_GRACE_S = 3.0
"""To empty the rings and commit."""
UPLOADER_GRACE_S = 3.0
"""To take the answers to what is under way."""


def run_supervised(config: AgentConfig) -> int:
    """Sensor and uploader as children, the responder in this process; returns the exit status."""

    def sensor(context: ChildContext) -> int:
        from microedr_agent.sensor.app import run_sensor  # noqa: PLC0415 - see the module

        return run_sensor(config, context)

    def uploader(context: ChildContext) -> int:
        from microedr_agent.uploader.app import run_uploader  # noqa: PLC0415 - see the module

        return run_uploader(config, context)

    specs = (ChildSpec("sensor", sensor, SENSOR_GRACE_S), ChildSpec("uploader", uploader, UPLOADER_GRACE_S))
    return Supervisor(config, specs, Log("supervisor", config.log_level)).run()


def run_responder(config: AgentConfig) -> int:
    """The responder alone; returns the exit status."""
    return Supervisor(config, (), Log("responder", config.log_level)).run()


def run_sensor_alone(config: AgentConfig) -> int:
    """The sensor in this process; returns the exit status."""
    from microedr_agent.sensor.app import run_sensor  # noqa: PLC0415 - see the module

    return run_sensor(config, alone(config))


def run_uploader_alone(config: AgentConfig) -> int:
    """The uploader in this process; returns the exit status."""
    from microedr_agent.uploader.app import run_uploader  # noqa: PLC0415 - see the module

    return run_uploader(config, alone(config))


def alone(config: AgentConfig) -> ChildContext:
    """What a supervisor would have done for a process that has none."""
    if not config.run_dir.is_dir():
        prepare_run_dir(config)
    problem = seccomp.enter(seccomp.Room.AGENT)
    privileges.forbid_gain()
    return ChildContext(_announce_to_nobody, (f"seccomp: {problem}",) if problem else ())


def _announce_to_nobody(_facts: Mapping[str, object]) -> None:
    return


ROLES: Mapping[str, Callable[[AgentConfig], int]] = {
    "run": run_supervised,
    "sensor": run_sensor_alone,
    "uploader": run_uploader_alone,
    "responder": run_responder,
}
"""What each lasting command does."""
