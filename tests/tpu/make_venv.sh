#!/usr/bin/env bash
# make_venv.sh FOLDER PINS EXTRA PYTHON...
#
# Make an environment in FOLDER with the project's requirements, EXTRA (a package, or -rFILE) and exactly the packages
# of the file PINS, on the first PYTHON that runs. A pin wins against every requirement: a host's own kernel, for
# example, may be older. uv links what two environments have in common (5 GB of CUDA) instead of copying it.
set -euo pipefail
folder=$1 pins=$2 extra=$3
shift 3
for python in "$@" python3; do
  "$python" -c '' 2>/dev/null && break
done
export UV_CACHE_DIR=.venv-uv-cache
"$python" -m venv --clear "$folder"
.venv/bin/uv pip install --quiet --system-certs --python "$folder/bin/python" \
  --overrides "$pins" -r "$pins" -r requirements.txt "$extra"
