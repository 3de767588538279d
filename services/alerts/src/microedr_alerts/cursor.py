"""Where the next page begins: a place in a list sorted newest first, as opaque text."""

import base64
import binascii
from http import HTTPStatus

from microedr_alerts.errors import ProblemError

_MAX_BIGINT = 2**63


def encode_cursor(at_unix_ns: int, item_id: str) -> str:
    """The cursor after this item."""
    return base64.urlsafe_b64encode(f"{at_unix_ns}:{item_id}".encode()).rstrip(b"=").decode()


def decode_cursor(cursor: str) -> tuple[int, str]:
    """The item a cursor stands after.

    Raises:
        ProblemError: It is none of ours.
    """
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        at_unix_ns, _, item_id = text.partition(":")
        number = int(at_unix_ns)
    except (ValueError, binascii.Error):
        number, item_id = -1, ""
    if not item_id or not 0 <= number < _MAX_BIGINT:
        problem = "not a cursor: pass the next_cursor of the page before, unchanged"
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "cursor is wrong", fields=[("cursor", problem)])
    return number, item_id
