"""Typed reading of a document: each value checked, each error at its place."""

from collections.abc import Collection, Sequence
from typing import Any

from microedr_rules.documents import Document, Place
from microedr_rules.errors import RuleError

MAX_TEXT_CHARS = 8192
"""Of one text in a rule; a description is the longest thing in it."""

MAX_LIST_ITEMS = 10_000
"""Of one list. The longest public one has 4432."""


class Reader:
    """A document, read by place: ``reader.text("microedr", "confidence")``."""

    def __init__(self, document: Document) -> None:
        self.document = document

    def error(self, detail: str, *place: str | int) -> RuleError:
        """An error at this place, to be raised."""
        return RuleError(detail, self.document.position(*place))

    def value(self, *place: str | int) -> Any:
        """What stands at this place; None when nothing does."""
        here: Any = self.document.value
        for step in place:
            if isinstance(here, dict):
                here = here.get(step)
            elif isinstance(here, list) and isinstance(step, int) and step < len(here):
                here = here[step]
            else:
                return None
        return here

    def text(self, *place: str | int, required: bool = False) -> str:
        """A text; empty when there is none. Numbers and dates are taken as written texts are."""
        value = self.value(*place)
        if value is None or value == "":
            if required:
                raise self.error(f"{_name(place)} is missing", *place)
            return ""
        if isinstance(value, dict | list | bool):
            raise self.error(f"{_name(place)} must be a text", *place)
        text = str(value)
        if len(text) > MAX_TEXT_CHARS:
            raise self.error(f"{_name(place)} is longer than {MAX_TEXT_CHARS} characters", *place)
        return text

    def texts(self, *place: str | int) -> tuple[str, ...]:
        """A list of texts, or one text alone; empty when there is none."""
        value = self.value(*place)
        if value is None:
            return ()
        if not isinstance(value, list):
            return (self.text(*place),)
        if len(value) > MAX_LIST_ITEMS:
            raise self.error(f"{_name(place)} has more than {MAX_LIST_ITEMS} items", *place)
        return tuple(self.text(*place, index) for index in range(len(value)))

    def number(self, *place: str | int, low: float, high: float) -> float | None:
        """A number within bounds; None when there is none."""
        value = self.value(*place)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.error(f"{_name(place)} must be a number from {low:g} to {high:g}", *place)
        return float(value)

    def mapping(self, *place: str | int, keys: Collection[str] | None = None) -> dict[str, Any]:
        """A mapping, with no keys but these; empty when there is none."""
        value = self.value(*place)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.error(f"{_name(place)} must be a mapping", *place)
        for key in value:
            if not isinstance(key, str):
                raise self.error(f"key {key!r} must be a text", *place, str(key))
            if keys is not None and key not in keys:
                raise self.error(f"unknown key {key!r}; known are {', '.join(sorted(keys))}", *place, key)
        return value

    def items(self, *place: str | int) -> Sequence[Any]:
        """A list; empty when there is none."""
        value = self.value(*place)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self.error(f"{_name(place)} must be a list", *place)
        if len(value) > MAX_LIST_ITEMS:
            raise self.error(f"{_name(place)} has more than {MAX_LIST_ITEMS} items", *place)
        return value


def _name(place: Place) -> str:
    words = [step for step in place if isinstance(step, str)]
    return ".".join(words) if words else "the document"
