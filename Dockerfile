# The trainer's image.
#
#   docker build --target gpu -t sdpo-megatron .         NVIDIA GPUs: CUDA torch, SGLang, Transformer Engine
#   docker build --target cpu -t sdpo-megatron:cpu .     the pinned environment of `make quickstart`
#   docker run --rm --shm-size=2g sdpo-megatron:cpu train experiment=quickstart
#
# Verifiers confine untrusted programs with Landlock and seccomp, which need no privilege; with user namespaces as well
# where the container runtime lets them (`sdpo doctor` says which layers are there).

FROM python:3.11-slim-bookworm AS base
# tini reaps the engines' helpers and hands SIGTERM on; the others are what NCCL and SGLang load at run time.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends tini libnuma1 libibverbs1 librdmacm1 \
 && rm -rf /var/lib/apt/lists/*
ENV PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    PATH=/opt/sdpo/.venv/bin:$PATH
WORKDIR /opt/sdpo

# --- the pinned CPU environment
FROM base AS cpu-build
COPY . .
# Bytecode is made now: the user of the image cannot write it. A few packages carry templates that do not compile.
RUN --mount=type=cache,target=/root/.cache/pip requirements/install.sh cpu \
 && { .venv/bin/python -m compileall -q -j 0 .venv/lib sdpo_megatron serving || true; }

# --- the GPU environment: Transformer Engine's torch part is compiled, so its stage needs a compiler and CUDA's
FROM nvidia/cuda:13.0.2-cudnn-devel-ubuntu22.04 AS cuda
FROM python:3.11-bookworm AS gpu-build
COPY --from=cuda /usr/local/cuda /usr/local/cuda
ENV CUDA_HOME=/usr/local/cuda PATH=/usr/local/cuda/bin:$PATH
WORKDIR /opt/sdpo
RUN python -m venv .venv
COPY . .
# torch first: Transformer Engine's build imports it, and finds cudnn.h and nccl.h in the packages that torch brought.
ENV CPATH=/opt/sdpo/.venv/lib/python3.11/site-packages/nvidia/cudnn/include:/opt/sdpo/.venv/lib/python3.11/site-packages/nvidia/nccl/include
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/root/.cache/pip \
    .venv/bin/pip install -c requirements/gpu.txt torch "setuptools>=77" ninja pybind11 \
 && .venv/bin/pip install -c requirements/gpu.txt --no-build-isolation -e ".[gpu,verifier,recipes]"

# --- what runs
FROM base AS runtime
ARG COMMIT=""
ENV SDPO_GIT_COMMIT=$COMMIT
RUN useradd --uid 10001 --create-home sdpo
WORKDIR /work
RUN chown sdpo /work
USER 10001
# Prometheus metrics of rank 0; verifier service.
EXPOSE 9400 9401
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--", "sdpo"]
CMD ["doctor"]

FROM runtime AS cpu
COPY --from=cpu-build /opt/sdpo /opt/sdpo

FROM runtime AS gpu
USER 0
# Triton, SGLang and FlashInfer compile kernels while they run: a C++ compiler, ninja and a whole toolkit. The pieces of
# CUDA that packages bring are of several versions and lack nvcc's own; CUDA_HOME decides for one.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ ninja-build \
 && rm -rf /var/lib/apt/lists/*
COPY --from=cuda /usr/local/cuda /usr/local/cuda
ENV CUDA_HOME=/usr/local/cuda \
    PATH=/opt/sdpo/.venv/bin:/usr/local/cuda/bin:$PATH
COPY --from=gpu-build /opt/sdpo /opt/sdpo
USER 10001
