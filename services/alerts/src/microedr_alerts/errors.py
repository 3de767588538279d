"""Every error the alerts service raises on purpose, and who is expected to catch it.

* AlertsError
  + EmbeddedPostgresError      main: print the line, stop
  + PostgresError
    - PostgresUnavailableError writer: pause, the same again; API: 503; start: try again
    - PostgresRejectedError    writer: dead-letter the record that caused it
  + ProblemError               API: answer it as problem+json
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from microedr_chassis.errors import ChassisError


class AlertsError(ChassisError):
    """Base of all of them."""


class EmbeddedPostgresError(AlertsError):
    """The embedded PostgreSQL cannot be had; the text says what to do about it."""


class PostgresError(AlertsError):
    """Base of what the database raises."""


class PostgresUnavailableError(PostgresError):
    """The database is away, full or too slow; nothing of the transaction happened, or it may be done again."""


class PostgresRejectedError(PostgresError):
    """The database will never take these values."""


class ProblemError(AlertsError):
    """An answer that is not what was asked for (RFC 9457).

    Args:
        status: Of the answer.
        detail: What is wrong and what is allowed, for a person.
        fields: Which field has what wrong with it.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        fields: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.fields = tuple(fields)
        self.headers = dict(headers or {})
