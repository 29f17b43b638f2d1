#!/usr/bin/env bash
# make_venv.sh FOLDER PINS PYTHON...   an environment with PINS and the suite's requirements, on the
# first PYTHON that runs. The pins are installed first, then must survive the requirements; what is pinned
# itself, a host's own kernel below our range for example, is not required again.
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
