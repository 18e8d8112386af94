"""How new weights reach engines: three transports behind open / send / close.

transport.py      the interface, and which one `auto` is
distributed.py    a broadcast in a process group of sender and engine (NCCL; gloo on a CPU)
engine_group.py   that group's half in the trainer
tensor.py         memory that the engine maps (same machine; CUDA IPC on a GPU)
shared_memory.py  handles of such memory, as SGLang reads them
disk.py           a folder: for start, rejoin and remote sites
"""
