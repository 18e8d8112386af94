"""What SGLang imports but a CPU cannot have, seen by the engine process only.

`serving.engine_main` puts this folder at the front of the engine's ``sys.path``, and only when the
device is a CPU: on a GPU machine these modules would shadow the real ones. No other process ever
sees it.

    triton/         kernels can be defined, none can be run
    torchvision/    names only; image models are not served
    sgl_kernel/     the two compiled CPU helpers that a text model reaches, in torch
    engine_models/  the model families to register, so that start-up does not import all of SGLang's
    placeholder.py  the module that stands in
    cpu_patches.py  what has to change inside SGLang itself
    fp8_products.py products of block-wise FP8 matrices, without AMX
"""
