"""The one mapping between Hugging Face checkpoints and Megatron parameters, and what reads it.

spec.py     config.json -> ModelSpec
mapping.py  which slices of which tensors make a parameter, under any layout
files.py    safetensors files: index and slices
load.py     files -> parameters
layout.py   where this rank stands, which parameters it holds
gather.py   parameters of all ranks -> tensors on rank 0, a layer at a time
export.py   the model as a Hugging Face folder
smollm2.py  a real model from a package registry

Imported by the actor and the loops. Imports megatron inside functions only, after
`actor.runtime.start_runtime`.
"""
