"""``microedr-agent`` and ``python -m microedr_agent``."""

import sys

from microedr_agent.lasting import LASTING, run_lasting


def main() -> None:
    """Carry out the command that was typed."""
    try:
        if sys.argv[1:2] and sys.argv[1] in LASTING:
            sys.exit(run_lasting(sys.argv[1:]))
        from microedr_agent.cli import run  # noqa: PLC0415 - the others need no argparse

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
