#!/bin/sh
# Adds packages to the environment /opt/serinus of an image, inside its build: image.sh TOOLS (-r FILE | --no-deps WHEEL)
#
# Every file is checked against its hash. With TORCH_INDEX the same version of PyTorch comes from that index instead,
# whose builds have other hashes and need no NVIDIA libraries. What was added, and nothing else, is compiled: by the
# source's content, not its time, as builders set all times to one, and an image that cannot be written would compile
# such a file again in each process.
set -eu
tools=$1
shift
target=/opt/serinus
uv() { "$tools/bin/uv" "$@"; }
export UV_PYTHON_DOWNLOADS=never UV_NO_CACHE=1
if [ -z "${SSL_CERT_FILE:-}" ]; then unset SSL_CERT_FILE; fi

began=$(mktemp)
if [ ! -e "$target/bin/python" ]; then
    uv venv --quiet --allow-existing --python "$(command -v python3)" "$target"
fi
if [ "$1" = -r ] && [ -n "${TORCH_INDEX:-}" ] && grep -q '^torch==' "$2"; then
    torch=$(sed -n 's/^\(torch==[^ ;]*\).*/\1/p' "$2")
    pins=$(mktemp)
    awk '/^[A-Za-z0-9]/ { keep = $0 !~ /^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==/ } keep || /^#/' "$2" > "$pins"
    uv pip install --quiet --python "$target" --no-deps --require-hashes -r "$pins"
    uv pip install --quiet --python "$target" --no-deps --index-url "$TORCH_INDEX" "$torch"
    rm "$pins"
elif [ "$1" = -r ]; then
    uv pip install --quiet --python "$target" --no-deps --require-hashes -r "$2"
else
    uv pip install --quiet --python "$target" --offline "$@"
fi

# Some packages carry templates and examples that are no Python: what does not compile is not imported either.
find "$target/lib" -name '*.py' -cnewer "$began" -print0 \
    | xargs -0 -r -n 1000 -P "$(nproc)" "$target/bin/python" -m compileall -qq --invalidation-mode unchecked-hash || true
rm "$began"
