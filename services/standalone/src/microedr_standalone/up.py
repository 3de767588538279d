"""The whole system in one process: bus, PostgreSQL, every service, and the agent as a child.

Composes only. What a service does is in its own member; how services live is in the chassis.
"""

import asyncio
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvloop

from microedr_actioner.app import ActionerService
from microedr_actioner.settings import ActionerSettings
from microedr_actioner.signer import ensure_signing_key
from microedr_alerts.app import AlertsService
from microedr_alerts.settings import AlertsSettings
from microedr_chassis.bus.connect import connect_bus
from microedr_chassis.collector import relax_collector
from microedr_chassis.endpoint import Endpoint
from microedr_chassis.errors import BusDamagedError, BusTopicError, ChassisError, IdentityError, SettingsError
from microedr_chassis.group import ServiceGroup
from microedr_chassis.identity import PkiPaths, ensure_pki
from microedr_chassis.logging import configure_logging
from microedr_chassis.metrics import MetricRegistry
from microedr_chassis.process import BusService, serve_until
from microedr_chassis.settings import load_settings
from microedr_correlator.app import CorrelatorService
from microedr_correlator.settings import CorrelatorSettings
from microedr_detector.app import DetectorService
from microedr_detector.settings import DetectorSettings
from microedr_ingest.app import IngestService
from microedr_ingest.settings import IngestSettings
from microedr_standalone.agent_child import AgentChild, AgentFiles, NoAgent
from microedr_standalone.announce import Announcer, forget_ready_file
from microedr_standalone.demo import RULE_ID
from microedr_standalone.errors import StartError, UsageError
from microedr_standalone.state import StateDir

TENANT = "default"
MEMBER = "standalone"
PARTITIONS = 4
"""One process consumes all of them: more would only cost."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What ``microedr up`` was asked for. Paths are absolute."""

    state_dir: Path
    api_listen: str
    ingest_listen: str
    bus: str
    postgres: str
    with_agent: bool
    ready_file: Path | None
    log_level: str

    def bus_url(self, state: StateDir) -> str:
        """``--bus``, with the state directory's file where none is named."""
        return f"sqlite://{state.bus}" if self.bus == "sqlite" else self.bus


def run(options: UpOptions) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        UsageError: An option, a variable or the state directory is not usable.
        StartError: Something did not start, or could not go on.
    """
    state = StateDir(options.state_dir)
    state.prepare()
    claim = state.lock()
    try:
        forget_ready_file(options.ready_file)
        configure_logging("standalone", options.log_level)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_Up(options, state).run())
    except (SettingsError, BusTopicError, BusDamagedError, IdentityError) as error:
        raise UsageError(str(error)) from error
    except ChassisError as error:
        raise StartError(str(error)) from error
    finally:
        os.close(claim)


class _Up:
    def __init__(self, options: UpOptions, state: StateDir) -> None:
        self._options = options
        self._state = state
        self._host_id = state.host_id()
        self._registry = MetricRegistry()
        self._common = {
            "bus": options.bus_url(state),
            "bus_partitions": PARTITIONS,
            "log_level": options.log_level,
            "member": MEMBER,
        }

    async def run(self) -> None:
        # Signals count from here on: Ctrl-C during the start stops what has started so far.
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        pki = ensure_pki(self._state.pki, tenant_id=TENANT, host_id=self._host_id)
        group = self._compose(pki)
        endpoint = Endpoint("127.0.0.1:0", self._registry, group.health)
        relax_collector()
        _log.info("endpoint_started", metrics_listen=endpoint.start())
        try:
            await serve_until(group, stopping)
        finally:
            endpoint.stop()
        if sys.stdout.isatty():
            sys.stdout.write("stopped; the state is kept\n")

    def _compose(self, pki: PkiPaths) -> ServiceGroup:
        bus = connect_bus(str(self._common["bus"]))
        alerts = AlertsService(self._alerts_settings(pki), bus=bus, metrics=self._registry.for_service("alerts"))
        correlator = CorrelatorService(
            load_settings(CorrelatorSettings, **self._common),
            bus=bus,
            metrics=self._registry.for_service("correlator"),
        )
        detector = DetectorService(
            load_settings(DetectorSettings, **self._common), bus=bus, metrics=self._registry.for_service("detector")
        )
        trusted_key = ensure_signing_key(self._state.signing_key)
        actioner = ActionerService(
            load_settings(
                ActionerSettings, **self._common, signing_key_file=self._state.signing_key, auto_rules=(RULE_ID,)
            ),
            bus=bus,
            metrics=self._registry.for_service("actioner"),
        )
        ingest = IngestService(self._ingest_settings(pki), bus=bus, metrics=self._registry.for_service("ingest"))
        agent = self._agent(pki, trusted_key, ingest)
        announcer = Announcer(
            self._state,
            self._options.ready_file,
            host_id=self._host_id,
            ca_file=pki.ca_cert,
            api_url=lambda: alerts.api_url,
            ingest_url=lambda: f"https://{ingest.address}",
            agent=agent.describe,
        )
        # In the order of starting: each finds up what it needs, and the stop runs the other way, the agent
        # first, so that what it sends last still becomes alerts.
        services = (
            BusService(bus, PARTITIONS),
            alerts,
            correlator,
            detector,
            actioner,
            ingest,
            agent,
            announcer,
        )
        return ServiceGroup(services, name="standalone")

    def _alerts_settings(self, pki: PkiPaths) -> AlertsSettings:
        embedded = self._options.postgres == "embedded"
        return load_settings(
            AlertsSettings,
            **self._common,
            postgres=None if embedded else self._options.postgres,
            postgres_dir=self._state.postgres if embedded else None,
            api_listen=self._options.api_listen,
            api_cert_file=pki.server_cert,
            api_key_file=pki.server_key,
            api_token_file=self._state.api_token,
            tenant=TENANT,
        )

    def _ingest_settings(self, pki: PkiPaths) -> IngestSettings:
        return load_settings(
            IngestSettings,
            **self._common,
            listen=self._options.ingest_listen,
            tls_cert_file=pki.server_cert,
            tls_key_file=pki.server_key,
            client_ca_file=pki.ca_cert,
        )

    def _agent(self, pki: PkiPaths, trusted_key: bytes, ingest: IngestService) -> AgentChild | NoAgent:
        if not self._options.with_agent:
            return NoAgent("--no-agent was given")
        if os.geteuid() != 0:
            return NoAgent("not root: eBPF programs cannot be loaded; everything else runs")
        return AgentChild(
            AgentFiles(
                root=self._state.agent,
                tenant_id=TENANT,
                host_id=self._host_id,
                ca_file=pki.ca_cert,
                cert_file=pki.agent_cert,
                key_file=pki.agent_key,
                trusted_key=trusted_key,
                log_level=self._options.log_level,
            ),
            ingest_url=lambda: f"https://{ingest.address}",
        )
