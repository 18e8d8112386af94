"""Layers of our own that complete Megatron's local layer spec where Transformer Engine is absent.

norm.py       RMSNorm that allows sequence parallelism
attention.py  core attention over packed sequences
rotary.py     rotary positions of packed sequences
activation.py SwiGLU
spec.py       which layers make a model: these on a CPU, Transformer Engine's on a GPU

spec.py imports megatron: start the runtime first. Used by actor.model.gpt and the runtime.
"""
