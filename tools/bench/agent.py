"""CPU and memory of the agent at 833 real events per second: 200 execs and 57 connections, acked over mutual TLS.

``python -m tools.bench.agent [--seconds S] [--runs N]`` (root) starts an ingest and ``microedr-agent run``, applies
the load of tools/bench/load and measures each of the agent's processes from outside. With ``--pid NAME=PID`` it
measures processes that run already, without a load of its own, and prints JSON. CPU is the processes' own time as
the kernel counts it in nanoseconds; the machine's other work makes it larger, as it makes caches colder.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from tools.bench.ingest_kafka import TENANT, ingest
from tools.bench.report import ROOT, report

from microedr_chassis.identity import ensure_pki

EXECS_PER_S, CONNECTS_PER_S = 200, 57
EVENTS_PER_S = 3 * EXECS_PER_S + 4 * CONNECTS_PER_S
SECONDS, RUNS = 12.0, 5
WARM_UP_S = 3.0
READY_TIMEOUT_S = 60.0
HOST = "bench-host"
TARGET_CPU = 0.012
TARGET_SENSOR_CPU = 0.009
TARGET_RSS_MB = 65.0
TARGET_RESPONDER_MB = 20.0
TARGET_PSS_MB = 55.0
_MB = 1_000_000
_CPUCLOCK_SCHED = 2


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process over one run."""

    cpu_ratio: float
    """Of one core."""
    rss_mb: float
    pss_mb: float


def cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process, as clock_getcpuclockid(3) names its clock."""
    return time.clock_gettime_ns((~pid << 3) | _CPUCLOCK_SCHED)


def memory_mb(pid: int) -> tuple[float, float]:
    """Resident and proportional size."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 / _MB for line in lines if line.endswith(" kB")}
    return sizes["Rss"], sizes["Pss"]


def measure(pids: Mapping[str, int], seconds: float, load: Sequence[str] = ()) -> dict[str, Usage]:
    """What these processes use while ``load`` runs, or for ``seconds`` without one."""
    before, began_s = {name: cpu_ns(pid) for name, pid in pids.items()}, time.monotonic()
    if load:
        subprocess.run(load, check=True, stdout=subprocess.DEVNULL, timeout=seconds * 3 + 10)
    else:
        time.sleep(seconds)
    took_ns = (time.monotonic() - began_s) * 1e9
    used = {name: (cpu_ns(pid) - before[name]) / took_ns for name, pid in pids.items()}
    return {name: Usage(used[name], *memory_mb(pid)) for name, pid in pids.items()}


def build_load(folder: Path) -> Path:
    """The load generator."""
    program = folder / "load"
    subprocess.run(["clang", "-O2", "-o", program, ROOT / "tools/bench/load/load.c"], check=True)
    return program


class Agent:
    """``microedr-agent run`` on a state directory of its own."""

    def __init__(self, folder: Path, ingest_address: str, pki: Path) -> None:
        paths = ensure_pki(pki / HOST, tenant_id=TENANT, host_id=HOST)
        config = folder / "agent.yaml"
        self._status = folder / "run" / "status.json"
        document = {
            "tenant_id": TENANT,
            "host_id": HOST,
            "run_dir": str(folder / "run"),
            "state_dir": str(folder / "state"),
            "spool": {"dir": str(folder / "spool")},
            "ingest": {
                "url": f"https://{ingest_address}",
                "mTLS": {
                    "cert_file": str(paths.agent_cert),
                    "key_file": str(paths.agent_key),
                    "ca_file": str(pki / "server-ca.crt"),
                },
            },
        }
        config.write_text(yaml.safe_dump(document))
        config.chmod(0o600)
        command = (sys.executable, "-m", "microedr_agent", "run", "--config", str(config))
        self._log = folder / "agent.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)

    def pids(self) -> dict[str, int]:
        """Of its three processes, once the sensor sees with eBPF."""
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline_s and self._process.poll() is None:
            status = json.loads(self._status.read_text()) if self._status.exists() else {"processes": {}}
            children = status["processes"]
            if children.get("sensor", {}).get("collector") == "ebpf" and children["uploader"]["pid"]:
                return {"responder": self._process.pid, **{name: one["pid"] for name, one in children.items()}}
            time.sleep(0.2)
        raise RuntimeError(f"the agent did not start: {self._log.read_text()[-2000:]}")

    def stop(self) -> None:
        """Ask it to end."""
        self._process.terminate()
        self._process.wait(timeout=20)


