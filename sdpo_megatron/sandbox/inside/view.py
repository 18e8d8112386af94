"""The file system that a run can see: the standard library and the shared libraries it needs,
read-only, nothing else.

Built once per worker in a mount namespace of its own; the worker then pivots into it, so the host's
files are out of reach even for the worker. Each run copies the mount table (cheap) and puts an
empty tmpfs of its own over /tmp.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import sysconfig

from . import linux

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_LINKS = ("/lib", "/lib64")


def stdlib() -> str:
    """The standard library's directory."""
    return os.path.realpath(sysconfig.get_path("stdlib"))


def hidden() -> list[str]:
    """Directories in the standard library to hide: installed packages (they may hold tests)."""
    return [
        path
        for name in ("site-packages", "dist-packages")
        if os.path.isdir(path := f"{stdlib()}/{name}")
    ]


def libraries() -> list[str]:
    """Directories of shared libraries, and libraries elsewhere that this interpreter has mapped."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    wanted = (
        [f"/usr/lib/{multiarch}", f"/lib/{multiarch}", "/usr/lib64", "/lib64"]
        if multiarch
        else ["/usr/lib64", "/lib64"]
    )
    folders = sorted({os.path.realpath(path) for path in wanted if os.path.isdir(path)})
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        mapped = {line.split(None, 5)[5].strip() for line in file if ".so" in line}
    known = (*folders, stdlib())
    return folders + sorted(
        path
        for path in mapped
        if os.path.isfile(path) and not path.startswith(tuple(f"{k}/" for k in known))
    )


def readable(packages: tuple[str, ...], extra: tuple[str, ...] = ()) -> list[str]:
    """All host paths of the view.

    `packages` are import names whose folders (and bundled libraries) are added.
    """
    paths = [stdlib(), *libraries(), *extra]
    for name in packages:
        spec = importlib.util.find_spec(name.partition(".")[0])
        source = os.path.realpath((spec and spec.origin) or "")
        folder = (
            os.path.dirname(source) if os.path.basename(source).startswith("__init__.") else source
        )
        paths += [
            folder,
            *glob.glob(glob.escape(os.path.join(os.path.dirname(folder), name)) + ".libs"),
        ]
    paths += [path for path in ("/usr/share/zoneinfo", "/etc/ld.so.cache") if os.path.exists(path)]
    return list(dict.fromkeys(paths))


def enter(paths: list[str], keep_proc: bool) -> None:
    """Replaces this process's root by the view. Needs a mount namespace of its own and
    CAP_SYS_ADMIN in it.

    `keep_proc` binds the host's /proc too (bubblewrap needs one; it gives its children another).
    """
    linux.mount("none", "/", "none", linux.MS_REC | linux.MS_PRIVATE)
    sources = {
        path: os.open(path, os.O_PATH | os.O_CLOEXEC)
        for path in [*paths, *filter(os.path.exists, _DEVICES)]
    }
    is_folder = {path: os.path.isdir(path) for path in sources}
    masked = hidden()
    links = {path: os.readlink(path) for path in _LINKS if os.path.islink(path)}
    if keep_proc:
        sources["/proc"], is_folder["/proc"] = os.open("/proc", os.O_PATH | os.O_CLOEXEC), True
    base = "/tmp"
    linux.mount("tmpfs", base, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755,size=1m")
    for name in ("proc", "tmp", "dev", "oldroot"):
        os.mkdir(f"{base}/{name}")
    for path, fd in sources.items():
        _make_target(base + path, is_folder[path])
        linux.mount(f"/proc/self/fd/{fd}", base + path, "none", linux.MS_BIND | linux.MS_REC)
        os.close(fd)
    for path in masked:
        linux.mount(
            "tmpfs", base + path, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755,size=4k"
        )
    for path, target in links.items():
        if not os.path.lexists(base + path):
            os.symlink(target, base + path)
    linux.call("pivot_root", base.encode(), f"{base}/oldroot".encode())
    os.chdir("/")
    linux.call("umount2", b"/oldroot", linux.MNT_DETACH)
    os.rmdir("/oldroot")
    # No nodev here: it would make /dev/null unusable. Nothing in the view can create a device.
    linux.change_mount("/", add=linux.MS_RDONLY | linux.MS_NOSUID, recursive=True)
    if keep_proc:
        linux.change_mount("/proc", remove=linux.MS_RDONLY)


def _make_target(path: str, folder: bool) -> None:
    os.makedirs(path if folder else os.path.dirname(path), mode=0o755, exist_ok=True)
    if not folder and not os.path.exists(path):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def private_tmp(size_mib: int, uid: int, gid: int) -> None:
    """An empty tmpfs over /tmp, owned by the run; gone with its mount namespace."""
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount(
        "tmpfs",
        "/tmp",
        "tmpfs",
        flags,
        f"mode=700,size={size_mib}m,nr_inodes=2048,uid={uid},gid={gid}",
    )
