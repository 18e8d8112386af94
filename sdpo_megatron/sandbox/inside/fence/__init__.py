"""What keeps an attempt in: each layer of Linux, and the order in which a process puts them on.

    linux, calls            the system calls that Python's `os` lacks; calls put down in advance
    confine                 limits and all layers, put on by the process that becomes the attempt
    namespaces, uids        users, processes, network and mounts of its own; a block of user numbers
    view, folders           the root that it sees; where it may write when it has no root of its own
    landlock                files, once more, by path
    seccomp, syscall_rules, syscall_table   the system calls that are left
    cgroups                 memory, CPU and processes of the whole run

Imports the standard library alone; nothing here knows what an attempt is asked.
"""
