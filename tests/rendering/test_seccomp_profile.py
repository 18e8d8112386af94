"""The node's seccomp profile of the component user-namespaces lets the sandbox do what it must."""

from __future__ import annotations

import json

import pytest

from sdpo_megatron.rendering.committed import K8S
from sdpo_megatron.sandbox.inside.fence import linux
from sdpo_megatron.sandbox.inside.fence.syscall_table import table

PROFILE = json.loads((K8S / "components/user-namespaces/sdpo-verifier.json").read_text())
ALLOWED = {name for group in PROFILE["syscalls"] for name in group["names"]}


def test_everything_but_a_list_is_refused() -> None:
    assert PROFILE["defaultAction"] == "SCMP_ACT_ERRNO"
    assert {group["action"] for group in PROFILE["syscalls"]} == {"SCMP_ACT_ALLOW"}
    assert all("args" not in group for group in PROFILE["syscalls"])


def test_the_sandbox_can_build_its_layers() -> None:
    """Namespaces, mounts, Landlock, seccomp: whatever it calls by number."""
    assert linux._NUMBERS.keys() <= ALLOWED


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_programs_lose_nothing_that_the_sandbox_allows(machine: str) -> None:
    assert table(machine)[0].keys() <= ALLOWED


@pytest.mark.parametrize(
    "name",
    [
        "bpf", "perf_event_open", "keyctl", "add_key", "request_key", "userfaultfd", "init_module",
        "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon",
        "io_uring_setup", "open_by_handle_at", "acct", "chroot", "settimeofday",
    ],
)  # fmt: skip
def test_what_a_container_is_refused_stays_refused(name: str) -> None:
    assert name not in ALLOWED
