#!/usr/bin/env bash
# make_venv.sh FOLDER PINS PYTHON...   an environment with PINS and the suite's requirements, on the
# first PYTHON that runs. The pins are installed first, then must survive the requirements.
set -euo pipefail
folder=$1 pins=$2
shift 2
for python in "$@" python3; do
  "$python" -c '' 2>/dev/null && break
done
here=$(cd "$(dirname "$0")" && pwd)
"$python" -m venv "$folder"
"$folder/bin/python" -m pip install -q -r "$pins"
"$folder/bin/python" -m pip install -q -r "$here/../../requirements.txt" pytest
"$folder/bin/python" -m pip install -q --dry-run --report - -r "$pins" |
  "$folder/bin/python" -c 'import json, sys; sys.exit(bool(json.load(sys.stdin)["install"]) and "the requirements replaced a pin")'
