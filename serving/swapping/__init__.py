"""New weights for engines that serve (docs/hotswap.md).

hot_swap, settle, swap_target, swap_config    one engine's part of a swap; a quorum by a deadline
stage_sender, publication                     what the trainer sends; what is published
checksum, gpu_hash                            whether the weights are the right ones
"""
