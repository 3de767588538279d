"""A hook that this kernel lacks costs one kind of event and is reported; without any there is a reason."""

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest

from microedr_agent.errors import EbpfUnavailableError
from microedr_agent.sensor import loader
from microedr_agent.sensor.libbpf import Libbpf, LoadedObject
from support.eyes import require_root

pytestmark = pytest.mark.root
HEAD = """
#include "common.h"
#include <bpf/bpf_tracing.h>
"""
GOOD = """
SEC("tp_btf/sched_process_fork")
int BPF_PROG(good, struct task_struct *parent) { return 0; }
"""
NO_SUCH_HOOK = """
SEC("tp_btf/no_such_hook")
int BPF_PROG(hookless, void *nothing) { return 0; }
"""
NO_SUCH_CALL = """
SEC("tracepoint/syscalls/sys_exit_no_such_call")
int callless(void *record) { return 0; }
"""
REJECTED = """
SEC("tp_btf/sched_process_exit")
int BPF_PROG(rejected, struct task_struct *task) { return *(volatile int *)((u64)task + (1 << 20)); }
"""


def load(folder: Path, *programs: str) -> LoadedObject:
    """Compile these programs into one object and load it into the kernel."""
    require_root()
    source, built = folder / "test.bpf.c", folder / "test.bpf.o"
    source.write_text(HEAD + "".join(programs))
    headers = Path(__file__).parents[2] / "agent" / "bpf"
    flags = ("-O2", "-g", "-target", "bpf", "-mcpu=v3", f"-I{headers}")
    subprocess.run(["clang", *flags, "-c", source, "-o", built], check=True)
    loaded = Libbpf().load(built, {})
    for fd in (*loaded.links, *loaded.maps.values()):
        os.close(fd)
    return loaded


@pytest.mark.parametrize(
    ("bad", "name", "reason"),
    [
        pytest.param(NO_SUCH_HOOK, "hookless", "no_such_hook", id="no such tracepoint in the kernel's types"),
        pytest.param(NO_SUCH_CALL, "callless", "ENOENT", id="no such system call"),
        pytest.param(REJECTED, "rejected", "verifier", id="refused by the verifier"),
    ],
)
def test_one_bad_program_is_reported_and_the_others_run(tmp_path: Path, bad: str, name: str, reason: str) -> None:
    loaded = load(tmp_path, GOOD, bad)

    assert len(loaded.links) == 1
    assert len(loaded.failures) == 1
    assert loaded.failures[0].startswith(f"{name}: ")
    assert reason in loaded.failures[0]


def test_several_bad_programs_are_all_reported(tmp_path: Path) -> None:
    loaded = load(tmp_path, REJECTED, NO_SUCH_HOOK, NO_SUCH_CALL, GOOD)

    assert len(loaded.links) == 1
    assert {failure.partition(":")[0] for failure in loaded.failures} == {"hookless", "callless", "rejected"}


def test_a_missing_object_says_how_to_build_it(tmp_path: Path) -> None:
    with pytest.raises(EbpfUnavailableError, match="make -C agent/bpf"):
        Libbpf().load(tmp_path / "none.bpf.o", {})


def test_a_file_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.bpf.o").write_bytes(b"not an object")

    with pytest.raises(EbpfUnavailableError, match=r"bad\.bpf\.o did not open"):
        Libbpf().load(tmp_path / "bad.bpf.o", {})


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)

    with pytest.raises(EbpfUnavailableError, match=r"microedr-agent\[ebpf\]"):
        Libbpf()


def test_without_kernel_types_the_error_names_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    require_root()
    monkeypatch.setattr(loader, "_KERNEL_TYPES", tmp_path / "none")

    with pytest.raises(EbpfUnavailableError, match="CONFIG_DEBUG_INFO_BTF"):
        loader.load_probes({"proc": 65536})


def test_a_loader_that_dies_is_an_error_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    require_root()
    monkeypatch.setattr(loader, "_load_all", lambda _sizes: os._exit(1))

    with pytest.raises(EbpfUnavailableError, match="ended before it was done"):
        loader.load_probes({"proc": 65536})


def test_not_root_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(EbpfUnavailableError, match="not root"):
        loader.load_probes({"proc": 65536})
