"""libbpf through ctypes: the library that the extension module of pylibbpf carries inside it.

pylibbpf itself is never imported: its package pulls in a compiler that is not needed to load objects, and
its wrapper can neither set ring sizes nor hand out links. Not here: which objects are loaded, see ``loader``.
"""

import contextlib
import ctypes
import errno
import importlib.machinery
import importlib.util
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from microedr_agent.errors import EbpfUnavailableError

_MAX_LOG_LINES = 200
_MESSAGE_BYTES = 1 << 20
"""A verifier's log is one message, and its end says what is wrong."""

_MAX_CAUSE_CHARS = 300
_VERIFIER = "verifier: "
_PROGRAM_AT_FAULT = re.compile(r"prog '(\w+)': .*fail", re.IGNORECASE)
"""libbpf names the program it gives up on in such a line, and the load of the whole object fails."""


@dataclass(frozen=True, slots=True)
class LoadedObject:
    """What one object file became. The descriptors are the caller's; programs run while their links are open."""

    maps: Mapping[str, int]
    links: Sequence[int]
    failures: Sequence[str]
    """Programs that did not load or attach: ``name: ENOENT: libbpf's last word``."""


class Libbpf:
    """The library, and what it said last.

    Raises:
        EbpfUnavailableError: pylibbpf is not installed or cannot be loaded.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        path = _extension_path()
        try:
            self._library = ctypes.CDLL(str(path), use_errno=True)
        except OSError as error:
            raise EbpfUnavailableError(f"{path} cannot be loaded: {error}") from error
        self._declare()
        # Kept alive as long as the library may call it.
        self._printer = _PRINTER(self._print)
        self._library.libbpf_set_print(self._printer)

    def load(self, path: Path, map_entries: Mapping[str, int]) -> LoadedObject:
        """Load an object with these map sizes and attach each of its programs.

        A program that does not load is left out and the rest tried again, so that one hook that this
        kernel lacks costs one kind of event.

        Raises:
            EbpfUnavailableError: Nothing of it could be loaded.
        """
        if not path.is_file():
            raise EbpfUnavailableError(f"{path} is missing: build it with `make -C agent/bpf`")
        failures: list[str] = []
        left_out: set[str] = set()
        while True:
            self._lines.clear()
            handle = self._open(path, map_entries, left_out)
            status = self._library.bpf_object__load(handle)
            if status == 0:
                return self._attach_each(handle, left_out, failures)
            names = {name for name, _ in self._programs(handle)}
            self._library.bpf_object__close(handle)
            culprit = self._culprit(names - left_out)
            if culprit is None:
                raise EbpfUnavailableError(f"{path.name} did not load: {self._explain(status)}")
            failures.append(f"{culprit}: {self._explain(status)}")
            left_out.add(culprit)

    def _open(self, path: Path, map_entries: Mapping[str, int], left_out: set[str]) -> int:
        handle = self._library.bpf_object__open_file(os.fsencode(path), None)
        if not handle:
            raise EbpfUnavailableError(f"{path} did not open: {self._explain(ctypes.get_errno())}")
        for name, entries in map_entries.items():
            found = self._library.bpf_object__find_map_by_name(handle, name.encode())
            if not found or self._library.bpf_map__set_max_entries(found, entries) != 0:
                raise EbpfUnavailableError(f"{path.name}: map {name} cannot have {entries} entries")
        for name, program in self._programs(handle):
            self._library.bpf_program__set_autoload(program, name not in left_out)
        return int(handle)

    def _attach_each(self, handle: int, left_out: set[str], failures: list[str]) -> LoadedObject:
        links = []
        for name, program in self._programs(handle):
            if name in left_out:
                continue
            self._lines.clear()
            link = self._library.bpf_program__attach(program)
            if link:
                # The object and its links are never destroyed, so the descriptors stay ours.
                links.append(int(self._library.bpf_link__fd(link)))
            else:
                failures.append(f"{name}: {self._explain(ctypes.get_errno())}")
        return LoadedObject(dict(self._maps(handle)), links, failures)

    def _programs(self, handle: int) -> Iterator[tuple[str, int]]:
        program = self._library.bpf_object__next_program(handle, None)
        while program:
            yield self._library.bpf_program__name(program).decode(), program
            program = self._library.bpf_object__next_program(handle, program)

    def _maps(self, handle: int) -> Iterator[tuple[str, int]]:
        found = self._library.bpf_object__next_map(handle, None)
        while found:
            yield self._library.bpf_map__name(found).decode(), self._library.bpf_map__fd(found)
            found = self._library.bpf_object__next_map(handle, found)

    def _culprit(self, candidates: set[str]) -> str | None:
        for line in reversed(self._lines):
            match = _PROGRAM_AT_FAULT.search(line)
            if match and match[1] in candidates:
                return match[1]
        return None

    def _explain(self, status: int) -> str:
        """The error's symbol and its cause: the verifier's last word, else libbpf's first."""
        code = abs(status)
        symbol = errno.errorcode.get(code, str(code))
        cause = next((line for line in self._lines if line.startswith(_VERIFIER)), "") or next(iter(self._lines), "")
        return f"{symbol}: {cause[:_MAX_CAUSE_CHARS]}" if cause else symbol

    def _print(self, level: int, form: int, arguments: int) -> int:
        """Take a line of libbpf's log. A va_list is, or decays to, a pointer on x86-64 and on arm64."""
        if level < _DEBUG and len(self._lines) < _MAX_LOG_LINES:
            buffer = ctypes.create_string_buffer(_MESSAGE_BYTES)
            _libc.vsnprintf(buffer, _MESSAGE_BYTES, form, arguments)
            text = buffer.value.decode("utf-8", "backslashreplace").strip()
            self._lines.append(_shortened(text.removeprefix("libbpf: ")))
        return 0

    def _declare(self) -> None:
        pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
        signatures: tuple[tuple[str, object, list[object]], ...] = (
            ("libbpf_set_print", pointer, [_PRINTER]),
            ("bpf_object__open_file", pointer, [text, pointer]),
            ("bpf_object__load", number, [pointer]),
            ("bpf_object__close", None, [pointer]),
            ("bpf_object__next_program", pointer, [pointer, pointer]),
            ("bpf_program__name", text, [pointer]),
            ("bpf_program__set_autoload", number, [pointer, ctypes.c_bool]),
            ("bpf_program__attach", pointer, [pointer]),
            ("bpf_link__fd", number, [pointer]),
            ("bpf_object__next_map", pointer, [pointer, pointer]),
            ("bpf_object__find_map_by_name", pointer, [pointer, text]),
            ("bpf_map__name", text, [pointer]),
            ("bpf_map__fd", number, [pointer]),
            ("bpf_map__set_max_entries", number, [pointer, ctypes.c_uint32]),
        )
        for name, result, arguments in signatures:
            function: Callable[..., object] = getattr(self._library, name)
            function.restype = result  # type: ignore[attr-defined]
            function.argtypes = arguments  # type: ignore[attr-defined]


def _shortened(text: str) -> str:
    """One line: of a verifier's log the last that is neither source nor statistics."""
    lines = text.splitlines()
    if "PROG LOAD LOG" not in text:
        return lines[0] if lines else ""
    said = [line for line in lines[1:] if line and not line.startswith((";", "--", "processed "))]
    return f"{_VERIFIER}{said[-1]}" if said else lines[0]


_DEBUG = 2
_PRINTER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.vsnprintf.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p]


def _extension_path() -> Path:
    """The extension module's file, found without importing its package."""
    with contextlib.suppress(ImportError, ValueError):
        package = importlib.util.find_spec("pylibbpf")
        for folder in (package.submodule_search_locations or ()) if package else ():
            for suffix in importlib.machinery.EXTENSION_SUFFIXES:
                path = Path(folder) / f"pylibbpf{suffix}"
                if path.is_file():
                    return path
    raise EbpfUnavailableError("pylibbpf is not installed: install microedr-agent[ebpf]")
