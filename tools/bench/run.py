"""Runs the benches, each in a process of its own, and prints one table: ``python -m tools.bench.run [NAME …]``.

Without names it runs all of them. Ends with status 1 when a bench could not run, whatever its figure.
"""

import subprocess
import sys
import time
from collections.abc import Sequence

from tools.bench.report import OUT_DIR, ROOT, Figure, load

MODULES = {
    "agent-cpu": "agent",
    "agent-rss": "agent",
    "agent-pss": "agent",
    "agent-responder-rss": "agent",
    "ingest-kafka": "ingest_kafka",
    "bus-sqlite": "bus_sqlite",
    "detector": "detector",
    "correlator": "correlator",
    "latency-p50": "latency",
    "latency-p99": "latency",
    "up-idle-cpu": "idle",
    "up-idle-rss": "idle",
    "up-ready": "idle",
}
TIMEOUT_S = 1200.0


def main(arguments: Sequence[str]) -> int:
    """Run those named, or all; returns the exit status."""
    unknown = sorted(set(arguments) - MODULES.keys() - set(MODULES.values()))
    if unknown:
        print(f"no such bench: {', '.join(unknown)}; there are {', '.join(MODULES)}", file=sys.stderr)
        return 2
    names = [name for name, module in MODULES.items() if not arguments or {name, module} & set(arguments)]
    modules = list(dict.fromkeys(MODULES[name] for name in names))
    failed = [module for number, module in enumerate(modules, start=1) if not _run(module, number, len(modules))]
    figures = [load(OUT_DIR / f"{name}.json") for name in names if MODULES[name] not in failed]
    _print_table(figures)
    for module in failed:
        print(f"FAILED: {module}")
    return 1 if failed else 0


def _run(module: str, number: int, total: int) -> bool:
    """Whether the bench ended well and left all its figures."""
    print(f"[{number}/{total}] {module}", flush=True)
    expected = [OUT_DIR / f"{name}.json" for name, of in MODULES.items() if of == module]
    for path in expected:
        path.unlink(missing_ok=True)
    began_s = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", f"tools.bench.{module}"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        print(f"{module}: not done after {TIMEOUT_S:g} s", flush=True)
        return False
    missing = [path.name for path in expected if not path.exists()]
    if done.returncode or missing:
        print(f"{module}: ended with {done.returncode}, without {', '.join(missing) or 'nothing missing'}", flush=True)
        return False
    print(f"[{number}/{total}] {module}: {time.monotonic() - began_s:.0f} s", flush=True)
    return True


def _print_table(figures: Sequence[Figure]) -> None:
    rows = [("bench", "value", "target", "unit", "ratio", "", "baseline")]
    rows += [
        (
            figure.name,
            f"{figure.value:,g}" if figure.value < 1000 else f"{figure.value:,.0f}",  # noqa: PLR2004 - for the eye
            f"{'≥' if figure.higher_is_better else '≤'} {figure.target:,g}",
            figure.unit,
            f"{figure.ratio:.2f}",
            "met" if figure.ratio >= 1 else "MISSED",
            f"{figure.baseline:,g} ({figure.baseline_is})",
        )
        for figure in figures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if figures:
        print(f"\n{figures[0].cpu_model}, {figures[0].cores} cores, commit {figures[0].commit}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
