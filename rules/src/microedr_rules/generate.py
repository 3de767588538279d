"""Python source for a rule's condition on one kind of event: one expression, no calls where none are needed.

The source is made of names this module chooses and of ``repr`` of literals; nothing from a rule is ever
code. Fields are read once per event into locals, folded once. ``interpret`` says what each test means.
"""

from collections.abc import Callable
from typing import Any

from microedr_rules import access
from microedr_rules.ast import (
    And,
    Atom,
    Cidr,
    Compare,
    Exists,
    Node,
    Not,
    Null,
    Number,
    Or,
    Pattern,
    Place,
    Regex,
    SameAs,
    Test,
    Text,
    fold,
)
from microedr_rules.fields import Field, FieldType, keyword_fields, lookup
from microedr_rules.interpret import compares
from microedr_rules.regexes import compile_regex
from microedr_rules.wildcards import compile_pattern

_ROOTS = {"process": "p", "container": "c"}
_MAPPED = bytes(10) + b"\xff\xff"
_MAX_INLINE = 64
"""Alternatives of one field written out; more go through a loop, so that the source stays small."""

_COSTS: dict[type, int] = {
    Number: 1,
    Exists: 1,
    Null: 1,
    Text: 2,
    Cidr: 4,
    Compare: 4,
    SameAs: 8,
    Pattern: 10,
    Regex: 40,
}
_INSIDE_COST = 5
_LIST_FACTOR = 6
_KEYWORD_FACTOR = 30