def baseline_ratio() -> float:
    """Of a core, to take the JSON of as many execs apart and put it together again, in a hot loop."""
    text = json.dumps({"argv": ["true", "--some-arg", "value"], "process": {f"field_{n}": n for n in range(16)}})
    best_s = float("inf")
    for _ in range(5):
        began_s = time.process_time()
        for _ in range(EVENTS_PER_S):
            json.dumps(json.loads(text))
        best_s = min(best_s, time.process_time() - began_s)
    return best_s


def bare_python_mb() -> float:
    """Resident size of an interpreter that does nothing."""
    code = f"print(int(open('/proc/self/statm').read().split()[1]) * {os.sysconf('SC_PAGESIZE')})"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(out.stdout) / _MB


def bench(seconds: float, runs: int) -> None:
    """Measure and leave the figures behind."""
    with tempfile.TemporaryDirectory(prefix="bench-agent-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        load = (str(build_load(folder)), str(EXECS_PER_S), str(CONNECTS_PER_S))
        (folder / "agent").mkdir(mode=0o755)
        host = ensure_pki(folder / HOST, tenant_id=TENANT, host_id=HOST)
        (folder / "client-ca.crt").write_bytes(host.ca_cert.read_bytes())
        with ingest("memory", folder) as (_, address):
            agent = Agent(folder / "agent", address, folder)
            try:
                pids = agent.pids()
                idle = measure(pids, WARM_UP_S)
                measure(pids, WARM_UP_S, (*load, str(WARM_UP_S)))
                usages = []
                for number in range(runs):
                    usages.append(measure(pids, seconds, (*load, str(seconds))))
                    print(f"  run {number + 1} of {runs}: {_line(usages[-1])}", flush=True)
            finally:
                agent.stop()
    _report(usages, idle)


def _line(usage: Mapping[str, Usage]) -> str:
    return ", ".join(f"{name} {one.cpu_ratio:.2%} {one.rss_mb:.1f} MB" for name, one in usage.items())


def _report(usages: Sequence[Mapping[str, Usage]], idle: Mapping[str, Usage]) -> None:
    load = f"{EXECS_PER_S} execs and {CONNECTS_PER_S} connections a second, {EVENTS_PER_S} events; idle: {_line(idle)}"
    cpu_baseline, memory_baseline = baseline_ratio(), bare_python_mb()
    json_is = "a hot loop that takes the JSON of as many execs apart and puts it together"
    both: tuple[str, ...] = ("sensor", "uploader")
    for name, who, target in (("agent-cpu", both, TARGET_CPU), ("agent-sensor-cpu", both[:1], TARGET_SENSOR_CPU)):
        report(
            name,
            [sum(usage[process].cpu_ratio for process in who) for usage in usages],
            unit="ratio of a core",
            target=target,
            higher_is_better=False,
            baseline=cpu_baseline,
            baseline_is=json_is,
            notes=f"{' + '.join(who)}; {load}",
        )
    for name, who, size, target in (
        ("agent-rss", both, "rss_mb", TARGET_RSS_MB),
        ("agent-responder-rss", ("responder",), "rss_mb", TARGET_RESPONDER_MB),
        ("agent-pss", (*both, "responder"), "pss_mb", TARGET_PSS_MB),
    ):
        report(
            name,
            [sum(getattr(usage[process], size) for process in who) for usage in usages],
            unit="MB",
            target=target,
            higher_is_better=False,
            baseline=memory_baseline * len(who),
            baseline_is="as many interpreters that do nothing (resident)",
            notes=f"{' + '.join(who)}; {load}; {_split(usages, size)}",
        )


def _split(usages: Sequence[Mapping[str, Usage]], size: str) -> str:
    medians = {name: statistics.median(getattr(usage[name], size) for usage in usages) for name in usages[0]}
    return ", ".join(f"{name} {value:.1f}" for name, value in medians.items())


def main() -> int:
    """Run the bench, or measure what runs; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--pid", action="append", default=[], metavar="NAME=PID", help="measure this process only")
    arguments = parser.parse_args()
    if arguments.pid:
        pids = {name: int(pid) for name, _, pid in (one.partition("=") for one in arguments.pid)}
        usage = measure(pids, arguments.seconds)
        print(json.dumps({name: asdict(one) for name, one in usage.items()}, indent=2))
        return 0
    if os.geteuid() != 0:
        print("bench agent: eBPF needs root", file=sys.stderr)
        return 1
    bench(arguments.seconds, arguments.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
