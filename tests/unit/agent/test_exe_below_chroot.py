"""Below a chroot the kernel and /proc name one executable by two paths; anywhere else a difference is a no."""

import pytest

from microedr.ids import process_key, process_uid
from microedr_agent.errors import ActionRefusedError
from microedr_agent.responder import kill
from microedr_agent.responder.action import ProcessTarget
from microedr_agent.responder.guardrails import ProcessFacts

KEY = process_key("host-a", "boot-1")
FACTS = ProcessFacts(pid=10, start_ticks=5, is_kernel_thread=False, exe="/usr/bin/miner")


def target(exe: str) -> ProcessTarget:
    return ProcessTarget(pid=10, process_uid=process_uid(KEY, 10, 50_000_000), start_boot_ns=50_000_000, exe=exe)


def test_a_longer_path_is_another_executable_outside_a_chroot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kill, "_is_below_a_chroot", lambda: False)

    with pytest.raises(ActionRefusedError):
        kill.require_same(FACTS, target("/srv/jail/usr/bin/miner"), KEY)


def test_the_end_of_the_path_is_enough_below_a_chroot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kill, "_is_below_a_chroot", lambda: True)

    kill.require_same(FACTS, target("/srv/jail/usr/bin/miner"), KEY)


@pytest.mark.parametrize("other", ["/srv/jail/usr/bin/minerd", "/usr/bin/shell", "xusr/bin/miner", "miner"])
def test_another_name_is_another_executable_below_a_chroot_too(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kill, "_is_below_a_chroot", lambda: True)

    with pytest.raises(ActionRefusedError):
        kill.require_same(FACTS, target(other), KEY)
