#!/usr/bin/env bash
# How fast an I3D ResNet-50 runs here, without any download: it gets seeded weights, is exported to every target that
# this machine can build, as it is and optimized, in every precision, proven, run on a video and measured: one view
# with all of them in turns, and whole videos from the file with the plain ones and the best. The weights are random,
# so the labels mean nothing, and int8 is calibrated on the video alone.
# Usage: bench/r50_speed.sh [VIDEO]
set -euo pipefail
output=r50-output
video=${1:-$output/generated.mp4}
mkdir -p "$output"

show() {
    printf '\n\033[1m$ %s\033[0m\n' "$*"
    "$@"
}

has() {
    python -c "import sys; from importlib.util import find_spec; sys.exit(find_spec('$1') is None)"
}

[ $# -gt 0 ] || python -c "import sys; from pathlib import Path; from i3d_deploy.generated import write_clip
write_clip(Path(sys.argv[1]), num_frames=300)" "$video"

realpath "$video" > "$output"/calibration.txt

show i3d-doctor || true # problems are printed; what can be built is tried below

source=(--model i3d_r50 --random-weights --output "$output" --video "$video" --proof-clips 1)
targets=() one_view=() whole=("$output"/i3d_r50.safetensors)
has onnxruntime && targets+=(--to onnx) && one_view+=("$output"/{plain,i3d_r50}_fp32.onnx) &&
    whole+=("$output"/plain_fp32.onnx)
has openvino && targets+=(--to openvino) && one_view+=("$output"/{plain,i3d_r50}_fp32.xml)
show i3d-export "${source[@]}" --to safetensors --name i3d_r50
show i3d-export "${source[@]}" "${targets[@]}" --name plain_fp32 --no-optimize
python -c 'from i3d_deploy.tensorrt_flavor import load_flavor; load_flavor()' 2>/dev/null && targets+=(--to tensorrt)
show i3d-export "${source[@]}" "${targets[@]}" --name i3d_r50_fp32
if has openvino; then
    # Left to itself, OpenVINO computes a plain network in bf16 where the CPU can.
    whole+=("$output"/{plain,i3d_r50}_bf16.xml)
    for precision in bf16 int8; do
        options=(--to openvino --precision "$precision")
        [ "$precision" = int8 ] && options+=(--calibrate "$output"/calibration.txt)
        has nncf || [ "$precision" != int8 ] || continue
        show i3d-export "${source[@]}" "${options[@]}" --name "plain_$precision" --no-optimize
        show i3d-export "${source[@]}" "${options[@]}" --name "i3d_r50_$precision"
        one_view+=("$output"/{plain,i3d_r50}_"$precision".xml)
    done
    [ -e "$output"/i3d_r50_int8.xml ] && whole+=("$output"/i3d_r50_int8.xml)
fi

show i3d-predict "${whole[-1]}" "$video" --top 3 --annotate "$output"/annotated.mp4
show i3d-bench "${one_view[@]}" --protocol 32x1 --clips 1 --crops 1 --videos 11 --seconds 1 \
    --json "$output"/one_view.json --html "$output"/one_view.html
show i3d-bench "${whole[@]}" --end-to-end "$video" --videos 3 --warmup 1 --seconds 0 --json "$output"/bench.json \
    --html "$output"/bench.html
