"""What every bench leaves behind: ``build/bench/NAME.json`` and one line for a person.

A bench measures the same thing several times and hands the values over; the median is the
figure. Used as ``python -m tools.bench.NAME`` from the root of the repository. The table
over all of them is ``tools.bench.run``.
"""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT_DIR = ROOT / "build" / "bench"


@dataclass(frozen=True, slots=True)
class Figure:
    """One bench's result, as it stands in its file."""

    name: str
    value: float
    """Median of ``runs``."""
    unit: str
    target: float
    cores: int
    """That this process may use."""
    cpu_model: str
    commit: str
    """``-dirty`` when the working tree differs from it."""
    baseline: float
    """Measured in the same run, in the same unit: what ``value`` is to be compared with on another machine."""
    baseline_is: str
    higher_is_better: bool
    runs: tuple[float, ...]
    notes: str

    @property
    def ratio(self) -> float:
        """At least 1 when the target is met."""
        if self.higher_is_better:
            return self.value / self.target
        return self.target / self.value if self.value else float("inf")


def report(  # noqa: PLR0913 - the figure's fields
    name: str,
    values: Sequence[float],
    *,
    unit: str,
    target: float,
    higher_is_better: bool,
    baseline: float,
    baseline_is: str,
    notes: str = "",
) -> Figure:
    """Write ``build/bench/NAME.json`` for the median of ``values`` and print one line.

    Args:
        name: ``agent-cpu``, ``agent-rss``, ``ingest-kafka``, ``bus-sqlite``, ``detector``, ``correlator``,
            ``latency-p50`` or ``latency-p99``; further ones are welcome.
        values: One per repetition, five or more where that is affordable.
        unit: ``events/s``, ``ratio of a core``, ``MB`` or ``s``.
        target: What issue and design ask for, in ``unit``.
        higher_is_better: False for times, memory and CPU.
        baseline: A raw bound measured in the same run, in ``unit``.
        baseline_is: What the baseline is, for a person.
        notes: Sizes, load and circumstances, for a person.
    """
    figure = Figure(
        name=name,
        value=_rounded(statistics.median(values)),
        unit=unit,
        target=target,
        cores=len(os.sched_getaffinity(0)),
        cpu_model=cpu_model(),
        commit=commit(),
        baseline=_rounded(baseline),
        baseline_is=baseline_is,
        higher_is_better=higher_is_better,
        runs=tuple(_rounded(value) for value in values),
        notes=notes,
    )
    OUT_DIR.mkdir(parents=True, exist_ok=True)
    path = OUT_DIR / f"{name}.json"
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(asdict(figure), indent=2) + "\n")
    unfinished.replace(path)
    verdict = "met" if figure.ratio >= 1 else "MISSED"
    print(f"{name}: {figure.value:,} {unit}, target {target:,}: {verdict} ({figure.ratio:.2f})", flush=True)
    return figure


def load(path: Path) -> Figure:
    """The figure in a file that ``report`` wrote."""
    fields = json.loads(path.read_text())
    return Figure(**{**fields, "runs": tuple(fields["runs"])})


def cpu_model() -> str:
    """As the kernel names it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def commit() -> str:
    """Of the working tree; ``unknown`` outside a repository."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return done.stdout.strip() or "unknown"


def _rounded(value: float) -> float:
    """Four significant digits and no more: the rest is noise."""
    return float(f"{value:.4g}")
