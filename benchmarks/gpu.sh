#!/bin/sh
# Measure on a GPU of 80 GB in less than eight minutes, from a checkout, without installing:
#   sh benchmarks/gpu.sh FOLDER
# prints the tables and writes overhead-gpu.json and overhead-gpu.md to FOLDER.
set -eu
folder=${1:-.}
mkdir -p "$folder"
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" benchmarks/overhead.py \
  --device cuda --launches 1 --rounds 10 --seconds 65 \
  --json "$folder/overhead-gpu.json" --markdown "$folder/overhead-gpu.md"
