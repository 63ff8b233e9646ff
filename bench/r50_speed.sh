#!/usr/bin/env bash
# How fast an I3D ResNet-50 runs here, without any download: it gets seeded weights, is exported to every target that
# this machine can build, proven, run on a video and measured. The weights are random, so the labels mean nothing.
# Usage: bench/r50_speed.sh [VIDEO]
set -euo pipefail
output=r50-output
video=${1:-$output/generated.mp4}
mkdir -p "$output"

show() {
    printf '\n\033[1m$ %s\033[0m\n' "$*"
    "$@"
}

[ $# -gt 0 ] || python -c "import sys; from pathlib import Path; from i3d_deploy.generated import write_clip
write_clip(Path(sys.argv[1]), num_frames=300)" "$video"

show i3d-doctor || true # problems are printed; what can be built is tried below

targets=(--to safetensors --to onnx)
python -c 'import openvino' 2>/dev/null && targets+=(--to openvino)
python -c 'from i3d_deploy.tensorrt_flavor import load_flavor; load_flavor()' 2>/dev/null && targets+=(--to tensorrt)
source=(--model i3d_r50 --random-weights --output "$output" --video "$video")
show i3d-export "${source[@]}" "${targets[@]}"
measured=("$output"/i3d_r50_fp32.safetensors)
python -c 'import onnxruntime' 2>/dev/null && measured+=("$output"/i3d_r50_fp32.onnx)
if [[ " ${targets[*]} " == *" openvino "* ]]; then
    show i3d-export "${source[@]}" --to openvino --precision bf16
    measured+=("$output"/i3d_r50_fp32.xml "$output"/i3d_r50_bf16.xml)
fi

show i3d-predict "${measured[-1]}" "$video" --top 3 --annotate "$output"/annotated.mp4
show i3d-bench "${measured[@]}" --videos 3 --warmup 2 --seconds 0 --json "$output"/bench.json \
    --html "$output"/bench.html
