"""The file system that a run can see: the standard library and the shared libraries it needs,
read-only, nothing else.

Built once per worker in a mount namespace of its own; the worker's template pivots into it, so the
host's files are out of reach even before a run is confined. Each run copies the mount table (cheap)
and puts an empty tmpfs of its own over /tmp.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import sysconfig

from . import linux
from .calls import Calls

# Not /dev/zero: mapped shared, it is memory that nobody counts.
_DEVICES = ("/dev/null", "/dev/full", "/dev/random", "/dev/urandom")
_LINKS = ("/lib", "/lib64")
_PACKAGE_FOLDERS = ("site-packages", "dist-packages")
# Where the new root is put together, before it becomes the root: any folder that is there.
_BASES = ("/tmp", "/mnt", "/srv", "/opt", "/home", "/var")


def stdlib() -> str:
    """The standard library's directory."""
    return os.path.realpath(sysconfig.get_path("stdlib"))


def hidden() -> list[str]:
    """Directories to hide in what the view holds: installed packages (they may hold tests) of this
    interpreter and of any other, also where they lie among the shared libraries."""
    return packages_below(stdlib(), library_folders())


def packages_below(own: str, folders: list[str]) -> list[str]:
    """The directories of packages in the standard library `own` and in library `folders`."""
    found = {f"{own}/{name}" for name in _PACKAGE_FOLDERS}
    for folder in folders:
        for pattern in ("python*", "pypy*"):
            found |= set(glob.glob(f"{glob.escape(folder)}/{pattern}"))
        for name in _PACKAGE_FOLDERS:
            for depth in ("", "*/", "*/*/"):
                found |= set(glob.glob(f"{glob.escape(folder)}/{depth}{name}"))
    found = {path for path in found if os.path.isdir(path) and not os.path.islink(path)}
    found = {path for path in found if not f"{own}/".startswith(f"{path}/")}
    return sorted(p for p in found if not any(p.startswith(f"{outer}/") for outer in found))


def without_packages(paths: tuple[str, ...]) -> list[str]:
    """`paths` for Landlock alone: it grants whole trees, so whatever holds a hidden directory goes
    in entry by entry."""
    masked, found, todo = set(hidden()), [], list(paths)
    for path in todo:
        if path in masked:
            continue
        if any(inner.startswith(f"{path}/") for inner in masked):
            todo += [entry.path for entry in os.scandir(path)]
        else:
            found.append(path)
    return found


def library_folders() -> list[str]:
    """Directories of shared libraries."""
    multiarch = sysconfig.get_config_var("MULTIARCH")
    wanted = [f"/usr/lib/{multiarch}", f"/lib/{multiarch}"] if multiarch else []
    wanted += ["/usr/lib64", "/lib64"]
    return sorted({os.path.realpath(path) for path in wanted if os.path.isdir(path)})


def libraries() -> list[str]:
    """Directories of shared libraries, and libraries elsewhere that this interpreter has mapped."""
    folders = library_folders()
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        mapped = {line.split(None, 5)[5].strip() for line in file if ".so" in line}
    known = (*folders, stdlib())
    return folders + sorted(
        path
        for path in mapped
        if os.path.isfile(path) and not path.startswith(tuple(f"{k}/" for k in known))
    )


def readable(packages: tuple[str, ...]) -> list[str]:
    """All host paths of the view.

    `packages` are import names whose folders (and bundled libraries) are added.
    """
    paths = [stdlib(), *libraries()]
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


def enter(paths: list[str]) -> None:
    """Replaces this process's root by the view. Needs a mount namespace of its own and
    CAP_SYS_ADMIN in it."""
    linux.mount("none", "/", "none", linux.MS_REC | linux.MS_PRIVATE)
    sources = {
        path: os.open(path, os.O_PATH | os.O_CLOEXEC)
        for path in [*paths, *filter(os.path.exists, _DEVICES)]
    }
    is_folder = {path: os.path.isdir(path) for path in sources}
    masked = hidden()
    links = {path: os.readlink(path) for path in _LINKS if os.path.islink(path)}
    base = next(path for path in _BASES if os.path.isdir(path))
    linux.mount("tmpfs", base, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755,size=1m")
    for name in ("proc", "tmp", "dev", "oldroot"):
        os.mkdir(f"{base}/{name}")
    inside_masked = {p for p in sources if any(p.startswith(f"{m}/") for m in masked)}
    for path in sources.keys() - inside_masked:
        _bind(sources[path], base + path, is_folder[path])
    for path in filter(os.path.isdir, (base + path for path in masked)):
        flags = linux.MS_NOSUID | linux.MS_NODEV
        linux.mount("tmpfs", path, "tmpfs", flags, "mode=755,size=64k")
    for path in inside_masked:  # packages that the config names
        _bind(sources[path], base + path, is_folder[path])
    for path, target in links.items():
        if not os.path.lexists(base + path):
            os.symlink(target, base + path)
    linux.call("pivot_root", base.encode(), f"{base}/oldroot".encode())
    os.chdir("/")
    linux.call("umount2", b"/oldroot", linux.MNT_DETACH)
    os.rmdir("/oldroot")
    # No nodev here: it would make /dev/null unusable. Nothing in the view can create a device.
    linux.change_mount("/", add=linux.MS_RDONLY | linux.MS_NOSUID, recursive=True)


def _bind(fd: int, target: str, folder: bool) -> None:
    os.makedirs(target if folder else os.path.dirname(target), mode=0o755, exist_ok=True)
    if not folder and not os.path.exists(target):
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    linux.mount(f"/proc/self/fd/{fd}", target, "none", linux.MS_BIND | linux.MS_REC)
    os.close(fd)


def private_tmp(calls: Calls, size_mib: int, uid: int) -> memoryview:
    """Adds an empty tmpfs over /tmp, owned by the run; gone with its mount namespace. Returns the
    place of its `ownership`, for that of another run."""
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    limits = b"mode=700,size=%dm,nr_inodes=2048," % size_mib
    kind, own = calls.hold(b"tmpfs"), ownership(uid)
    options, view = calls.hold_open(limits + own, len(limits + own) + 1)
    calls.add("mount", kind, calls.hold(b"/tmp"), kind, flags, options)
    return view[len(limits) : -1]


def ownership(uid: int) -> bytes:
    """Mount options, of always the same length, that give a file system to a user and its group."""
    return b"uid=0x%08x,gid=0x%08x" % (uid, uid)
