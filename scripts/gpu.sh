#!/usr/bin/env bash
# What the GPU figures under docs/benchmarks are made with, part by part, on a machine that need not have a compiler:
#     scripts/gpu.sh BIN OUT PART..
# BIN holds `troupe` (built with --features cuda) and, as `t_slots` and `t_device`, the test programs of `cargo test --release -p sandbox
# --test device --no-run` and `-p model --features cuda --test device --no-run`. OUT gets a file for each part. PYTHON (default python3) is
# an interpreter with torch 2.11.0, triton 3.6.0, numpy<2.4 and, for `parity`, transformers, safetensors and, of a GGUF file, gguf. Each part has its own limit, LIMIT seconds
# (default 300, of `control` and `drill` 560).
#     machine sampled slots parity[=NAME=MODEL] ours bursts fairness hidden throughput equivalence control drill corpus run=RUN.toml
# `control` says what a difference to do_bench comes of, `hidden` what is accepted beside a neighbour that passes for one of ours, `bursts` what a
# measurement takes. FRESH_EVERY (default 1) sends every n-th candidate through a fresh process, 6 s each. ONLY (tasks of the set with
# commas between them), CASES (of `parity`) and DEVICES (default all; `processor` for a rehearsal without a GPU, of `ours`, `control` and
# `hidden`) narrow them.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
bin=$(realpath "${1:?usage: scripts/gpu.sh BIN OUT PART..}")
mkdir -p "${2:?usage: scripts/gpu.sh BIN OUT PART..}"
out=$(realpath "$2")
shift 2
python=$("${PYTHON:-python3}" -c 'import sys; print(sys.executable)')
export TROUPE_PYTHON=$python PYTHONUNBUFFERED=1
limit=${LIMIT:-300}
set_python=(--set "python.interpreter=$python")
executor=(bench executor --workers "${WORKERS:-14}" --deadline-s 10 "${set_python[@]}" --set "gpu.devices=${DEVICES:-all}" ${ONLY:+--only "$ONLY"})
# Four element-wise tasks that were furthest from do_bench's figures or launch as they do, and one of rows that was not far.
control=relu,swish,middle_max,affine_chain,rms_norm

# Output and errors to a file, the end of it to the terminal; a part that fails does not keep the next one from running.
part() {
    local name=$1 code=0
    shift
    printf '== %s (%ss)\n' "$name" "$SECONDS"
    timeout -k 5 "$limit" "$@" >"$out/$name.txt" 2>&1 || code=$?
    tail -n 15 "$out/$name.txt" | cut -c1-300
    printf '%s ended with %s after %ss\n' "$name" "$code" "$SECONDS"
}

# A test program looks for its folder where it was built; its temporary files go to CARGO_TARGET_TMPDIR of then.
tests() { (cd "$1" && shift && "$@" --test-threads=1 --nocapture); }
export -f tests

for one in "$@"; do
    case $one in
    machine)
        part machine bash -c "nvidia-smi --query-gpu=index,uuid,name,driver_version,memory.used --format=csv; nproc; '$python' -c \
            'import sys, torch, triton, numpy; print(sys.version.split()[0], torch.__version__, triton.__version__, numpy.__version__)'
            '$bin/troupe' doctor --set 'python.interpreter=$python'"
        ;;
    bursts) part bursts bash -c "tests sandbox '$bin/t_slots' --ignored what_a_measurement_takes" ;;
    sampled) part sampled bash -c "tests model '$bin/t_device' sampled" ;;
    slots) part slots bash -c "tests sandbox '$bin/t_slots'" ;;
    parity*)
        references=$(mktemp -d)
        model=${one#parity}
        part parity-references "$python" tests/device/torch_parity_peer.py "$references" ${CASES:+--only "$CASES"} ${model:+"${model#=}"}
        TROUPE_PARITY=$references part parity bash -c "tests model '$bin/t_device' everything"
        rm -rf "$references"
        ;;
    ours) part ours "$bin/troupe" "${executor[@]}" --parts ours ;;
    fairness) part fairness "$bin/troupe" "${executor[@]}" --parts fairness --noisy 3 --json ;;
    hidden) part hidden "$bin/troupe" "${executor[@]}" --parts fairness --repeats 10 --noisy 3 --hidden-neighbour --json ;;
    throughput) part throughput "$bin/troupe" "${executor[@]}" --parts throughput --fresh-every "${FRESH_EVERY:-1}" ;;
    drill)
        limit=${LIMIT:-560}
        part drill "$bin/troupe" "${executor[@]}" --parts drill
        limit=${LIMIT:-300}
        ;;
    corpus) part corpus "$bin/troupe" bench corpus --workers "${WORKERS:-14}" "${set_python[@]}" --set "gpu.devices=${DEVICES:-all}" ;;
    equivalence) part equivalence "$bin/troupe" "${executor[@]}" --parts equivalence --rows 4 --json ;;
    control)
        only=()
        [ -n "${ONLY:-}" ] || only=(--only "$control")
        # Ours in two ways takes some minutes, and three processes of do_bench as many.
        limit=${LIMIT:-560}
        part control "$bin/troupe" "${executor[@]}" --parts control --rows "${ROWS:-4}" "${only[@]}" --json
        limit=${LIMIT:-300}
        ;;
    run=*) part run "$bin/troupe" run -c "${one#run=}" --set "gpu.devices=${DEVICES:-all}" --run-dir "$out/run" "${set_python[@]}" ;;
    *)
        echo "no part is called $one; see the head of $root/scripts/gpu.sh" >&2
        exit 2
        ;;
    esac
done
