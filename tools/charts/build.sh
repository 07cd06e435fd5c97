#!/usr/bin/env bash
# Build the report's charting script from the versions in package-lock.json; needs Node.js and npm.
# With the same versions the result is the same, byte for byte; `--check` compares instead of writing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$here/../../lightning_diag/report/assets/echarts
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$here"/{package.json,package-lock.json,charts.js} "$work"
cd "$work"
npm ci --silent --no-audit --no-fund --ignore-scripts=false
{
  cat node_modules/echarts/LICENSE
  for part in zrender tslib; do
    printf '\n\n======== %s ========\n\n' "$part"
    cat node_modules/$part/LICENSE*
  done
  printf '\n\n======== d3 (parts of it, in echarts) ========\n\n'
  cat node_modules/echarts/licenses/LICENSE-d3
} > LICENSE
cp node_modules/echarts/NOTICE NOTICE
version=$(node -p 'require("echarts/package.json").version')
banner="/*! Apache ECharts $version (https://echarts.apache.org), a selection of its parts. $(tail -n +2 NOTICE | tr '\n' ' ' | tr -s ' ')
 * Licensed under the Apache License 2.0 (https://www.apache.org/licenses/LICENSE-2.0).
 * With zrender and parts of d3 (BSD 3-Clause) and tslib (0BSD):
$({ cat node_modules/zrender/LICENSE; echo; cat node_modules/echarts/licenses/LICENSE-d3; } | sed 's/^/ * /; s/ *$//')
 */"
node_modules/.bin/esbuild charts.js --bundle --minify --format=iife --global-name=echarts \
  --target=es2020 --legal-comments=none --log-level=warning --banner:js="$banner" \
  --define:process.env.NODE_ENV='"production"' --outfile=echarts.min.js
if [ "${1:-}" = "--check" ]; then
  for file in echarts.min.js LICENSE NOTICE; do cmp "$file" "$out/$file"; done
  echo "The charting script is what these versions build."
else
  mkdir -p "$out"
  cp echarts.min.js LICENSE NOTICE "$out"
  ls -l "$out"
fi
