"""Python source for a rule's condition on one kind of event: one expression, no calls where none are needed.

The source is made of names this module chooses and of ``repr`` of literals; nothing from a rule is ever
code. Fields are read once per event into locals, folded once; text that is costly to make only when a test
gets that far. ``interpret`` says what each test means.
"""

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
from microedr_rules.comparisons import SAME_AS, network_of_packed, network_of_text
from microedr_rules.fields import Field, FieldType, keyword_fields, lookup
from microedr_rules.interpret import compares
from microedr_rules.regexes import compile_regex
from microedr_rules.wildcards import compile_pattern

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

    def _lazy(self, key: str, source: str) -> str:
        name = self._local(key, "None")
        return f"({name} if {name} is not None else ({name} := {source}))"

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
        texts: dict[tuple[str, Place, bool], list[str]] = {}
        numbers: dict[str, list[float]] = {}
        parts: list[tuple[int, str]] = []
        for child in node.nodes:
            match child:
                case Atom(str(name), Text(place, text, cased)) if self._type(name) is FieldType.TEXT:
                    texts.setdefault((name, place, cased), []).append(text if cased else fold(text))
                case Atom(str(name), Number(number)) if self._type(name) is FieldType.NUMBER:
                    numbers.setdefault(name, []).append(number)
                case _:
                    parts.append((self._cost(child), self.expression(child)))
        for (name, place, cased), literals in texts.items():
            parts.append((len(literals), self._joined(self._text(self._field(name), cased=cased), place, literals)))
        for name, members in numbers.items():
            parts.append((1, f"{self._raw(self._field(name))} in {self.constant(frozenset(members))}"))
        return "(" + " or ".join(source for _cost, source in sorted(parts, key=lambda part: part[0])) + ")"

    def _field(self, name: str) -> Field:
        field = lookup(self.kind, name)
        assert field is not None  # noqa: S101 - the caller knows its type
        return field

    def _type(self, name: str) -> FieldType | None:
        field = lookup(self.kind, name)
        return None if field is None else field.type

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
        if direct := self._without_text(field, test):
            return direct
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
                return f"{self.constant(network_of_text(network))}({text})"
            case _:
                raise AssertionError(test)

    def _raw(self, field: Field) -> str:
        def source(path: tuple[str, ...]) -> str:
            root, *rest = path
            return ".".join((self._local(f"root {root}", f"e.{root}"), *rest))

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
                text = self._lazy(f"text {field.paths}", f"str({raw})")
            case FieldType.FLAG:
                text = f"('true' if {self._truth(field)} else 'false')"
            case FieldType.WORD:
                text = f"{self.constant(dict(field.words).get)}({raw}, '')"
            case FieldType.ADDRESS:
                text = self._lazy(f"text {field.paths}", f"{self.constant(access.address_text)}({raw})")
            case FieldType.HEX:
                text = self._lazy(f"text {field.paths}", f"{raw}.hex()")
        if cased or field.type is not FieldType.TEXT:
            return text  # what is not text has no upper case
        return self._local(f"folded {field.paths}", f"{text}.casefold()")

    def _existence(self, field: Field, *, wanted: bool) -> str:
        if field.type in {FieldType.NUMBER, FieldType.FLAG}:
            return str(wanted)
        if field.type is FieldType.ADDRESS:
            found = f"len({self._raw(field)}) in (4, 16)"
        else:
            text = self._text(field, cased=True)
            found = f"any({text})" if field.type is FieldType.TEXTS else f"{text} != ''"
        return f"({found})" if wanted else f"(not {found})"

    def _same(self, field: Field, test: SameAs) -> str:
        other = lookup(self.kind, test.field)
        assert other is not None  # noqa: S101 - _atom looked
        texts, others = self._spread(field, cased=False), self._spread(other, cased=False)
        return f"{self.constant(SAME_AS[test.place])}(({texts},), ({others},))"

    def _without_text(self, field: Field, test: Test) -> str:
        """A test of the value as the message holds it; empty when it needs the text."""
        if field.type is FieldType.ADDRESS and isinstance(test, Cidr):
            return f"{self.constant(network_of_packed(test.network))}({self._packed(field)})"
        if not isinstance(test, Text) or test.place is not Place.WHOLE:
            return ""
        literal = test.text if test.cased else fold(test.text)
        match field.type:
            case FieldType.ADDRESS:
                packed = access.packed_address(test.text)
                return "" if packed is None else f"{self._packed(field)} == {packed!r}"
            case FieldType.FLAG:
                truth = self._truth(field)
                return {"true": truth, "false": f"(not {truth})"}.get(literal, "False")
            case FieldType.WORD if literal:
                numbers = tuple(number for number, word in field.words if word == literal)
                return f"{self._raw(field)} == {numbers[0]}" if numbers else "False"
            case _:
                return ""

    def _truth(self, field: Field) -> str:
        raw = self._raw(field)
        return raw if field.yes is None else f"({raw} == {field.yes})"

    def _packed(self, field: Field) -> str:
        raw = self._raw(field)
        return self._local(f"packed {field.paths}", f"{raw}[12:] if {raw}[:12] == {_MAPPED!r} else {raw}")
