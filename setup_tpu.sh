#!/usr/bin/env bash
# Prepares a TPU machine (Colab, Kaggle, TPU VM) for the notebooks and verifies that it works.
set -euo pipefail

python=${PYTHON:-python3}
seconds=${SETUP_TPU_SECONDS:-180}
root=${SETUP_TPU_ROOT:-}
kind=${SETUP_TPU_KIND:-TPU}
dry_run=''
changed=''

usage() {
    cat <<'END'
usage: bash setup_tpu.sh [--dry-run]

Keeps or installs matching versions of torch and torch_xla, installs the other packages of
requirements.txt that are missing, and runs a matrix product on every TPU device in a separate
process. A second run installs nothing.

  --dry-run  print what would be done, change nothing

Environment:
  PYTHON             the Python to set up (default python3); pip also reads its settings PIP_...
  SETUP_TPU_SECONDS  seconds to wait for the devices (default 180)
  SETUP_TPU_ROOT     for tests: the folder of dev/, content/ and kaggle/ (default /)
  SETUP_TPU_KIND     for tests: the required kind of XLA device (default TPU)
END
}

say() { printf '%s\n' "$*"; }
fail() { printf 'setup_tpu: %s\n' "$*" >&2; exit 1; }

read_options() {
    local option
    for option; do
        case $option in
            --dry-run) dry_run=yes ;;
            -h | --help) usage; exit ;;
            *) fail "unknown option '$option': pass --dry-run or --help" ;;
        esac
    done
}

check_python() {
    command -v "$python" >/dev/null ||
        fail "command '$python' not found: set PYTHON to a Python from 3.10 to 3.13"
    python_version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    [[ $python_version =~ ^3\.1[0-3]$ ]] || fail "$python is Python $python_version, but torch_xla" \
        "needs 3.10 to 3.13: set PYTHON to one of these"
    "$python" -m pip --version &>/dev/null || fail "$python has no pip: install python3-pip, or set" \
        "PYTHON to the Python of a virtual environment"
}

requirements() {
    local file
    file=$(dirname "${BASH_SOURCE[0]:-$0}")/requirements.txt
    if [[ -f $file ]]; then cat "$file"; return; fi
    cat <<'END'
torch>=2.8,<2.16
transformers>=5.8,<6
pytorch-lightning>=2.6.6,<2.7
numpy>=1.26
pandas>=2.1
matplotlib>=3.8
pooch>=1.8
charset-normalizer>=3.4.2
tensorboard>=2.18
scikit-learn>=1.3
papermill>=2.6
ipykernel>=6.29
jupyterlab>=4.2
accelerate>=1.3
END
}

