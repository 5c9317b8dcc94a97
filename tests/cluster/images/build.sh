#!/usr/bin/env bash
# build.sh: the images of the Dockerfile with buildah, together also in the OCI's layout in build/images/oci, where what
# they share is once: `tar -C build/images/oci -c . | ctr images import -`, or `podman pull oci:build/images/oci:NAME`.
# What has not changed since the last build is not made again.
#
#   BASE      the image to build on; localhost/serinus-base:bookworm is made here, out of Debian's packages
#   TAG       of the images: localhost/serinus-serving:TAG
#   TARGETS   which of them; `tiny` and `flights` are the pipeline's image with a project, and need that built; `stores`
#             is PostgreSQL, Redis, SeaweedFS and Prometheus, for trials where nothing can be pulled
#   LAYOUT    "no" leaves that out
#   CACHE     "no" makes everything again
set -euo pipefail
cd "$(dirname "$0")/../../.."
local_base=localhost/serinus-base:bookworm
base=${BASE:-docker.io/library/python:3.11-slim-bookworm}
tag=${TAG:-dev}

if [ "$base" = "$local_base" ]; then tests/cluster/images/base.sh "$base"; fi

# With --layers all stages share one cache. One time for all files: layers depend on their content alone.
options=(--layers --isolation chroot --format docker --timestamp 1577836800
    --build-arg "BASE=$base" --build-arg "REVISION=$(git rev-parse HEAD 2> /dev/null || echo unknown)")
if [ "${CACHE:-}" = no ]; then options+=(--no-cache); fi
if [ -n "${TORCH_INDEX:-}" ]; then options+=(--build-arg "TORCH_INDEX=$TORCH_INDEX"); fi
# A machine whose proxy has a certificate of its own lends its list, for the build alone.
trust=()
if [ -n "${SSL_CERT_FILE:-}" ]; then
    trust=(--volume /etc/ssl/certs:/etc/ssl/certs:ro --build-arg "SSL_CERT_FILE=$SSL_CERT_FILE")
fi

layout=build/images/oci
mkdir -p "$layout"
# buildah 1.28 cannot mount a stage that it took from its cache, but an image by the stage's name.
tools=localhost/serinus-tools:$tag
nice -n 10 buildah bud "${options[@]}" "${trust[@]}" --target tools --tag "$tools" . > build/images/tools.log 2>&1 || {
    tail -n 40 build/images/tools.log >&2
    exit 1
}
options+=(--build-context "tools=container-image://$tools")

targets=${TARGETS:-operator serving pipeline}
for target in $targets; do
    name=localhost/serinus-$target:$tag
    began=$SECONDS
    what=("${trust[@]}" --target "$target" .)
    if [ "$target" = tiny ]; then
        what=(--file tests/cluster/images/tiny.Dockerfile --build-arg "PIPELINE=localhost/serinus-pipeline:$tag" .)
    elif [ "$target" = flights ]; then
        what=("${trust[@]}" --build-arg "PIPELINE=localhost/serinus-pipeline:$tag" examples/flights)
    elif [ "$target" = stores ]; then
        mkdir -p build/images/stores
        programs=$(.venv/bin/python -c 'from tests.cluster.testbed.build import programs; print(programs("node"))')
        cp .venv/bin/weed "$programs/prometheus" build/images/stores/
        what=(--file tests/cluster/images/stores.Dockerfile build/images/stores)
    fi
    nice -n 10 buildah bud "${options[@]}" --tag "$name" "${what[@]}" > "build/images/$target.log" 2>&1 || {
        tail -n 40 "build/images/$target.log" >&2
        exit 1
    }
    echo "images: $name in $((SECONDS - began)) s" >&2
    if [ "${LAYOUT:-}" = no ]; then continue; fi
    # One with a project holds all of it, and clusters need no other.
    if [ "$target" = pipeline ] && [[ " $targets " =~ \ (tiny|flights)\  ]]; then continue; fi
    id=$(buildah inspect --type image --format '{{.FromImageID}}' "$name")
    if [ "$(cat "$layout.$target" 2> /dev/null)" = "$id" ]; then continue; fi
    began=$SECONDS
    nice -n 10 buildah push --quiet "$name" "oci:$layout:$name"
    echo "$id" > "$layout.$target"
    echo "images: $name in $layout, now $(du -sm "$layout" | cut -f 1) MB, in $((SECONDS - began)) s" >&2
done
