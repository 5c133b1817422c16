#!/usr/bin/env bash
# Fuzzes the reader of answers and the linter: scripts/fuzz.sh [SECONDS a target] [TARGET..]
# TROUPE_FUZZ_SEEDS names one more folder of Python files to start from.
# Without a nightly compiler or cargo-fuzz it says so and does nothing. Findings stay in fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds="${1:-30}"
[[ "$seconds" =~ ^[0-9]+$ ]] || { echo "usage: scripts/fuzz.sh [SECONDS] [TARGET..]" >&2; exit 2; }
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(extract lint lint_with_task)

skip() { echo "fuzzing skipped: $1"; exit 0; }
cargo +nightly --version >/dev/null 2>&1 || skip "no nightly compiler (rustup toolchain install nightly)"
cargo fuzz --version >/dev/null 2>&1 || skip "no cargo-fuzz (cargo install cargo-fuzz --locked)"
echo "$(cargo +nightly --version), $(cargo fuzz --version), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"

# What is known to be interesting: the linter's fixtures, the hacks and honest kernels of the verifier's corpus, worked
# answers. A seed of `lint_with_task` is a candidate, a line of #, and a task.
seeds=$(mktemp -d)
trap 'rm -rf "$seeds"' EXIT
mkdir -p "$seeds/extract" "$seeds/lint" "$seeds/lint_with_task"
mkdir -p "$seeds/tasks"
folders=(reward/tests/fixtures)
for folder in tests/exploits ${TROUPE_FUZZ_SEEDS:-}; do
    [ ! -d "$folder" ] || folders+=("$folder")
done
find tasks "${folders[@]}" -path '*tasks*' -name '*.py' -exec cp -t "$seeds/tasks" {} +
count=0
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
echo "$count seeds"

for target in "${targets[@]}"; do
    mkdir -p "fuzz/corpus/$target"
    echo "+ cargo +nightly fuzz run $target, $seconds s"
    cargo +nightly fuzz run --fuzz-dir fuzz "$target" "fuzz/corpus/$target" "$seeds/$target" -- \
        -max_total_time="$seconds" -dict=fuzz/python.dict -max_len=16384 -timeout=30 -rss_limit_mb=2048 \
        -print_final_stats=1 -verbosity=1
done
