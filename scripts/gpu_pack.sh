#!/usr/bin/env bash
# Builds what `scripts/gpu_session.sh` runs on a machine that has a GPU but no compiler, and packs it:
#     scripts/gpu_pack.sh DEST [MODEL.gguf]
# DEST gets troupe.xz, t_slots.xz, t_device.xz and, of a model, pieces of at most PIECE bytes (default 24 MiB) called model.00, model.01, ..
# for whoever copies small files. `scripts/gpu_session.sh unpack` puts everything together again.
set -euo pipefail
cd "$(dirname "$0")/.."
dest=${1:?usage: scripts/gpu_pack.sh DEST [MODEL.gguf]}
mkdir -p "$dest"
dest=$(realpath "$dest")
model=${2:+$(realpath "$2")}
target=${CARGO_TARGET_DIR:-target}

# The program that `cargo test --no-run` says it has built for the test DEVICE.
test_program() {
    cargo test --release --locked "$@" --test device --no-run --message-format=json |
        python3 -c '
import json, sys
found = [m["executable"] for m in map(json.loads, sys.stdin) if m.get("executable") and m["target"]["name"] == "device"]
print(found[-1])'
}
pack() {
    local kept
    kept=$(mktemp)
    strip -o "$kept" "$1"
    chmod +x "$kept"
    xz -T0 -c "$kept" >"$dest/$2.xz"
    rm -f "$kept"
}

cargo build --release --locked -p actors --bin troupe --features cuda
pack "$target/release/troupe" troupe
program=$(test_program -p sandbox)
pack "$program" t_slots
program=$(test_program -p model --features cuda)
pack "$program" t_device
if [ -n "$model" ]; then
    rm -f "$dest"/model.*
    split -d -b "${PIECE:-25165824}" "$model" "$dest/model."
    basename "$model" >"$dest/model-name"
    (cd "$(dirname "$model")" && sha256sum "$(basename "$model")") >"$dest/model-sha256"
fi
git rev-parse HEAD >"$dest/commit"
ls -l "$dest"
