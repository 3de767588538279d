"""What of a rule our telemetry can evaluate: decided when it loads, so that nothing runs silently weaker.

A field that the event kind does not have is null for ever. Folding that into the condition tells whether the
rule can still fire (and on less), can fire on more because an exception is lost, or can never fire.
"""

from collections.abc import Sequence

from microedr_rules.ast import And, Atom, Exists, Node, Not, Null, Or, SameAs, atoms
from microedr_rules.fields import lookup, similar
from microedr_rules.model import Coverage, Status


def coverage_of(condition: Node, kinds: Sequence[str], gap: str = "") -> Coverage:
    """How much of ``condition`` can be evaluated on events of ``kinds``; ``gap`` says why there are none."""
    if not kinds:
        return Coverage(Status.NOT_EVALUABLE, gap or "no kind of event")
    missing = _missing(condition, kinds)
    if not missing:
        return Coverage(Status.FULL)
    names = ", ".join(f"{name}{_hint(name, kinds)}" for name in missing)
    kinds_text = ", ".join(kinds)
    constants = {_constant(condition, kind) for kind in kinds}
    if constants == {False}:
        return Coverage(Status.NOT_EVALUABLE, f"can never fire: {kinds_text} has no {names}", missing)
    if True in constants:
        return Coverage(Status.NOT_EVALUABLE, f"would fire on every event: {kinds_text} has no {names}", missing)
    if any(_filter_lost(atom, positive, kind) for atom, positive in atoms(condition) for kind in kinds):
        return Coverage(Status.FILTER_LOST, f"an exception needs {names}, which {kinds_text} has not", missing)
    return Coverage(Status.DEGRADED, f"fires on less than written: {kinds_text} has no {names}", missing)


def _fields(atom: Atom) -> tuple[str, ...]:
    own = () if atom.field is None else (atom.field,)
    return (*own, atom.test.field) if isinstance(atom.test, SameAs) else own


def _unknown(atom: Atom, kind: str) -> bool:
    return any(lookup(kind, name) is None for name in _fields(atom))


def _missing(condition: Node, kinds: Sequence[str]) -> tuple[str, ...]:
    names = {
        name: None
        for atom, _positive in atoms(condition)
        for name in _fields(atom)
        for kind in kinds
        if lookup(kind, name) is None
    }
    return tuple(names)


def _hint(name: str, kinds: Sequence[str]) -> str:
    close = similar(kinds[0], name)
    return f" (did you mean {close}?)" if close else ""


def _is_absence(atom: Atom) -> bool:
    return isinstance(atom.test, Null) or atom.test == Exists(exists=False)


def _filter_lost(atom: Atom, positive: bool, kind: str) -> bool:  # noqa: FBT001 - as atoms() gives it
    """Whether losing this atom makes the rule fire on more: a test under a not fails, or a demand for absence holds."""
    return _unknown(atom, kind) and (_is_absence(atom) if positive else not _is_absence(atom))


def _constant(node: Node, kind: str) -> bool | None:
    """The value that ``node`` has whatever the event, None when it depends on the event."""
    match node:
        case Atom():
            return _is_absence(node) if _unknown(node, kind) else None
        case Not(child):
            value = _constant(child, kind)
            return None if value is None else not value
        case And(nodes):
            values = {_constant(child, kind) for child in nodes}
            return False if False in values else None if None in values else True
        case Or(nodes):
            values = {_constant(child, kind) for child in nodes}
            return True if True in values else None if None in values else False