find_packages() {  # sets `installed` to lines NAME==VERSION (pip constraints), and `missing`
    local found
    found=$("$python" -c '
import sys
from importlib.metadata import PackageNotFoundError, version
try:
    from packaging.requirements import Requirement
except ImportError:
    from pip._vendor.packaging.requirements import Requirement

def version_of(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None

def is_met(requirement):
    installed = version_of(requirement.name)
    return installed is not None and requirement.specifier.contains(installed, prereleases=True)

for name in sys.argv[2:]:
    if version_of(name):
        print(f"installed {name}=={version_of(name)}")
for line in sys.argv[1].splitlines():
    line = line.partition("#")[0].strip()
    parsed = line and Requirement(line)
    if parsed and parsed.name != "torch" and (not parsed.marker or parsed.marker.evaluate()):
        if not is_met(parsed):
            print("missing", line)
' "$(requirements)" torch torch_xla libtpu libtpu-nightly torchvision torchaudio google-colab)
    installed=$(sed -n 's/^installed //p' <<<"$found")
    missing=$(sed -n 's/^missing //p' <<<"$found")
    sed -n '/^torch==/p; /^torch_xla==/p; /^libtpu/p' <<<"$installed" >"$pins"
}

has_tpu() {
    # COLAB_TPU_1VM is set on every Colab runtime, and empty without a TPU.
    [[ -n ${COLAB_TPU_1VM-}${TPU_ACCELERATOR_TYPE-}${TPU_WORKER_ID-} ]] ||
        compgen -G "$root/dev/accel[0-9]*" >/dev/null || compgen -G "$root/dev/vfio/[0-9]*" >/dev/null
}

check_host() {
    local reason
    if [[ -n ${KAGGLE_KERNEL_RUN_TYPE-} || -d $root/kaggle ]]; then  # first: its image is built on Colab's
        host=Kaggle
        reason="this is Kaggle without a TPU: choose Settings > Accelerator > TPU v5e-8"
    elif [[ -n ${COLAB_RELEASE_TAG-} ]] || [[ -d $root/content && $installed == *google-colab* ]]; then
        host=Colab
        reason="this is Colab without a TPU: choose Runtime > Change runtime type > v5e-1 TPU"
    else
        host="TPU VM"
        reason="neither Colab nor Kaggle nor a TPU VM (no /dev/accel0, no /dev/vfio/0, no"
        reason+=" TPU_ACCELERATOR_TYPE): run this on a machine with a TPU"
    fi
    if has_tpu; then say "host: $host, Python $python_version"
    elif [[ $dry_run ]]; then say "would stop here: $reason"
    else fail "$reason"; fi
}

pip_install() {
    local pinned
    pinned=$(paste -sd' ' "$pins")
    say "${dry_run:+would run: }pip install $*${pinned:+, keeping $pinned}"
    [[ $dry_run ]] && return
    "$python" -m pip install --quiet --no-input --disable-pip-version-check \
        --constraint "$pins" "$@" || fail "pip could not install $* for the reason above: fix that," \
        "or create a virtual environment (python3 -m venv ~/tpu) and set PYTHON=~/tpu/bin/python"
    changed=yes
}

install_torch_xla() {
    local torch xla libtpu wanted
    torch=$(sed -n 's/^torch==//p' "$pins")
    xla=$(sed -n 's/^torch_xla==//p' "$pins")
    libtpu=${TPU_LIBRARY_PATH-}$(sed -n '/^libtpu/p' "$pins")  # the driver: a path or a package

    # torch_xla 2.N is compiled for torch 2.N; the notebooks need 2.8 or later.
    if [[ $torch =~ ^2\.([89]|[1-9][0-9])\. && $xla == "${BASH_REMATCH[0]}"* ]]; then
        say "torch $torch and torch_xla $xla match: kept"
        [[ $libtpu ]] && return
        say "libtpu, the driver of the TPU chips, is missing"
        wanted=("torch_xla[tpu]==$xla")
    else
        say "torch ${torch:-(none)} and torch_xla ${xla:-(none)} do not match (both must be 2.8, or" \
            "both 2.9): 2.9 will be installed, a download of about 4 GB"
        # torchvision and torchaudio are compiled for one torch too: pip finds matching versions.
        mapfile -t wanted < <(sed -n 's/^\(torchvision\|torchaudio\)==.*/\1/p' <<<"$installed")
        wanted=("torch==2.9.*" "torch_xla[tpu]==2.9.0" "${wanted[@]}")
        : >"$pins"
    fi
    if [[ $python_version == 3.13 && ${wanted[*]} == *"torch_xla[tpu]==2.9."* ]]; then
        wanted=("${wanted[@]/\[tpu\]/}")  # [tpu] requires libtpu 0.0.21, which has no build for 3.13
        [[ $libtpu ]] || wanted+=("libtpu==0.0.21.1")
    fi
    pip_install "${wanted[@]}"
    [[ $dry_run ]] || find_packages
}

install_rest() {
    local wanted
    # Colab and Kaggle bring their own server and kernel, which newer versions may break.
    [[ $host == "TPU VM" ]] || missing=$(sed '/^ipykernel/d; /^jupyterlab/d' <<<"$missing")
    if [[ -z $missing ]]; then say "all other requirements are met"; return; fi
    mapfile -t wanted <<<"$missing"
    pip_install "${wanted[@]}"
}

unset_addresses() {
    [[ ${TPU_PROCESS_ADDRESSES-} == local ]] || return 0  # on a pod it is a real list of addresses
    unset TPU_PROCESS_ADDRESSES
    say "TPU_PROCESS_ADDRESSES=local, set by this image, prevents the start of 8 processes. It is unset" \
        "for the check below. The notebooks remove it; your own code must run" \
        'os.environ.pop("TPU_PROCESS_ADDRESSES", None)'
}

# The entries are small integers: their product is exact in bfloat16 too, in which TPUs multiply.
probe='
import sys
import papermill, pytorch_lightning, torch, torch_xla, torch_xla.runtime, transformers
from pytorch_lightning.accelerators import XLAAccelerator

packages = torch, torch_xla, pytorch_lightning, transformers, papermill
print("versions:", *(f"{p.__name__}=={p.__version__}" for p in packages), flush=True)
wanted, kind = sys.argv[1], torch_xla.runtime.device_type()
if kind != wanted:
    sys.exit(f"torch_xla finds no {wanted} and uses the {kind}")
a = torch.arange(64.0).reshape(8, 8) % 5
devices = [str(device) for device in torch_xla.devices()]
for device in devices:
    b = a.to(device)
    if not torch.equal((b @ b).cpu(), a @ a):
        sys.exit(f"{device} multiplies matrices wrongly")
n, counted = len(devices), XLAAccelerator.auto_device_count()
if counted < n:
    sys.exit(f"{n} answer, but Lightning counts {counted} (from PCI and the metadata server)")
print(f"{n} {kind} device(s), each with the right matrix product:", *devices)
print(f"ready, for example for: papermill 04_train.ipynb out.ipynb -p tpu_cores {n}")
'

advice() {  # advice TEXT: the next step, by the error message in TEXT
    local holder="restart the kernel or end the process that uses the TPU, then wait half a minute"
    local metadata="if the metadata server is unreachable, export TPU_SKIP_MDS_QUERY=1"
    metadata+=" TPU_ACCELERATOR_TYPE=v5litepod-1 (your type and number of chips)"
    case ${1,,} in
        *"in use"* | *busy*) say "$holder" ;;
        "no answer"*) say "$holder; $metadata; on a pod, run this on all hosts at once; or raise" \
            "SETUP_TPU_SECONDS" ;;
        *metadata* | *tpu-env*) say "$metadata" ;;
        *"finds no"*) say "unset PJRT_DEVICE if it is set, else restart the runtime" ;;
        *) say "restart the runtime and run this again" ;;
    esac
}

verify() {
    local status=0 log=$scratch/log reason
    if [[ $dry_run ]]; then
        say "would run: a matrix product on every $kind device, within $seconds s"
        return
    fi
    timeout --kill-after=10 "$seconds" "$python" -c "$probe" "$kind" 2>"$log" || status=$?
    ((status)) || return 0
    tail -n 15 "$log" | sed 's/^/  | /' >&2
    reason=$(tail -n 1 "$log")
    ((status == 124 || status == 137)) && reason="no answer within $seconds s${reason:+; $reason}"
    reason=${reason:-exit status $status}
    fail "no $kind device works (${reason:0:150}): $(advice "$reason $(cat "$log")")"
}

read_options "$@"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
pins=$scratch/pins.txt

check_python
find_packages
check_host
install_torch_xla
install_rest
if [[ $changed ]]; then say "restart every kernel that imported torch before this"
elif [[ ! $dry_run ]]; then say "nothing had to be installed"; fi
unset_addresses
verify
