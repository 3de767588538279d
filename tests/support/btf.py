"""A small reader of BTF, the kernel's type format, from an ELF object; see Documentation/bpf/btf.rst."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_SECTION = struct.Struct("<IIQQQQIIQQ")
_BTF_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM = 1, 2, 3, 4, 5, 6
_TYPEDEF, _VOLATILE, _CONST, _RESTRICT = 8, 9, 10, 11
_TRAILERS = {_INT: 4, _ARRAY: 12, 14: 4, 17: 4}
_PER_ITEM = {_STRUCT: 12, _UNION: 12, _ENUM: 8, 13: 8, 15: 12, 19: 12}


@dataclass(frozen=True)
class Member:
    """One member of a struct."""

    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True)
class _Type:
    name: str
    kind: int
    size_or_type: int
    items: tuple[tuple[str, int, int], ...]


class Btf:
    """The types of one object."""

    def __init__(self, path: Path) -> None:
        self._types = [_Type("void", 0, 0, ()), *_parse(_section(path.read_bytes(), b".BTF"))]

    def size(self, name: str) -> int:
        """Of a struct, in bytes."""
        return self._struct(name).size_or_type

    def members(self, name: str) -> Mapping[str, Member]:
        """Of a struct, in their order."""
        return {
            item: Member(offset_bits // 8, self._size_of(type_id))
            for item, type_id, offset_bits in self._struct(name).items
        }

    def values(self, name: str) -> Mapping[str, int]:
        """Of an enum."""
        found = next(one for one in self._types if one.kind == _ENUM and one.name == name)
        return {item: value for item, value, _ in found.items}

    def _struct(self, name: str) -> _Type:
        return next(one for one in self._types if one.kind == _STRUCT and one.name == name)

    def _size_of(self, type_id: int) -> int:
        one = self._types[type_id]
        if one.kind in {_TYPEDEF, _VOLATILE, _CONST, _RESTRICT}:
            return self._size_of(one.size_or_type)
        if one.kind == _ARRAY:
            ((_, element, count),) = one.items
            return self._size_of(element) * count
        return 8 if one.kind == _PTR else one.size_or_type


def _section(elf: bytes, wanted: bytes) -> bytes:
    (sections_at,) = struct.unpack_from("<Q", elf, 40)
    entry_bytes, count, names_index = struct.unpack_from("<HHH", elf, 58)
    sections = [_SECTION.unpack_from(elf, sections_at + index * entry_bytes) for index in range(count)]
    names_at = sections[names_index][4]
    for name, _, _, _, offset, size, *_ in sections:
        if elf[names_at + name :].startswith(wanted + b"\0"):
            return elf[offset : offset + size]
    raise LookupError(wanted)


def _parse(btf: bytes) -> list[_Type]:
    _, _, _, header_bytes, types_at, types_bytes, strings_at, _ = _BTF_HEADER.unpack_from(btf)
    strings = btf[header_bytes + strings_at :]
    types = btf[header_bytes + types_at :][:types_bytes]

    def text(offset: int) -> str:
        return strings[offset : strings.index(b"\0", offset)].decode()

    found, at = [], 0
    while at < len(types):
        name, info, size_or_type = _TYPE.unpack_from(types, at)
        kind, count = info >> 24 & 0x1F, info & 0xFFFF
        at += _TYPE.size
        items: tuple[tuple[str, int, int], ...] = ()
        if kind == _ARRAY:
            element, _, length = struct.unpack_from("<III", types, at)
            items = (("", element, length),)
        elif kind in {_STRUCT, _UNION}:
            raw = struct.iter_unpack("<III", types[at : at + 12 * count])
            items = tuple((text(item), type_id, offset) for item, type_id, offset in raw)
        elif kind == _ENUM:
            items = tuple(
                (text(item), value, 0) for item, value in struct.iter_unpack("<Ii", types[at : at + 8 * count])
            )
        at += _TRAILERS.get(kind, 0) + _PER_ITEM.get(kind, 0) * count
        found.append(_Type(text(name), kind, size_or_type, items))
    return found
