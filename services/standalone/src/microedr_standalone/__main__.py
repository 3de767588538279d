"""Entry point of ``microedr``: one line and an exit status for every expected error."""

import sys

from microedr_standalone.errors import StandaloneError


def main() -> None:
    """Run the command line."""
    from microedr_standalone.commands import app  # noqa: PLC0415 - typer and rich load only when needed

    try:
        app()
    except StandaloneError as error:
        sys.stderr.write(f"microedr: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
