"""Every error the chassis raises on purpose, and who is expected to catch it.

* ChassisError
  + SettingsError            main: print the line, exit 2
  + BusError
    - BusUnavailableError    runner and publishers: pause, then the same again
    - BusFullError           publishers: wait for something under way, then the same again
    - BusRecordError         runner: dead-letter what caused it
    - BusTopicError          main: print the line, exit 2
    - BusFencedError         main: print the line, exit; another process goes by the same member name
    - BusRetentionError      main: print the line, exit; a person decides where the group goes on
    - BusDamagedError        main: print the line, exit 2
  + RetryLaterError          runner: pause, then the same record again
  + DeadLetterError          runner: dead-letter the record, go on
  + DeadLetterLimitError     main: end, status 1; more would flood the dead-letter topic
  + IdentityError            ingest: refuse the peer; main: print the line, exit 2
"""


class ChassisError(Exception):
    """Base of all of them."""


class SettingsError(ChassisError):
    """A setting is missing or wrong; the text names the variable, never a secret's value."""


class BusError(ChassisError):
    """Base of what the bus raises."""


class BusUnavailableError(BusError):
    """The backend is away."""


class BusFullError(BusError):
    """Too much is under way."""


class BusRecordError(BusError):
    """This record can never be published."""


class BusTopicError(BusError):
    """A topic is not as it must be."""


class BusFencedError(BusError):
    """Another member took this one's name; it owns nothing any more."""


class BusRetentionError(BusError):
    """Records were deleted by age before the group consumed them."""


class BusDamagedError(BusError):
    """What the backend stored can not be read."""


class RetryLaterError(ChassisError):
    """What the record needs is away; the same record again, later."""


class DeadLetterError(ChassisError):
    """The record can never be consumed. ``reason`` is a word from a closed set of the service."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class DeadLetterLimitError(ChassisError):
    """So many records cannot be consumed that the fault is likely ours."""


class IdentityError(ChassisError):
    """A certificate or key is not what it must be."""
