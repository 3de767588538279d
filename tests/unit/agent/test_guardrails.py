"""Guardrails hold against valid signatures."""

from dataclasses import replace

import pytest

from microedr_agent.responder.guardrails import Guardrails, ProcessFacts, without_deleted_mark

_RULES = Guardrails(own_pids={10, 11, 12}, protected=("/srv/db/bin/*", "nginx"))
_HARMLESS = ProcessFacts(pid=4242, start_ticks=5, is_kernel_thread=False, exe="/tmp/evil")


@pytest.mark.parametrize(
    ("process", "reason"),
    [
        pytest.param(_HARMLESS, None, id="harmless"),
        pytest.param(replace(_HARMLESS, pid=1), "pid_1", id="pid 1"),
        pytest.param(replace(_HARMLESS, is_kernel_thread=True, exe=""), "kernel_thread", id="kernel thread"),
        pytest.param(replace(_HARMLESS, pid=11), "own_process", id="ourselves"),
        pytest.param(replace(_HARMLESS, exe=""), "exe_unreadable", id="executable cannot be read"),
        pytest.param(replace(_HARMLESS, exe="/usr/sbin/sshd"), "protected", id="sshd"),
        pytest.param(replace(_HARMLESS, exe="/usr/lib/openssh/sshd-session"), "protected", id="sshd of a session"),
        pytest.param(replace(_HARMLESS, exe="/usr/lib/systemd/systemd-logind"), "protected", id="systemd's"),
        pytest.param(replace(_HARMLESS, exe="/usr/bin/containerd-shim-runc-v2"), "protected", id="container shim"),
        pytest.param(replace(_HARMLESS, exe="/usr/bin/kubelet"), "protected", id="kubelet"),
        pytest.param(replace(_HARMLESS, exe="/srv/db/bin/postgres"), "protected", id="listed path"),
        pytest.param(replace(_HARMLESS, exe="/usr/sbin/nginx"), "protected", id="listed name"),
        pytest.param(replace(_HARMLESS, exe="/tmp/sshd"), None, id="a protected name in a place anyone can write"),
        pytest.param(replace(_HARMLESS, exe="/tmp/nginx"), None, id="a listed name in a place anyone can write"),
        pytest.param(replace(_HARMLESS, exe="/usr/bin/mysshd"), None, id="a name that only ends so"),
    ],
)
def test_what_is_never_touched(process: ProcessFacts, reason: str | None) -> None:
    assert _RULES.forbids(process) == reason


def test_the_mark_of_a_deleted_file_is_no_part_of_its_path() -> None:
    assert without_deleted_mark("/usr/sbin/sshd (deleted)") == "/usr/sbin/sshd"
    assert without_deleted_mark("/tmp/a (deleted) b") == "/tmp/a (deleted) b"
