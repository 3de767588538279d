"""``microedr demo``: run the harmless attack and show each step with its time."""

import os
import socket
from pathlib import Path

from microedr_standalone import demo as attack
from microedr_standalone.client import Client, find_endpoint, running_system
from microedr_standalone.commands.options import JsonOption, StateDirOption, console, plain, print_json
from microedr_standalone.errors import DemoError


def demo(*, as_json: JsonOption = False, state_dir: StateDirOption = None) -> None:
    """Run a harmless attack on this machine and show what becomes of it.

    Copies the shell to a fresh directory, runs it with the arguments of a remote fetch piped into
    a shell, and lets the system find and kill it. Needs a running system with an agent on this machine.
    """
    steps: list[attack.Step] = []

    def show(step: attack.Step) -> None:
        steps.append(step)
        if not as_json:
            since_ms = (step.unix_ns - steps[0].unix_ns) / 1e6
            console().print(plain(f"{since_ms:+9.1f} ms  {step.name:<28}{step.detail}"), soft_wrap=True)

    with Client(find_endpoint(state_dir)) as client:
        alert = attack.run(client, _this_host(client, state_dir), show)
    if as_json:
        print_json(
            {
                "alert_id": alert["alert_id"],
                "steps": [{"name": s.name, "unix_ns": s.unix_ns, "detail": s.detail} for s in steps],
            }
        )
        return
    console().print()
    console().print(plain(alert["summary"]))
    console().print(plain(f"The whole story: microedr alerts show {alert['alert_id']}"), soft_wrap=True)


def _this_host(client: Client, state_dir: Path | None) -> str:
    """Id under which an agent reports from this machine.

    Raises:
        DemoError: None does.
    """
    if "MICROEDR_API_URL" not in os.environ:
        system = running_system(state_dir)
        if not system["agent"].get("collector"):
            raise DemoError(f"no agent collects on this machine: {system['agent'].get('reason')}")
        return str(system["host_id"])
    name = socket.gethostname()
    for host in client.items("/v1/hosts", {}, 10_000):
        if host["hostname"] == name and host["connection"] == "connected" and host["collector"] not in {"", "none"}:
            return str(host["host_id"])
    raise DemoError(f"no agent that collects reports from this machine, {name}; see 'microedr hosts list'")
