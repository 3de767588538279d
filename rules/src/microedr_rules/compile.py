"""The fast evaluator: one generated Python function per kind of event, over all rules about that kind.

It must agree with ``interpret`` on every rule and event; tests/unit/rules holds the two against each other.
"""

from collections.abc import Callable, Sequence

from microedr.v1.event_pb2 import AgentEvent
from microedr_rules.ast import Node
from microedr_rules.generate import Generator

KindMatcher = Callable[[AgentEvent], tuple[int, ...]]
"""Which of the conditions, by index, hold for an event of the kind."""


def compile_kind(kind: str, conditions: Sequence[Node]) -> KindMatcher:
    """A function that evaluates ``conditions`` on events of ``kind``, each field read once."""
    generator = Generator(kind)
    tests = [f"if {generator.expression(node)}: h += ({index},)" for index, node in enumerate(conditions)]
    lines = [
        "def match(e):",
        *(f"    {line}" for line in generator.preamble()),
        "    h = ()",
        *(f"    {line}" for line in tests),
        "    return h",
    ]
    namespace = dict(generator.constants)
    exec(compile("\n".join(lines), f"<rules for {kind}>", "exec"), namespace)  # noqa: S102 - see generate: no rule text is code
    matcher: KindMatcher = namespace["match"]
    return matcher
