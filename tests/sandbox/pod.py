"""A place like a restricted pod, as far as this machine can be one: a root that is read-only, no
namespaces, an ordinary user. The container runtime and its cgroup are not there.
"""

from __future__ import annotations

import ctypes

from sdpo_megatron.sandbox.inside.fence import linux, seccomp
from sdpo_megatron.sandbox.inside.fence.syscall_rules import Test

PLACES = ("pod", "pod without /dev/shm")
MINIMUM = ("landlock", "seccomp", "rlimits", "accounting")
_REFUSED = {"x86_64": (272, 308, 165, 166, 155, 442), "aarch64": (97, 268, 40, 39, 41, 442)}
_CLONE, _CLONE3 = {"x86_64": 56, "aarch64": 220}, 435
_NEW_NAMESPACES = 0x7E020000


def enter(place: str) -> None:
    """Makes every mount read-only, in a mount namespace of our own; /dev/shm is writable unless
    the place has none."""
    linux.call("unshare", linux.NAMESPACES["mount"])
    linux.mount("none", "/", "none", linux.MS_REC | linux.MS_PRIVATE)
    linux.change_mount("/", add=linux.MS_RDONLY, recursive=True)
    if place == "pod":
        flags = linux.MS_NOSUID | linux.MS_NODEV
        linux.mount("tmpfs", "/dev/shm", "tmpfs", flags, "mode=1777,size=64m")


def refuse_namespaces() -> None:
    """What the default seccomp profiles of container runtimes refuse and the sandbox would use."""
    blocks = dict.fromkeys(_REFUSED[linux.MACHINE], seccomp._REFUSE)
    blocks[_CLONE[linux.MACHINE]] = seccomp._rule((Test(0, (0,), mask=_NEW_NAMESPACES),))
    blocks[_CLONE3] = seccomp._answer(seccomp._ERRNO | seccomp._ENOSYS)
    tree = seccomp._tree(seccomp._intervals(blocks, seccomp._ALLOW))
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.install(b"".join([seccomp._op(seccomp._LOAD, seccomp._NUMBER_AT), *tree]))
    assert ctypes.CDLL(None).unshare(_NEW_NAMESPACES) == -1
