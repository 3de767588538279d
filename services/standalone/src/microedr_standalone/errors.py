"""Every error the command line raises on purpose; ``__main__`` catches all of them.

* StandaloneError
  + UsageError       exit 2: a wrong argument, variable or state directory
  + ApiError         exit 1: the API said no or could not be reached
  + DemoError        exit 1: a step of the demo did not happen
  + StartError       exit 1: something `up` needs did not start
"""


class StandaloneError(Exception):
    """The text is one line for a person."""

    exit_code = 1


class UsageError(StandaloneError):
    """What was asked for is not possible as asked."""

    exit_code = 2


class ApiError(StandaloneError):
    """The API said no, or could not be reached."""


class DemoError(StandaloneError):
    """A step of the demo did not happen in time."""


class StartError(StandaloneError):
    """Something that ``up`` needs did not start."""
