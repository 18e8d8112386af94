"""The passes over a chunk of logits as Triton kernels, for CUDA; `passes.TorchPasses` is their
reference.

    scan        maximum, sum and entropy terms of each block of 32 logits, in one read of them
    join        blocks -> rows: what is outside the support
    gradient    the logits' gradient, written in the dtype that the products take

Imported on a CUDA device alone (and by the tests in Triton's interpreter): nothing else of the
package needs Triton.
"""

from sdpo_megatron.objectives.fused.kernels.passes import TritonPasses

__all__ = ["TritonPasses"]
