"""Entry point of ``microedr``: one line and an exit status for every expected error."""

import signal
import sys

from microedr_standalone.errors import StandaloneError

_INTERRUPTED = 128 + signal.SIGINT
"""As shells have it."""


def main() -> None:
    """Run the command line."""
    try:
        from microedr_standalone.commands import app  # noqa: PLC0415 - loads for a while, and Ctrl-C may come meanwhile

        app()
    except StandaloneError as error:
        sys.stderr.write(f"microedr: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
