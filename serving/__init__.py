"""Starts, supervises and talks to SGLang engines, and swaps their weights while they serve.

command, launch, guardian, engine_main, stand_ins   one engine's process
client, completion, router                          talking to one, and to many
engine, pool, publication, recovery                 which engines a run has, and their coming back
swapping/, transports/, weight_files                new weights (docs/hotswap.md)
memory                                              GPUs that engines and trainer take in turns
site                                                weights for a site far away

Only the engine process imports sglang. Everything here may import `sdpo_megatron.weights`,
`observability`, `fields`, `nouns`, `errors` and what is below them, nothing else of the package.
"""
