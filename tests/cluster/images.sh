#!/usr/bin/env bash
# The images of `make cluster-test`, without a registry: a Debian root that debootstrap makes, and this checkout's own packages.
#
#   tests/cluster/images.sh FOLDER      leaves FOLDER/sdpo-trainer.tar and FOLDER/sdpo-verifier.tar (docker archives)
#
# Not the Dockerfile: its base image is in a registry. Users, paths, entry points and environments are the same as there.
# Needs root, debootstrap, buildah, and .venv as `make setup-dev` leaves it. The root is made once.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:?"usage: images.sh FOLDER"}
mkdir -p "$out"
export TMPDIR=/var/tmp BUILDAH_ISOLATION=chroot
tag=end-to-end
policy=$out/policy.json
echo '{"default": [{"type": "insecureAcceptAnything"}]}' > "$policy"  # nothing is pulled
say() { printf 'images  %4d s  %s\n' "$SECONDS" "$*"; }

if [ ! -e "$out/root.tar" ]; then
    say "a Debian root"
    rm -rf "$out/root"
    debootstrap --variant=minbase --include=python3,tini,libnuma1,ca-certificates bookworm "$out/root" > "$out/debootstrap.log"
    rm -rf "$out"/root/var/cache/apt/* "$out"/root/var/lib/apt/lists/*
    tar -C "$out/root" -cf "$out/root.tar.part" . && mv "$out/root.tar.part" "$out/root.tar"
    rm -rf "$out/root"
fi

# image NAME PACKAGES FOLDERS...: the root, PACKAGES (a site-packages folder) and folders of this checkout.
image() {
    local name=$1 packages=$2; shift 2
    local of; of=$({ cat tests/cluster/images.sh requirements/*.txt; find "$@" -name '*.py' -o -name '*.yaml' -o -name '*.jsonl' | sort | xargs cat; } | sha256sum)
    [ "$of" != "$(cat "$out/$name.of" 2> /dev/null)" ] || return 0
    local context; context=$(mktemp -d "$out/context.XXXX")
    ln "$out/root.tar" "$context/root.tar"
    mkdir "$context/source"
    cp -r "$@" "$context/source/"
    cp -rl "$packages" "$context/packages"
    rm -rf "$context"/packages/__editable__*
    cat > "$context/Dockerfile" <<'DOCKERFILE'
FROM scratch
ADD root.tar /
RUN ln -s python3 /usr/bin/python \
 && printf '#!/bin/sh\nexec python3 -m sdpo_megatron.cli "$@"\n' > /usr/local/bin/sdpo && chmod 755 /usr/local/bin/sdpo \
 && useradd --uid 10001 --create-home sdpo
COPY packages /opt/sdpo/packages
COPY source /opt/sdpo/source
ENV PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 PATH=/usr/local/bin:/usr/bin:/bin PYTHONPATH=/opt/sdpo/source:/opt/sdpo/packages
RUN python3 -m compileall -q /opt/sdpo/source
USER 10001
WORKDIR /tmp
ENTRYPOINT ["tini", "--", "sdpo"]
DOCKERFILE
    buildah bud --signature-policy "$policy" --quiet --network none --ignorefile /dev/null --format docker -t "localhost/$name:$tag" "$context" > /dev/null
    rm -rf "$context" "$out/$name.tar"
    buildah push --signature-policy "$policy" --quiet "localhost/$name:$tag" "docker-archive:$out/$name.tar:localhost/$name:$tag"
    echo "$of" > "$out/$name.of"
    say "$name: $(du -h "$out/$name.tar" | cut -f1)"
}

say "verifier"
if [ ! -e "$out/verifier-packages/.done" ] || ! cmp -s requirements/verifier.txt "$out/verifier-packages/.done"; then
    rm -rf "$out/verifier-packages"
    .venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --target "$out/verifier-packages" -r requirements/verifier.txt
    cp requirements/verifier.txt "$out/verifier-packages/.done"
fi
image sdpo-verifier "$out/verifier-packages" sdpo_megatron serving
say "trainer"
image sdpo-trainer .venv/lib/python3.11/site-packages sdpo_megatron serving
