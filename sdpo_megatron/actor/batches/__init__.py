"""From attempts to micro-batches, and from micro-batches to the numbers of the loss.

table               the samples of a batch as columns of lengths and weights
composition         which of them make one optimiser step
packing             samples -> packed micro-batches, balanced over data-parallel ranks
plan                all of that, once for all ranks, on lengths alone
counts, share       what a rank is told: the global sums, and its own places or samples
minibatch           a rank's share of an optimiser step, packed for each role
context_parallel    cutting packed sequences over ranks, and putting responses together
batch_loss          masks, weights and denominators, on the way to `objectives`
"""
