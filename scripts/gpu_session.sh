#!/usr/bin/env bash
# Every figure of the GPU tables within a given time, on a machine with GPUs and without a compiler: what matters least comes last, each part
# has its own limit, and what no time is left for is said.
#     scripts/gpu_session.sh unpack FROM BIN       puts together in BIN what `scripts/gpu_pack.sh` packed and somebody copied to FROM
#     scripts/gpu_session.sh measure BIN OUT S     the executor's parts on the last GPU, for S seconds
#     scripts/gpu_session.sh train BIN OUT S       parity of the model and then a real run, on the first GPU, for S seconds
# On a machine with several GPUs `measure` and `train` go on side by side, with one GPU `measure` alone has figures of an idle GPU. OUT gets what
# `scripts/gpu.sh` writes and `progress.txt`. PYTHON as there. PARTS (names with spaces between them) narrows `measure`, ONLY what they measure. RUN is the run's configuration (default scripts/gpu_run.toml).
set -euo pipefail
cd "$(dirname "$0")/.."
usage() { sed -n '4,6s/^# *//p' "$0" >&2; exit 2; }
what=${1:-}
[ $# -ge 3 ] || usage

if [ "$what" = unpack ]; then
    from=$(realpath "$2")
    mkdir -p "$3"
    bin=$(realpath "$3")
    for packed in "$from"/*.xz; do
        name=$(basename "$packed" .xz)
        xz -dc "$packed" >"$bin/$name.part"
        chmod +x "$bin/$name.part"
        mv "$bin/$name.part" "$bin/$name"
    done
    if [ -e "$from/model-name" ]; then
        cat "$from"/model.[0-9]* >"$bin/$(cat "$from/model-name")"
        (cd "$bin" && sha256sum -c "$from/model-sha256")
    fi
    exit
fi

[ $# -eq 4 ] || usage
bin=$(realpath "$2")
mkdir -p "$3"
out=$(realpath "$3")
seconds=$4
say() { printf '%4ss  %s\n' "$SECONDS" "$*" | tee -a "$out/progress.txt"; }
mapfile -t gpus < <(nvidia-smi --query-gpu=uuid --format=csv,noheader)
[ "${#gpus[@]}" -gt 0 ] || { echo "nvidia-smi names no GPU; these figures are of one" >&2; exit 1; }

# within LIMIT PART: one part of scripts/gpu.sh, for LIMIT seconds or what is left, if that is a quarter of it at least.
within() {
    local limit=$1 part=$2 left=$((seconds - SECONDS))
    if [ $((left * 4)) -lt "$limit" ]; then
        say "$part: not run, $left s are left"
        return
    fi
    say "$part begins, at most $((limit < left ? limit : left)) s"
    LIMIT=$((limit < left ? limit : left)) scripts/gpu.sh "$bin" "$out" "$part" >>"$out/parts.txt" 2>&1 || say "$part: scripts/gpu.sh ended with $?"
    say "$part is over"
}

case $what in
measure)
    export DEVICES=${gpus[-1]} CUDA_VISIBLE_DEVICES=${gpus[-1]} FRESH_EVERY=${FRESH_EVERY:-5}
    model=$(find "$bin" -maxdepth 1 -name '*.gguf' | head -n 1)
    # The first ones mind it least when somebody still copies files here.
    for part in ${PARTS:-machine corpus slots fairness equivalence drill throughput parity hidden}; do
        case $part in
        machine) within 60 machine ;;
        corpus) within 400 corpus ;;
        slots) within 300 slots ;;
        fairness) within 260 fairness ;;
        equivalence) within 620 equivalence ;;
        drill) within 360 drill ;;
        throughput) within 300 throughput ;;
        hidden) within 200 hidden ;;
        parity)
            # With several GPUs `train` does that.
            if [ "${#gpus[@]}" -gt 1 ] || [ -z "$model" ]; then continue; fi
            CASES=published-text within 300 "parity=published=$model"
            ;;
        *)
            echo "no part is called $part" >&2
            exit 2
            ;;
        esac
    done
    ;;
train)
    export DEVICES=${gpus[0]} CUDA_VISIBLE_DEVICES=${gpus[0]}
    model=$(find "$bin" -maxdepth 1 -name '*.gguf' | head -n 1)
    [ -n "$model" ] || { echo "there is no *.gguf in $bin: give scripts/gpu_pack.sh a model" >&2; exit 1; }
    within 420 "parity=published=$model"
    # The evaluation before and after, and what is written at the end.
    left=$((seconds - SECONDS - 150))
    if [ "$left" -lt 120 ]; then
        say "run: not run, $left s are left"
        exit
    fi
    sed -e "s|^time_limit_s = .*|time_limit_s = $left|" -e "s|^dir = .*|dir = \"$model\"|" "${RUN:-scripts/gpu_run.toml}" >"$out/run.toml"
    within $((left + 150)) "run=$out/run.toml"
    ;;
*) usage ;;
esac
say "done"
