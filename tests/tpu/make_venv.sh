#!/usr/bin/env bash
# make_venv.sh FOLDER PINS PYTHON...
#
# Make an environment in FOLDER with the packages of the file PINS and the project's requirements, on the
# first PYTHON that runs. The pins are installed first and must not be replaced by the requirements.
# Requirements for pinned packages are dropped: a host's own kernel, for example, may be older.
set -euo pipefail
folder=$1 pins=$2
shift 2
for python in "$@" python3; do
  "$python" -c '' 2>/dev/null && break
done
here=$(cd "$(dirname "$0")" && pwd)
"$python" -m venv "$folder"
"$folder/bin/python" -m pip install -q -r "$pins"
pinned=$(sed -n 's/==.*//p' "$pins" | paste -sd'|')
grep -vE "^($pinned)[<>=]" "$here/../../requirements.txt" >"$folder/rest.txt"
"$folder/bin/python" -m pip install -q -r "$folder/rest.txt" pytest
"$folder/bin/python" -m pip install -q --dry-run --report - -r "$pins" |
  "$folder/bin/python" -c 'import json, sys; sys.exit(bool(json.load(sys.stdin)["install"]) and "the requirements replaced a pin")'
