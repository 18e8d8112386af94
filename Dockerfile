# The images. Each runs as an ordinary user, with a root that may be read-only (HOME and TMPDIR must then be writable).
#
#   docker build --target trainer -t sdpo-trainer:0.1.0 .      trainer ranks: Megatron-core, Transformer Engine
#   docker build --target serving -t sdpo-serving:0.1.0 .      one SGLang engine
#   docker build --target verifier -t sdpo-verifier:0.1.0 .    verifiers as a service, or over files: small, without torch
#
# Trainer and engines are built for NVIDIA GPUs; with --build-arg DEVICE=cpu for CPUs, the environment of `make quickstart`:
#
#   docker build --target trainer --build-arg DEVICE=cpu -t sdpo-trainer:cpu .
#   docker run --rm --shm-size=2g sdpo-trainer:cpu train experiment=quickstart
#
# --build-arg COMMIT=$(git rev-parse HEAD) tells runs, and the series sdpo_build_info, what they were made from.
#
# Verifiers confine untrusted programs with Landlock and seccomp, which need no privilege; with user namespaces as well
# where the container runtime lets them (`sdpo doctor` says which layers are there).

ARG DEVICE=gpu
# By a digest of yours where images must not change: --build-arg BASE=python@sha256:...
ARG BASE=python:3.11.13-slim-bookworm

FROM ${BASE} AS base
# It reaps what is left by processes that have ended, and hands SIGTERM on.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends tini \
 && rm -rf /var/lib/apt/lists/*
ENV PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    PATH=/opt/sdpo/.venv/bin:$PATH
WORKDIR /opt/sdpo

# --- the pinned CPU environment
FROM base AS cpu-build
COPY pyproject.toml .
COPY requirements requirements
# Packages come before the source, in a layer that a change of the source leaves alone: for now our own are empty.
# Bytecode is made at once: the user of the image cannot write it. A few packages carry templates that do not compile.
RUN --mount=type=cache,target=/root/.cache/pip \
    mkdir sdpo_megatron serving recipes && touch README.md sdpo_megatron/__init__.py serving/__init__.py recipes/__init__.py \
 && requirements/install.sh cpu \
 && { .venv/bin/python -m compileall -q -j 0 .venv/lib || true; }

# --- what verifiers need, and no more
FROM base AS verifier-build
COPY pyproject.toml .
COPY requirements requirements
RUN --mount=type=cache,target=/root/.cache/pip \
    mkdir sdpo_megatron serving recipes && touch README.md sdpo_megatron/__init__.py serving/__init__.py recipes/__init__.py \
 && requirements/install.sh verifier \
 && .venv/bin/python -m pip uninstall --quiet --yes pip setuptools \
 && { .venv/bin/python -m compileall -q -j 0 .venv/lib || true; }

# --- the GPU environment: Transformer Engine's torch part is compiled, so its stage needs a compiler and CUDA's
FROM nvidia/cuda:13.0.2-cudnn-devel-ubuntu22.04 AS cuda
FROM python:3.11.13-bookworm AS gpu-build
COPY --from=cuda /usr/local/cuda /usr/local/cuda
ENV CUDA_HOME=/usr/local/cuda PATH=/usr/local/cuda/bin:$PATH
WORKDIR /opt/sdpo
RUN python -m venv .venv
COPY pyproject.toml .
COPY requirements requirements
RUN mkdir sdpo_megatron serving recipes && touch README.md sdpo_megatron/__init__.py serving/__init__.py recipes/__init__.py
# torch first: Transformer Engine's build imports it, and finds cudnn.h and nccl.h in the packages that torch brought.
ENV CPATH=/opt/sdpo/.venv/lib/python3.11/site-packages/nvidia/cudnn/include:/opt/sdpo/.venv/lib/python3.11/site-packages/nvidia/nccl/include
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/root/.cache/pip \
    .venv/bin/pip install -c requirements/gpu.txt torch "setuptools>=77" ninja pybind11 \
 && .venv/bin/pip install -c requirements/gpu.txt --no-build-isolation -e ".[gpu,verifier,recipes]" \
 && { .venv/bin/python -m compileall -q -j 0 .venv/lib || true; }

# --- the source: a layer of its own in each image, the last one, so that a new version travels without the packages
FROM base AS source
COPY . .
RUN python3 -m compileall -q -j 0 sdpo_megatron serving recipes

# --- what runs
FROM base AS runtime
RUN useradd --uid 10001 --create-home sdpo
WORKDIR /work
RUN chown sdpo /work
USER 10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--", "sdpo"]
CMD ["doctor"]

FROM runtime AS cpu
USER 0
# What torch and SGLang load at run time.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends libnuma1 \
 && rm -rf /var/lib/apt/lists/*
USER 10001
COPY --from=cpu-build /opt/sdpo/.venv /opt/sdpo/.venv
COPY --from=source /opt/sdpo /opt/sdpo

FROM runtime AS gpu
USER 0
# What NCCL and SGLang load at run time. Triton, SGLang and FlashInfer compile kernels while they run: a C++ compiler, ninja
# and a whole toolkit. The pieces of CUDA that packages bring are of several versions and lack nvcc's own; CUDA_HOME
# decides for one.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends libnuma1 libibverbs1 librdmacm1 g++ ninja-build \
 && rm -rf /var/lib/apt/lists/*
COPY --from=cuda /usr/local/cuda /usr/local/cuda
ENV CUDA_HOME=/usr/local/cuda \
    PATH=/opt/sdpo/.venv/bin:/usr/local/cuda/bin:$PATH
COPY --from=gpu-build /opt/sdpo/.venv /opt/sdpo/.venv
COPY --from=source /opt/sdpo /opt/sdpo
USER 10001

# --- the images themselves
# hadolint ignore=DL3006
FROM ${DEVICE} AS trainer
ARG COMMIT=""
ENV SDPO_GIT_COMMIT=$COMMIT
# Prometheus metrics of rank 0. A run may load its model and wait for engines before it has any.
EXPOSE 9400
HEALTHCHECK --start-period=15m --interval=30s --timeout=5s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9400/metrics', timeout=4)"]

# hadolint ignore=DL3006
FROM ${DEVICE} AS serving
ARG COMMIT=""
ENV SDPO_GIT_COMMIT=$COMMIT
EXPOSE 30000
HEALTHCHECK --start-period=10m --interval=30s --timeout=5s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:30000/model_info', timeout=4)"]
ENTRYPOINT ["tini", "--", "python", "-m", "serving.engine_main"]
CMD ["--help"]

FROM runtime AS verifier
COPY --from=verifier-build /opt/sdpo/.venv /opt/sdpo/.venv
# The settings of engines are part of a configuration; no engine is.
COPY --from=source /opt/sdpo/sdpo_megatron /opt/sdpo/sdpo_megatron
COPY --from=source /opt/sdpo/serving /opt/sdpo/serving
ARG COMMIT=""
ENV SDPO_GIT_COMMIT=$COMMIT
EXPOSE 9401
HEALTHCHECK --start-period=10s --interval=10s --timeout=5s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9401/healthz', timeout=4)"]
CMD ["verify", "serve"]
