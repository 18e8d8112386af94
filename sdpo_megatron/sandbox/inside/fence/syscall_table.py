"""Which system calls a Python program needs, with their numbers: everything else is refused.

Left out on purpose, beside what is obviously privileged:

| calls | because |
| --- | --- |
| socket, bind, connect, setsockopt | no network; SO_SNDBUF is memory that nobody counts |
| sendmsg, recvmsg | descriptors in flight escape the limit on open files |
| execve, ptrace, process_vm_*, pidfd_*, kcmp, unshare, setns, mount | power over others |
| memfd_create, shmget and kin, mq_* | uncounted memory; channels between runs |
| io_uring, bpf, userfaultfd, keyctl, perf_event_open | large parts of the kernel |
| flock, mincore, get_robust_list, name_to_handle_at | shared files, the memory of others |
| splice, tee, vmsplice, copy_file_range, fallocate | past holes; blocks beyond RLIMIT_FSIZE |
| membarrier, sched_setscheduler, setpriority, mlock | interrupts, CPU and memory are shared |
| setuid and kin, personality, tkill | not needed |

`syscall_rules` says which arguments the others may have.
"""

from __future__ import annotations

_X86_64 = """
    read=0 write=1 open=2 close=3 stat=4 fstat=5 lstat=6 poll=7 lseek=8 mmap=9 mprotect=10
    munmap=11 brk=12 rt_sigaction=13 rt_sigprocmask=14 rt_sigreturn=15 pread64=17
    pwrite64=18 readv=19 writev=20 access=21 pipe=22 select=23 sched_yield=24 mremap=25
    msync=26 madvise=28 dup=32 dup2=33 pause=34 nanosleep=35 getitimer=36
    alarm=37 setitimer=38 getpid=39 sendfile=40 sendto=44 recvfrom=45
    shutdown=48 getsockname=51 getpeername=52 getsockopt=55 socketpair=53
    fork=57 vfork=58 exit=60 wait4=61 kill=62 uname=63 fcntl=72 fsync=74
    fdatasync=75 truncate=76 ftruncate=77 getdents=78 getdents64=217 getcwd=79 chdir=80
    fchdir=81 rename=82 mkdir=83 rmdir=84 creat=85 link=86 unlink=87 symlink=88 readlink=89
    chmod=90 fchmod=91 umask=95 gettimeofday=96 getrlimit=97 setrlimit=160 getrusage=98
    sysinfo=99 times=100 getuid=102 getgid=104 geteuid=107 getegid=108 getppid=110
    getpgrp=111 getpgid=121 setpgid=109 setsid=112 getsid=124 getgroups=115 getresuid=118
    getresgid=120 rt_sigpending=127 rt_sigtimedwait=128 rt_sigqueueinfo=129
    rt_sigsuspend=130 sigaltstack=131 utime=132 statfs=137 fstatfs=138 getpriority=140
    sched_getparam=143 sched_getscheduler=145 sched_get_priority_max=146
    sched_get_priority_min=147 sched_getaffinity=204 sched_setaffinity=203 prctl=157
    arch_prctl=158 gettid=186 time=201 futex=202 epoll_create=213
    epoll_create1=291 epoll_ctl=233 epoll_wait=232 epoll_pwait=281 set_tid_address=218
    restart_syscall=219 fadvise64=221 timer_create=222 timer_settime=223 timer_gettime=224
    timer_getoverrun=225 timer_delete=226 clock_gettime=228 clock_getres=229
    clock_nanosleep=230 exit_group=231 tgkill=234 utimes=235 waitid=247 openat=257
    mkdirat=258 newfstatat=262 unlinkat=263 renameat=264 renameat2=316 linkat=265
    symlinkat=266 readlinkat=267 fchmodat=268 faccessat=269 faccessat2=439 pselect6=270
    ppoll=271 set_robust_list=273 utimensat=280
    signalfd=282 signalfd4=289 timerfd_create=283 timerfd_settime=286 timerfd_gettime=287
    eventfd=284 eventfd2=290 dup3=292 pipe2=293 preadv=295 pwritev=296
    prlimit64=302 getrandom=318 rseq=334 statx=332 close_range=436
    getcpu=309 sched_getattr=315 clone=56 clone3=435 ioctl=16
"""

