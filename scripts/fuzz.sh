#!/usr/bin/env bash
# Fuzzes the reader of answers, the linter, and what the cluster reads from others: scripts/fuzz.sh [SECONDS a target] [TARGET..]
# TROUPE_FUZZ_SEEDS names one more folder of Python files to start from.
# Without a nightly compiler or cargo-fuzz it says so and does nothing. Findings stay in fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds="${1:-30}"
[[ "$seconds" =~ ^[0-9]+$ ]] || { echo "usage: scripts/fuzz.sh [SECONDS] [TARGET..]" >&2; exit 2; }
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(extract lint lint_with_task wire roster side_channel)

skip() { echo "fuzzing skipped: $1"; exit 0; }
cargo +nightly --version >/dev/null 2>&1 || skip "no nightly compiler (rustup toolchain install nightly)"
cargo fuzz --version >/dev/null 2>&1 || skip "no cargo-fuzz (cargo install cargo-fuzz --locked)"
echo "$(cargo +nightly --version), $(cargo fuzz --version), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"

# What is known to be interesting: the linter's fixtures, the hacks and honest kernels of the verifier's corpus, worked
# answers. A seed of `lint_with_task` is a candidate, a line of #, and a task.
seeds=$(mktemp -d)
trap 'rm -rf "$seeds"' EXIT
mkdir -p "$seeds/extract" "$seeds/lint" "$seeds/lint_with_task" "$seeds/tasks"
count=0
programs() {
    folders=(reward/tests/fixtures)
    for folder in tests/exploits ${TROUPE_FUZZ_SEEDS:-}; do
        [ ! -d "$folder" ] || folders+=("$folder")
    done
    find tasks "${folders[@]}" -path '*tasks*' -name '*.py' -exec cp -t "$seeds/tasks" {} +
    answer() { printf 'Plan.\n</think>\n```python\n'; cat "$1"; printf '\n```\n'; }
    while IFS= read -r file; do
        count=$((count + 1))
        cp "$file" "$seeds/lint/$count.py"
        answer "$file" > "$seeds/extract/$count.md"
        task=$(sed -n '1,6s/^# task: *//p' "$file" | head -n 1)
        [ -f "$seeds/tasks/$task.py" ] || task=l1_amax_all_5x24
        { cat "$file"; printf '\n####\n'; cat "$seeds/tasks/$task.py"; } > "$seeds/lint_with_task/$count.py"
    done < <(find "${folders[@]}" -name '*.py' -size -16k | sort -u)
    for file in tasks/examples/*0.md; do
        count=$((count + 1))
        [ $((count % 10)) -eq 0 ] || continue
        cp "$file" "$seeds/extract/$count.md"
        name=$(basename "$file" .md)
        task="$seeds/tasks/${name%__*}.py"
        { sed '1,/^```python/d;/^```$/d' "$file"; printf '\n####\n'; [ ! -f "$task" ] || cat "$task"; } \
            > "$seeds/lint_with_task/$count.py"
    done
}
# A target of the cluster needs none of them.
case "${targets[*]}" in *extract* | *lint*) programs ;; esac

# Messages of the cluster: a header (magic, protocol, sender, epoch), the codec's version, then each kind once. A version that has moved on
# makes them seeds of refusals.
mkdir -p "$seeds/wire" "$seeds/roster" "$seeds/side_channel"
ones() { printf '\x01%.0s' $(seq "$1"); }
message() { { printf 'TRPE\x02\x00'; ones 24; printf '\x05'; printf "$2"; } > "$seeds/wire/$1"; }
message hello '\x00\x00\x01n\x010\x01h\x01\x04none'
message ready '\x01\x08'
message pong '\x03\x03\x01\x02\x03'
message done_here '\x04\x07\x00\x00\x02{}'
message done_blob '\x04\x07\x00\x01\x02aa\x09'
message done_fault '\x04\x07\x01\x04F107\x00'
message leaving '\x05'
message adopted '\x02\x07\x00'
message list '\x06\x00'
message drain '\x07\x01n'
message errand '\x03\x01\x02\x03\x01t\x00\x05hello'
message dismiss '\x04\x01'
message draining '\x06\x00\x01\x01n'
# A life: hello, ready, errands, a pong, answers, silence, a second life; and a frame within it.
printf '\x00\x01\x01\x09\x03\x01\x03\x02\x02\x01\x05\x20\x04\x05\x04\x09\x05\xff\x00\x01\x06\x01' > "$seeds/roster/life"
{ printf '\x00\x01\x01\x05\x03\x01\x07\x23'; cat "$seeds/wire/leaving"; printf '\x05\x70'; } > "$seeds/roster/frame"
request() { printf '%b' "$2" > "$seeds/side_channel/$1"; }
request get 'GET /blob/{BLOB} HTTP/1.1\r\nhost: x\r\nx-troupe-proof: {GET}\r\n\r\n'
request piece 'GET /blob/{BLOB} HTTP/1.1\r\nhost: x\r\nx-troupe-proof: {GET}\r\nrange: bytes=3-9\r\n\r\n'
request nonsense 'GET /blob/{BLOB} HTTP/1.1\r\nhost: x\r\nx-troupe-proof: {GET}\r\nrange: bytes=9-3,-1\r\n\r\n'
request put 'PUT /blob/{NEW} HTTP/1.1\r\nhost: x\r\nx-troupe-proof: {PUT}\r\ncontent-length: 8\r\n\r\na report'
request chunks 'PUT /blob/{NEW} HTTP/1.1\r\nhost: x\r\nx-troupe-proof: {PUT}\r\ntransfer-encoding: chunked\r\n\r\n8\r\na report\r\n0\r\n\r\n'
request stranger 'GET /blob/{BLOB} HTTP/1.1\r\nhost: x\r\n\r\n'
request smuggled 'PUT /blob/{NEW} HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /blob/{BLOB} HTTP/1.1\r\nhost: x\r\n\r\n'
request climb 'GET /blob/..%2f..%2fetc%2fpasswd HTTP/1.1\r\nhost: x\r\nconnection: keep-alive\r\n\r\nHEAD / HTTP/1.0\r\n\r\n'
echo "$count seeds of programs and answers"

for target in "${targets[@]}"; do
    mkdir -p "fuzz/corpus/$target"
    dict="fuzz/$target.dict"
    [ -f "$dict" ] || dict=fuzz/python.dict
    echo "+ cargo +nightly fuzz run $target, $seconds s"
    cargo +nightly fuzz run --fuzz-dir fuzz "$target" "fuzz/corpus/$target" "$seeds/$target" -- \
        -max_total_time="$seconds" -dict="$dict" -max_len=16384 -timeout=30 -rss_limit_mb=2048 \
        -print_final_stats=1 -verbosity=1
done
