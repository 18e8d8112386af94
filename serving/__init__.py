"""Starts, supervises and talks to SGLang engines, and swaps their weights while they serve.

command, launch, guardian, engine_main, stand_ins   one engine's process
client, completion, router, settle                  talking to one, and to many
engine, pool, publication, recovery                 which engines a run has, and their coming back
hot_swap, transports, stage_sender, swap_target     new weights (docs/hotswap.md)
checksum, gpu_hash, weight_files                    whether they are the right ones
delta, site                                         weights for a site far away

Only the engine process imports sglang. Everything here may import `sdpo_megatron.weights`,
`observability`, `fields`, `nouns`, `errors` and what is below them, nothing else of the package.
"""