_AARCH64 = """
    read=63 write=64 close=57 fstat=80 lseek=62 mmap=222 mprotect=226 munmap=215 brk=214
    rt_sigaction=134 rt_sigprocmask=135 rt_sigreturn=139 pread64=67 pwrite64=68 readv=65
    writev=66 sched_yield=124 mremap=216 msync=227 madvise=233 dup=23
    nanosleep=101 getitimer=102 setitimer=103 getpid=172 sendfile=71 sendto=206 recvfrom=207
    shutdown=210 getsockname=204 getpeername=205 getsockopt=209
    socketpair=199 exit=93 wait4=260 kill=129 uname=160 fcntl=25
    fsync=82 fdatasync=83 truncate=45 ftruncate=46 getdents64=61 getcwd=17 chdir=49
    fchdir=50 fchmod=52 umask=166 gettimeofday=169 getrlimit=163 setrlimit=164 getrusage=165
    sysinfo=179 times=153 getuid=174 getgid=176 geteuid=175 getegid=177 getppid=173
    getpgid=155 setpgid=154 setsid=157 getsid=156 getgroups=158 getresuid=148 getresgid=150
    rt_sigpending=136 rt_sigtimedwait=137 rt_sigqueueinfo=138 rt_sigsuspend=133
    sigaltstack=132 statfs=43 fstatfs=44 getpriority=141 sched_getparam=121
    sched_getscheduler=120 sched_get_priority_max=125 sched_get_priority_min=126
    sched_getaffinity=123 sched_setaffinity=122 prctl=167 gettid=178 futex=98
    epoll_create1=20 epoll_ctl=21 epoll_pwait=22 set_tid_address=96 restart_syscall=128
    fadvise64=223 timer_create=107 timer_settime=110 timer_gettime=108 timer_getoverrun=109
    timer_delete=111 clock_gettime=113 clock_getres=114 clock_nanosleep=115 exit_group=94
    tgkill=131 waitid=95 openat=56 mkdirat=34 newfstatat=79 unlinkat=35 renameat=38
    renameat2=276 linkat=37 symlinkat=36 readlinkat=78 fchmodat=53 faccessat=48
    faccessat2=439 pselect6=72 ppoll=73 set_robust_list=99
    utimensat=88 signalfd4=74 timerfd_create=85 timerfd_settime=86 timerfd_gettime=87
    eventfd2=19 dup3=24 pipe2=59 preadv=69 pwritev=70 prlimit64=261
    getrandom=278 rseq=293 statx=291 close_range=436
    getcpu=168 sched_getattr=275 clone=220 clone3=435 ioctl=29
"""

# What the process that runs are cloned from needs besides; a second filter takes it away again.
_TEMPLATE = {
    "x86_64": """sendmsg=46 recvmsg=47 mount=165 sethostname=170 setgroups=116 setresuid=117
    setresgid=119 capset=126 seccomp=317 landlock_create_ruleset=444 landlock_add_rule=445
    landlock_restrict_self=446""",
    "aarch64": """sendmsg=211 recvmsg=212 mount=40 sethostname=161 setgroups=159 setresuid=147
    setresgid=149 capset=91 seccomp=277 landlock_create_ruleset=444 landlock_add_rule=445
    landlock_restrict_self=446""",
}

# name, AUDIT_ARCH value
_TABLES = {"x86_64": (_X86_64, 0xC000003E), "aarch64": (_AARCH64, 0xC00000B7)}


def table(machine: str) -> tuple[dict[str, int], int]:
    """Numbers by name, and the AUDIT_ARCH that seccomp reports, for "x86_64" or "aarch64".

    Raises:
        KeyError: `machine` is another.
    """
    text, arch = _TABLES[machine]
    return _parse(text), arch


def template_calls(machine: str) -> dict[str, int]:
    """Numbers by name of the calls that confining a fresh child takes."""
    return _parse(_TEMPLATE[machine])


def _parse(text: str) -> dict[str, int]:
    return {name: int(number) for name, number in (word.split("=") for word in text.split())}
