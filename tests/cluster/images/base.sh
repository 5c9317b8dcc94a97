#!/usr/bin/env bash
# base.sh NAME: a base image out of Debian's own packages, where no registry of images can be reached. Made once.
# Needs root, mmdebstrap and buildah; the machine's own package sources are used, and not kept in the image.
set -euo pipefail
name=${1:?usage: base.sh NAME}

if buildah inspect --type image "$name" > /dev/null 2>&1; then
    exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
echo "base: $name from Debian bookworm" >&2
mmdebstrap --quiet --mode=root --variant=minbase --include=python3,python3-venv,ca-certificates \
    --aptopt='Apt::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    bookworm "$folder/layer.tar"
printf 'FROM scratch\nADD layer.tar /\nENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nCMD ["python3"]\n' \
    > "$folder/Dockerfile"
buildah bud --quiet --layers=false --format docker --timestamp 1577836800 --tag "$name" "$folder" > /dev/null
