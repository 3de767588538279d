"""The kernel half and the decoder agree on every byte, and the same sources build the same objects anywhere."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from microedr.limits import MAX_ARGV_BYTES
from microedr_agent.sensor import layout
from microedr_agent.sensor.layout import Fields, Kind
from support.btf import Btf

BPF = Path(__file__).parents[3] / "agent" / "bpf"
PROBE = """
#include "events.h"
struct event_header header;
struct exec_event exec_;
struct fork_event fork_;
struct exit_event exit_;
struct net_event net_;
struct ledger ledger_;
enum event_kind kind;
enum event_flag flag;
"""


def compiled(source: str, folder: Path) -> Path:
    """Objects are built with clang, so it is there where these tests run: `make test` sees to it."""
    (folder / "probe.bpf.c").write_text(source)
    built = folder / "probe.bpf.o"
    command = ("clang", "-O2", "-g", "-target", "bpf", f"-I{BPF}", "-c", folder / "probe.bpf.c", "-o", built)
    subprocess.run(command, check=True)
    return built


@pytest.fixture(scope="module")
def treaty(tmp_path_factory: pytest.TempPathFactory) -> Btf:
    return Btf(compiled(PROBE, tmp_path_factory.mktemp("probe")))


@pytest.mark.parametrize(
    ("name", "own", "packed"),
    [
        ("exec_event", layout.EXEC_FIELDS, layout.EXEC),
        ("fork_event", layout.FORK_FIELDS, layout.FORK),
        ("exit_event", layout.EXIT_FIELDS, layout.EXIT),
        ("net_event", layout.NET_FIELDS, layout.NET),
    ],
)
def test_a_sample_is_the_same_on_both_sides(treaty: Btf, name: str, own: Fields, packed: struct.Struct) -> None:
    members = dict(treaty.members(name))
    header = members.pop("header")

    assert (header.offset_bytes, header.size_bytes) == (0, layout.HEADER.size)
    assert treaty.size(name) == layout.HEADER.size + packed.size
    assert places(own, layout.HEADER.size) == {
        member: (one.offset_bytes, one.size_bytes) for member, one in members.items()
    }


def test_the_header_is_the_same_on_both_sides(treaty: Btf) -> None:
    members = treaty.members("event_header")

    assert treaty.size("event_header") == layout.HEADER.size
    assert places(layout.HEADER_FIELDS, 0) == {
        member: (one.offset_bytes, one.size_bytes) for member, one in members.items()
    }


def places(fields: Fields, start: int) -> dict[str, tuple[int, int]]:
    """Where the decoder reads each field: its offset and size."""
    found, at = {}, start
    for name, code in fields:
        size = struct.calcsize(f"<{code}")
        found[name] = (at, size)
        at += size
    return found


def test_kinds_flags_and_counts_are_the_same_on_both_sides(treaty: Btf) -> None:
    kinds = dict(treaty.values("event_kind"))
    flags = treaty.values("event_flag")

    assert kinds.pop("EVENT_KINDS") == layout.EVENT_KINDS
    assert kinds == {f"EVENT_{kind.name}": kind.value for kind in Kind}
    assert {name: getattr(layout, name.removeprefix("FLAG_")) for name in flags} == flags
    assert treaty.size("ledger") == 2 * 8 * layout.EVENT_KINDS


def test_the_limit_of_arguments_is_the_contracts() -> None:
    assert f"#define ARGV_MAX_BYTES {MAX_ARGV_BYTES}\n" in (BPF / "events.h").read_text()


def test_the_same_sources_give_the_same_objects_anywhere(tmp_path: Path) -> None:
    built = []
    for name in ("one", "another/place"):
        folder = tmp_path / name
        shutil.copytree(BPF, folder)
        subprocess.run(["make", "-s", "-C", folder, f"OUT={folder}/out"], check=True)
        built.append({path.name: path.read_bytes() for path in (folder / "out").iterdir()})

    assert set(built[0]) == {"proc.bpf.o", "net.bpf.o"}
    assert built[0] == built[1]
    assert not any(str(tmp_path).encode() in content for content in built[0].values())


def test_a_build_with_nothing_to_do_does_nothing() -> None:
    done = subprocess.run(["make", "-C", BPF], check=True, capture_output=True, text=True)

    assert "clang" not in done.stdout
