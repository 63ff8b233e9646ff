#!/usr/bin/env bash
# The main job from end to end, without any download: a small I3D is trained from nothing on a generated data set whose
# classes only differ in the direction of time, exported to every target that this machine can build, in int8 as well,
# and evaluated on held-out videos and timed next to its exports; then one of these videos is predicted and annotated.
# Usage: bench/demo.sh
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
output=demo-output
rm -rf "$output"/run "$output"/results
mkdir -p "$output"/results

show() {
    printf '\n\033[1m$ %s\033[0m\n' "$*" >&2 # where the output of a command is kept in a file, it is still seen
    "$@"
}

has() {
    python -c "import sys; from importlib.util import find_spec; sys.exit(find_spec('$1') is None)"
}

show i3d-doctor || true # problems are printed; what can be built is tried below

recipe=(motion_tiny --set data.folder="$output"/motion)
show python "$repository"/training/prepare.py motion --output "$output"/motion --train 1600 --val 200 --test 400
show python "$repository"/training/train.py "${recipe[@]}" --work-dir "$output"/run --validate --seed 0 --deterministic \
    > "$output"/settings.txt

targets=(--to safetensors --to onnx)
has openvino && targets+=(--to openvino)
python -c 'from i3d_deploy.tensorrt_flavor import load_flavor; load_flavor()' 2>/dev/null && targets+=(--to tensorrt)
show i3d-export "$output"/run/model.safetensors --name motion_tiny --output "$output" --video "$output"/motion/test/00000.mp4 \
    "${targets[@]}"

quantized=()
if has openvino && has nncf; then
    # Fails, and sets the file aside, if it is less accurate than PyTorch by more than half a point.
    show i3d-export "$output"/run/model.safetensors --name motion_tiny_int8 --output "$output" --to openvino \
        --precision int8 --calibrate "$output"/motion/val.txt --accuracy "$output"/motion/test.txt --max-drop 0.5
    quantized+=("$output"/motion_tiny_int8.xml)
fi

evaluated=("$output"/run/model.safetensors)
has onnxruntime && evaluated+=("$output"/motion_tiny.onnx)
[ -e "$output"/motion_tiny.xml ] && evaluated+=("$output"/motion_tiny.xml)
evaluated+=("${quantized[@]}")
for artifact in "${evaluated[@]}"; do
    name=$(basename "$artifact")
    show python "$repository"/training/test.py "${recipe[@]}" "$artifact" --eval top_k_accuracy mean_class_accuracy \
        --out "$output/results/${name//./_}.json" > "$output/results/${name//./_}.txt"
done

printf '\n%-24s %10s %10s %12s\n' 'held-out videos' 'top-1' 'top-5' 'mean class'
for artifact in "${evaluated[@]}"; do
    name=$(basename "$artifact")
    awk -v name="$name" '{ value[$1] = $2 } END {
        printf "%-24s %8.2f %% %8.2f %% %10.2f %%\n", name, 100 * value["top1_acc:"], 100 * value["top5_acc:"],
            100 * value["mean_class_accuracy:"] }' "$output/results/${name//./_}.txt"
done

show i3d-bench "${evaluated[@]}" --clips 10 --crops 3 --end-to-end "$output"/motion/test/00000.mp4 --videos 5 --seconds 2 \
    --json "$output"/bench.json --html "$output"/bench.html

show i3d-predict "${evaluated[-1]}" "$output"/motion/test/00000.mp4 --top 3 --annotate "$output"/annotated.mp4
cp "$output"/run/curves.png "$output"/curves.png
printf '\n%s\n' "$output/curves.png shows how it learned, $output/annotated.mp4 what it says of a video"
