"""How the kernel names a path to the sensor: from the root of its mounts, of which a chroot shows only the end."""

from microedr_agent.responder.kill import _is_below_a_chroot


def is_path(told: str, path: str) -> bool:
    """Whether ``told`` is ``path``; below a chroot, whether it ends with it."""
    return told == path or (_is_below_a_chroot() and told.endswith(path))
