"""Tells people and programs that everything is ready: the banner, the ready file, the endpoints."""

import asyncio
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from microedr_chassis.lifecycle import Health
from microedr_standalone.errors import StartError, UsageError
from microedr_standalone.state import StateDir, default_state_dir, write_json


def forget_ready_file(path: Path | None) -> None:
    """Remove the ready file of an earlier run: nothing is ready yet.

    Raises:
        UsageError: There can be no such file: told before anything is started.
    """
    if path is None:
        return
    if not path.parent.is_dir():
        raise UsageError(f"--ready-file {path}: there is no directory {path.parent}")
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"--ready-file {path}: {error.strerror}") from error


class Announcer:
    """The last of the group: it starts when all others have. A ``Service``."""

    name = "announcer"

    def __init__(  # noqa: PLR0913 - the fields of the ready file
        self,
        state: StateDir,
        ready_file: Path | None,
        *,
        host_id: str,
        ca_file: Path,
        api_url: Callable[[], str],
        ingest_url: Callable[[], str],
        agent: Callable[[], Mapping[str, str | None]],
    ) -> None:
        self._state = state
        self._ready_file = ready_file
        self._host_id = host_id
        self._ca_file = ca_file
        self._api_url = api_url
        self._ingest_url = ingest_url
        self._agent = agent
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Write the files and print the banner."""
        content: dict[str, object] = {
            "api_url": self._api_url(),
            "api_token_file": str(self._state.api_token),
            "ca_file": str(self._ca_file),
            "ingest_url": self._ingest_url(),
            "state_dir": str(self._state.root),
            "host_id": self._host_id,
            "agent": dict(self._agent()),
        }
        try:
            write_json(self._state.endpoints, content)
        except OSError as error:
            raise StartError(f"{self._state.endpoints}: {error.strerror}") from error
        if self._ready_file is not None:
            try:
                write_json(self._ready_file, content)
            except OSError as error:
                raise UsageError(f"--ready-file {self._ready_file}: {error.strerror}") from error
        sys.stdout.write(self._banner())
        sys.stdout.flush()

    async def serve(self) -> None:
        """Wait."""
        await self._stopping.wait()

    async def stop(self) -> None:
        """Take the endpoints back: nobody is there any more."""
        self._stopping.set()
        self._state.endpoints.unlink(missing_ok=True)

    def health(self) -> Health:
        """Of a banner."""
        return Health(ok=True)

    def _banner(self) -> str:
        agent = self._agent()
        agent_line = agent.get("collector") or f"none: {agent.get('reason')}"
        command = Path(sys.argv[0])
        name = str(command) if command.name == "microedr" else "microedr"
        where = "" if self._is_default else f" --state-dir {self._state.root}"
        collects = bool(agent.get("collector"))
        first = "A first alert" if collects else "What other hosts' agents find"
        demo = f"  {name} demo{where}\n" if collects else ""
        return f"""
microedr is ready.

  API          {self._api_url()}/v1/alerts
  its docs     {self._api_url()}/docs
  token file   {self._state.api_token}
  CA file      {self._ca_file}
  agent        {agent_line}
  state        {self._state.root}

{first}, in another terminal:

{demo}  {name} alerts list{where}

Ctrl-C stops everything in order; the next start goes on from here.

"""

    @property
    def _is_default(self) -> bool:
        return self._state.root == default_state_dir()
