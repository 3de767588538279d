"""``microedr-agent`` and ``python -m microedr_agent``."""

import sys

from microedr_agent.cli import run


def main() -> None:
    """Carry out the command that was typed."""
    try:
        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
