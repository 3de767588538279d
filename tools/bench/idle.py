"""What `microedr up` costs when nothing happens: time to ready, CPU and memory of the backend, PostgreSQL included.

Starts it on a state directory of its own, without the agent, whose cost ``tools.bench.agent`` tells.
The baseline of memory and CPU is a Python process that has imported gRPC and sleeps.
"""

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from tools.bench.report import ROOT, report

RUNS = 3
SETTLE_S = 10.0
WINDOW_S = 20.0
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
TARGET_READY_S = 15.0
TARGET_CPU_RATIO = 0.03
TARGET_RSS_MB = 400.0


@contextlib.contextmanager
def system(state_dir: Path) -> Iterator[tuple[psutil.Process, float]]:
    """A running backend, and the seconds it took to be ready."""
    ready_file = state_dir.with_suffix(".ready")
    began_s = time.monotonic()
    up = subprocess.Popen(
        [
            *(sys.executable, "-m", "microedr_standalone", "up", "--no-agent", "--state-dir", str(state_dir)),
            *("--api-listen", "127.0.0.1:0", "--ingest-listen", "127.0.0.1:0", "--ready-file", str(ready_file)),
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        while not ready_file.exists():
            if up.poll() is not None or time.monotonic() - began_s > READY_TIMEOUT_S:
                raise SystemExit("idle: microedr up did not become ready")
            time.sleep(0.02)
        yield psutil.Process(up.pid), time.monotonic() - began_s
    finally:
        up.send_signal(signal.SIGTERM)
        try:
            up.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            up.kill()
            up.wait()


def cpu_s(root: psutil.Process) -> float:
    """Of the process and all below it."""
    total_s = 0.0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total_s += times.user + times.system
    return total_s


def rss_mb(root: psutil.Process) -> float:
    """Of the process and all below it; shared pages count for each."""
    return sum(process.memory_info().rss for process in (root, *root.children(recursive=True))) / 1e6


def idle_ratio(root: psutil.Process) -> float:
    """Share of a core over one window."""
    before_s = cpu_s(root)
    time.sleep(WINDOW_S)
    return (cpu_s(root) - before_s) / WINDOW_S


def sleeper() -> tuple[float, float]:
    """CPU and memory of a process that has imported gRPC and sleeps."""
    process = subprocess.Popen([sys.executable, "-c", "import grpc.aio, time; time.sleep(60)"])
    try:
        time.sleep(3)
        root = psutil.Process(process.pid)
        return max(idle_ratio(root), 1e-6), rss_mb(root)
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Measure and report."""
    directory = Path(tempfile.mkdtemp(prefix="microedr-idle-"))
    ready_s: list[float] = []
    ratios: list[float] = []
    memory_mb: list[float] = []
    try:
        for run in range(RUNS):
            # Each on a fresh directory: the first start makes keys, certificates and the database.
            with system(directory / f"state-{run}") as (root, took_s):
                ready_s.append(took_s)
                time.sleep(SETTLE_S)
                ratios.append(idle_ratio(root))
                memory_mb.append(rss_mb(root))
            print(f"idle: {run + 1} of {RUNS} runs", flush=True)
        base_ratio, base_mb = sleeper()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    what = "a Python process that has imported gRPC and sleeps"
    report(
        "up-ready",
        ready_s,
        unit="s",
        target=TARGET_READY_S,
        higher_is_better=False,
        baseline=min(ready_s),
        baseline_is="the quickest of these starts",
        notes="first start on a fresh state directory, embedded PostgreSQL, without the agent",
    )
    for name, values, unit, target, baseline in (
        ("up-idle-cpu", ratios, "ratio of a core", TARGET_CPU_RATIO, base_ratio),
        ("up-idle-rss", memory_mb, "MB", TARGET_RSS_MB, base_mb),
    ):
        report(
            name,
            values,
            unit=unit,
            target=target,
            higher_is_better=False,
            baseline=baseline,
            baseline_is=what,
            notes=f"backend of microedr up, PostgreSQL included; windows of {WINDOW_S:g} s",
        )


if __name__ == "__main__":
    main()