class Generator:
    """Collects the locals and constants that the expressions of one kind need."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.constants: dict[str, Any] = {"fold": fold}
        self._locals: dict[str, tuple[str, str]] = {}

    def preamble(self) -> list[str]:
        """Lines that read the fields off the event ``e``, in the order their values build on each other."""
        return [f"{name} = {source}" for name, source in self._locals.values()]

    def expression(self, node: Node) -> str:
        """An expression that is true when ``node`` holds."""
        match node:
            case Atom(name, test):
                return self._keyword(test) if name is None else self._atom(name, test)
            case Not(child):
                return f"(not {self.expression(child)})"
            case And(nodes):
                ordered = sorted(nodes, key=self._cost)
                return "(" + " and ".join(self.expression(child) for child in ordered) + ")"
            case Or():
                return self._alternatives(node)

    def constant(self, value: Any) -> str:
        """The name of a constant of the generated code."""
        name = f"k{len(self.constants)}"
        self.constants[name] = value
        return name

    def _local(self, key: str, source: str) -> str:
        if key not in self._locals:
            self._locals[key] = (f"v{len(self._locals)}", source)
        return self._locals[key][0]

    def _cost(self, node: Node) -> int:
        match node:
            case Atom(name, test):
                cost = _INSIDE_COST if isinstance(test, Text) and test.place is Place.INSIDE else _COSTS[type(test)]
                if name is None:
                    return cost * _KEYWORD_FACTOR
                field = lookup(self.kind, name)
                return cost * _LIST_FACTOR if field and field.type is FieldType.TEXTS else cost
            case Not(child):
                return self._cost(child)
            case And(nodes) | Or(nodes):
                return sum(self._cost(child) for child in nodes)

    def _alternatives(self, node: Or) -> str:
        """An or, with literals of one field and place drawn together: one call instead of many."""
        groups: dict[tuple[str, Place, bool], list[str]] = {}
        parts: list[tuple[int, str]] = []
        for child in node.nodes:
            key = self._group(child)
            if key is None:
                parts.append((self._cost(child), self.expression(child)))
            else:
                assert isinstance(child, Atom) and isinstance(child.test, Text)  # noqa: S101, PT018 - _group says so
                groups.setdefault(key, []).append(child.test.text if key[2] else fold(child.test.text))
        for (name, place, cased), literals in groups.items():
            field = lookup(self.kind, name)
            assert field is not None  # noqa: S101 - _group says so
            parts.append((len(literals), self._joined(self._text(field, cased=cased), place, literals)))
        return "(" + " or ".join(source for _cost, source in sorted(parts, key=lambda part: part[0])) + ")"

    def _group(self, node: Node) -> tuple[str, Place, bool] | None:
        if not isinstance(node, Atom) or not isinstance(node.test, Text) or node.field is None:
            return None
        field = lookup(self.kind, node.field)
        if field is None or field.type in {FieldType.TEXTS, FieldType.ADDRESS}:
            return None
        return node.field, node.test.place, node.test.cased

    def _joined(self, text: str, place: Place, literals: list[str]) -> str:
        unique = tuple(dict.fromkeys(literals))
        match place:
            case Place.WHOLE:
                return f"{text} in {self.constant(frozenset(unique))}"
            case Place.START:
                return f"{text}.startswith({self.constant(unique)})"
            case Place.END:
                return f"{text}.endswith({self.constant(unique)})"
            case Place.INSIDE if len(unique) <= _MAX_INLINE:
                return "(" + " or ".join(f"{literal!r} in {text}" for literal in unique) + ")"
            case Place.INSIDE:
                return f"any(map({text}.__contains__, {self.constant(unique)}))"

    def _atom(self, name: str, test: Test) -> str:  # noqa: PLR0911 - one answer per way to test
        field = lookup(self.kind, name)
        if field is None or (isinstance(test, SameAs) and lookup(self.kind, test.field) is None):
            return str(field is None and (isinstance(test, Null) or test == Exists(exists=False)))
        if isinstance(test, Exists | Null):
            return self._existence(field, wanted=isinstance(test, Exists) and test.exists)
        if isinstance(test, SameAs):
            return self._same(field, test)
        if field.type is FieldType.NUMBER and isinstance(test, Number | Compare):
            operator = "==" if isinstance(test, Number) else test.order.value
            return f"{self._raw(field)} {operator} {test.number!r}"
        if field.type is FieldType.ADDRESS and (packed := self._address(field, test)):
            return packed
        cased = isinstance(test, Regex | Compare | Cidr) or (isinstance(test, Text | Pattern) and test.cased)
        text = self._text(field, cased=cased)
        if field.type is FieldType.TEXTS:
            return f"any({self._on_text(test, 'x')} for x in {text})"
        return self._on_text(test, text)

    def _keyword(self, test: Test) -> str:
        cased = isinstance(test, Regex) or (isinstance(test, Text | Pattern) and test.cased)
        source = f"({', '.join(self._spread(field, cased=cased) for field in keyword_fields(self.kind))},)"
        return f"any({self._on_text(test, 'x')} for x in {self._local(f'keywords {cased}', source)})"

    def _spread(self, field: Field, *, cased: bool) -> str:
        text = self._text(field, cased=cased)
        return f"*{text}" if field.type is FieldType.TEXTS else text

    def _on_text(self, test: Test, text: str) -> str:  # noqa: C901, PLR0911 - one line per test
        """The test of one text, which is folded unless the test is cased."""
        match test:
            case Text(place, literal, cased):
                literal = literal if cased else fold(literal)
                match place:
                    case Place.WHOLE:
                        return f"{text} == {literal!r}"
                    case Place.INSIDE:
                        return f"{literal!r} in {text}"
                    case Place.START:
                        return f"{text}.startswith({literal!r})"
                    case Place.END:
                        return f"{text}.endswith({literal!r})"
            case Pattern(parts, cased):
                folded = [fold(part) if isinstance(part, str) and not cased else part for part in parts]
                return f"{self.constant(compile_pattern(folded))}({text})"
            case Regex():
                return f"{self.constant(compile_regex(test).search)}({text}) is not None"
            case Number(number):
                return f"{text} == {str(number)!r}"
            case Compare(order, number):
                return f"{self.constant(compares)}({text}, {self.constant(order)}, {number!r})"
            case Cidr(network):
                return f"{self.constant(_network_of_text(network))}({text})"
            case _:
                raise AssertionError(test)

    def _raw(self, field: Field) -> str:
        def source(path: tuple[str, ...]) -> str:
            root, *rest = path
            return ".".join((_ROOTS.get(root, "k" if rest else f"e.{root}"), *rest))

        return self._local(f"raw {field.paths}", " or ".join(source(path) for path in field.paths))

    def _text(self, field: Field, *, cased: bool) -> str:
        raw = self._raw(field)
        match field.type:
            case FieldType.TEXT:
                text = raw
            case FieldType.TEXTS:
                text = self._local(f"texts {field.paths}", f"tuple({raw}) or ('',)")
                return text if cased else self._local(f"folded {field.paths}", f"tuple(map(fold, {text}))")
            case FieldType.NUMBER:
                text = self._local(f"text {field.paths}", f"str({raw})")
            case FieldType.FLAG:
                truth = raw if field.yes is None else f"{raw} == {field.yes}"
                text = self._local(f"text {field.name}", f"'true' if {truth} else 'false'")
            case FieldType.WORD:
                text = self._local(f"text {field.paths}", f"{self.constant(dict(field.words).get)}({raw}, '')")
            case FieldType.ADDRESS:
                text = self._local(f"text {field.paths}", f"{self.constant(access.address_text)}({raw})")
            case FieldType.HEX:
                text = self._local(f"text {field.paths}", f"{raw}.hex()")
        if cased or field.type is not FieldType.TEXT:
            return text  # what is not text has no upper case
        return self._local(f"folded {field.paths}", f"{text}.casefold()")

    def _existence(self, field: Field, *, wanted: bool) -> str:
        if field.type in {FieldType.NUMBER, FieldType.FLAG}:
            return str(wanted)
        text = self._text(field, cased=True)
        found = f"any({text})" if field.type is FieldType.TEXTS else f"{text} != ''"
        return f"({found})" if wanted else f"(not {found})"

    def _same(self, field: Field, test: SameAs) -> str:
        other = lookup(self.kind, test.field)
        assert other is not None  # noqa: S101 - _atom looked
        texts, others = self._spread(field, cased=False), self._spread(other, cased=False)
        return f"{self.constant(_SAME[test.place])}(({texts},), ({others},))"

    def _address(self, field: Field, test: Test) -> str:
        """A test of packed bytes, without the text; empty when it needs the text."""
        if isinstance(test, Cidr):
            return f"{self.constant(_network_of_packed(test.network))}({self._packed(field)})"
        if isinstance(test, Text) and test.place is Place.WHOLE:
            packed = access.packed_address(test.text)
            if packed is not None:
                return f"{self._packed(field)} == {packed!r}"
        return ""

    def _packed(self, field: Field) -> str:
        raw = self._raw(field)
        return self._local(f"packed {field.paths}", f"{raw}[12:] if {raw}[:12] == {_MAPPED!r} else {raw}")


def _network_of_packed(network: Any) -> Callable[[bytes], bool]:
    size, first, mask = len(network.network_address.packed), int(network.network_address), int(network.netmask)
    from_bytes = int.from_bytes
    return lambda packed: len(packed) == size and from_bytes(packed, "big") & mask == first


def _network_of_text(network: Any) -> Callable[[str], bool]:
    inside = _network_of_packed(network)

    def within(text: str) -> bool:
        packed = access.packed_address(text)
        return packed is not None and inside(packed)

    return within


def _same_as(placed: Callable[[str, str], bool]) -> Callable[[tuple[str, ...], tuple[str, ...]], bool]:
    return lambda texts, others: any(other != "" and placed(text, other) for text in texts for other in others)


_SAME = {
    Place.WHOLE: _same_as(lambda text, other: text == other),
    Place.INSIDE: _same_as(lambda text, other: other in text),
    Place.START: _same_as(lambda text, other: text.startswith(other)),
    Place.END: _same_as(lambda text, other: text.endswith(other)),
}
