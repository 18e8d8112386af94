#!/usr/bin/env bash
# The images of `make cluster-test`: the Dockerfile's own, for CPUs, on a base that debootstrap makes instead of a registry's.
#
#   tests/cluster/images.sh FOLDER [verifier|trainer|prometheus ...]     leaves FOLDER/NAME.tar, docker archives; all three by default
#
# Packages come as they do here: what pip's configuration of this machine names is lent to the builds. Layers are kept, so
# that a change of the source alone takes seconds. Needs root, debootstrap, buildah, and for prometheus its binary.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:?"usage: images.sh FOLDER [NAME...]"}
shift
mkdir -p "$out"
export TMPDIR=/var/tmp BUILDAH_ISOLATION=chroot
tag=end-to-end base=localhost/sdpo-base:python-3.11
echo '{"default": [{"type": "insecureAcceptAnything"}]}' > "$out/policy.json"  # nothing is pulled
say() { printf 'images  %4d s  %s\n' "$SECONDS" "$*"; }

bud() { buildah bud --signature-policy "$out/policy.json" --layers --quiet --network host --format docker "$@" > /dev/null; }

# What the images are made from: where that has not changed, nothing is done. (buildah's own cache still reads gigabytes.)
of=$(find Dockerfile .dockerignore pyproject.toml requirements sdpo_megatron serving recipes scripts -type f ! -name '*.pyc' | sort | xargs sha256sum | sha256sum)

# push NAME: the image as an archive.
push() {
    rm -f "$out/$1.tar"
    buildah push --signature-policy "$out/policy.json" --quiet "localhost/$1:$tag" "docker-archive:$out/$1.tar:localhost/$1:$tag"
    echo "$of" > "$out/$1.of"
    say "$1: $(du -h "$out/$1.tar" | cut -f1)"
}

if [ -z "$(buildah images --quiet "$base" 2> /dev/null)" ]; then
    say "a Debian base"
    context=$(mktemp -d "$out/context.XXXX")
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$context/root" > "$out/debootstrap.log"
    rm -rf "$context"/root/var/cache/apt/* "$context"/root/var/lib/apt/lists/*
    tar -C "$context/root" -cf "$context/root.tar" . && rm -rf "$context/root"
    printf 'FROM scratch\nADD root.tar /\n' > "$context/Dockerfile"
    bud --tag "$base" "$context"
    rm -rf "$context"
fi

# What pip is told on this machine, by files or by its environment, and the folders that are named there.
{ echo "[global]"; python3 -m pip config list | sed -nE "s/^(global|install|:env:)\\.([a-z-]+)='(.*)'$/\\2 = \\3/p" | awk '!seen[$1]++'; } > "$out/pip.conf"
lent=(--volume "$(realpath "$out")/pip.conf:/etc/pip.conf:ro" --volume /etc/ssl/certs:/etc/ssl/certs:ro)
for path in $(grep -oE '(file://| )/[^ ]+' "$out/pip.conf" | sed -E 's#^(file://| )##; s#/simple$##' | sort -u); do
    [ ! -d "$path" ] || lent+=(--volume "$path:$path:ro")
done

of_dockerfile() { # NAME TARGET
    say "$1"
    bud --build-arg "BASE=$base" --build-arg DEVICE=cpu "${lent[@]}" --target "$2" --tag "localhost/$1:$tag" .
}

for name in ${*:-verifier trainer prometheus}; do
    [ "$of" != "$(cat "$out/sdpo-$name.of" 2> /dev/null)" ] || continue
    case $name in
        verifier) of_dockerfile sdpo-verifier verifier ;;
        trainer)
            of_dockerfile sdpo-trainer trainer
            of_dockerfile sdpo-serving serving  # the same layers; another entry point and health check
            ;;
        prometheus)
            context=$(mktemp -d "$out/context.XXXX")
            cp "$(command -v prometheus)" "$context/prometheus"
            printf 'FROM %s\nCOPY prometheus /usr/bin/prometheus\nRUN useradd --uid 10001 sdpo\nUSER 10001\n' "$base" > "$context/Dockerfile"
            bud --tag "localhost/sdpo-prometheus:$tag" "$context"
            rm -rf "$context"
            ;;
        *) echo "images.sh: got '$name', expected verifier, trainer or prometheus" >&2; exit 2 ;;
    esac
    push "sdpo-$name"
done
