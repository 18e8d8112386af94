"""Hydra configuration groups: every key is a field of a dataclass beside its component.

`train.yaml` is where composing starts.
"""
