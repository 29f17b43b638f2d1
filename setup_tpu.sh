#!/usr/bin/env bash
# Makes a TPU machine (Colab, Kaggle, TPU VM) ready for the notebooks, and proves it.
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

Keeps a torch/torch_xla pair that fits together or installs one, adds what else requirements.txt
asks for, and lets every TPU device compute, in a process of its own. A second run installs nothing.

  --dry-run  say what would be done; change nothing

Environment:
  PYTHON             the Python to set up (default python3); pip's own settings (PIP_...) hold too
  SETUP_TPU_SECONDS  how long to wait for the devices (default 180)
  SETUP_TPU_ROOT     for tests: where dev/, content/ and kaggle/ are looked for (default /)
  SETUP_TPU_KIND     for tests: the kind of XLA device to insist on (default TPU)
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
            *) fail "unknown option '$option': there are --dry-run and --help" ;;
        esac
    done
}

check_python() {
    command -v "$python" >/dev/null ||
        fail "there is no '$python': set PYTHON to a Python from 3.10 to 3.13"
    python_version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    [[ $python_version =~ ^3\.1[0-3]$ ]] || fail "$python is Python $python_version, but torch_xla" \
        "is built for 3.10 to 3.13: set PYTHON to one of these"
    "$python" -m pip --version &>/dev/null || fail "$python has no pip: install python3-pip, or set" \
        "PYTHON to the Python of a virtual environment"
}

requirements() {
    local file
    file=$(dirname "${BASH_SOURCE[0]:-$0}")/requirements.txt
    if [[ -f $file ]]; then cat "$file"; return; fi
    cat <<'END'
torch>=2.8,<2.14
transformers>=5.0,<6
pytorch-lightning>=2.6,<2.7
numpy>=1.26
pandas>=2.0
matplotlib>=3.8
pooch>=1.8
tensorboard>=2.15
papermill>=2.6
ipykernel>=6.29
jupyterlab>=4.2
accelerate>=1.1
END
}

survey() {  # sets `here` to lines NAME==VERSION, pip's form of a constraint, and `missing`
    local seen
    seen=$("$python" -c '
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

def is_met(need):
    there = version_of(need.name)
    return there is not None and need.specifier.contains(there, prereleases=True)

for name in sys.argv[2:]:
    if version_of(name):
        print(f"here {name}=={version_of(name)}")
for line in sys.argv[1].splitlines():
    line = line.partition("#")[0].strip()
    need = line and Requirement(line)
    if need and need.name != "torch" and (not need.marker or need.marker.evaluate()):
        if not is_met(need):
            print("missing", line)
' "$(requirements)" torch torch_xla libtpu libtpu-nightly torchvision torchaudio google-colab)
    here=$(sed -n 's/^here //p' <<<"$seen")
    missing=$(sed -n 's/^missing //p' <<<"$seen")
    sed -n '/^torch==/p; /^torch_xla==/p; /^libtpu/p' <<<"$here" >"$pins"
}

has_tpu() {
    # COLAB_TPU_1VM is there on every Colab runtime, empty where there is no TPU.
    [[ -n ${COLAB_TPU_1VM-}${TPU_ACCELERATOR_TYPE-}${TPU_WORKER_ID-} ]] ||
        compgen -G "$root/dev/accel[0-9]*" >/dev/null || compgen -G "$root/dev/vfio/[0-9]*" >/dev/null
}

check_host() {
    local reason
    if [[ -n ${KAGGLE_KERNEL_RUN_TYPE-} || -d $root/kaggle ]]; then  # first: built on Colab's image
        host=Kaggle
        reason="this is Kaggle without a TPU: choose Settings > Accelerator > TPU v5e-8"
    elif [[ -n ${COLAB_RELEASE_TAG-} ]] || [[ -d $root/content && $here == *google-colab* ]]; then
        host=Colab
        reason="this is Colab without a TPU: choose Runtime > Change runtime type > v5e-1 TPU"
    else
        host="TPU VM"
        reason="neither Colab nor Kaggle nor a TPU VM (no /dev/accel0, no /dev/vfio/0, no"
        reason+=" TPU_ACCELERATOR_TYPE): run this where there is a TPU"
    fi
    if has_tpu; then say "host: $host, Python $python_version"
    elif [[ $dry_run ]]; then say "would stop here: $reason"
    else fail "$reason"; fi
}

pip_install() {
    local held
    held=$(paste -sd' ' "$pins")
    say "${dry_run:+would run: }pip install $*${held:+, holding $held}"
    [[ $dry_run ]] && return
    "$python" -m pip install --quiet --no-input --disable-pip-version-check \
        --constraint "$pins" "$@" || fail "pip could not install $* for the reason above: mend that," \
        "or make a virtual environment (python3 -m venv ~/tpu) and set PYTHON=~/tpu/bin/python"
    changed=yes
}

install_pair() {
    local torch xla libtpu wanted
    torch=$(sed -n 's/^torch==//p' "$pins")
    xla=$(sed -n 's/^torch_xla==//p' "$pins")
    libtpu=${TPU_LIBRARY_PATH-}$(sed -n '/^libtpu/p' "$pins")  # drives the chips: a path or package

    # torch_xla 2.N is compiled against torch 2.N; the notebooks need 2.8 or later.
    if [[ $torch =~ ^2\.([89]|[1-9][0-9])\. && $xla == "${BASH_REMATCH[0]}"* ]]; then
        say "torch $torch and torch_xla $xla belong together: kept"
        [[ $libtpu ]] && return
        say "libtpu, which drives the chips, is missing"
        wanted=("torch_xla[tpu]==$xla")
    else
        say "torch ${torch:-(none)} and torch_xla ${xla:-(none)} are no pair (2.8 and 2.8, or 2.9 and" \
            "2.9): 2.9 is wanted, a download of about 4 GB"
        # torchvision and torchaudio are compiled against torch as well: pip finds those that fit.
        mapfile -t wanted < <(sed -n 's/^\(torchvision\|torchaudio\)==.*/\1/p' <<<"$here")
        wanted=("torch==2.9.*" "torch_xla[tpu]==2.9.0" "${wanted[@]}")
        : >"$pins"
    fi
    if [[ $python_version == 3.13 && ${wanted[*]} == *"torch_xla[tpu]==2.9."* ]]; then
        wanted=("${wanted[@]/\[tpu\]/}")  # it asks for libtpu 0.0.21, which is not built for 3.13
        [[ $libtpu ]] || wanted+=("libtpu==0.0.21.1")
    fi
    pip_install "${wanted[@]}"
    [[ $dry_run ]] || survey
}

install_rest() {
    local wanted
    # Colab and Kaggle have a server and kernel of their own, which newer ones may break.
    [[ $host == "TPU VM" ]] || missing=$(sed '/^ipykernel/d; /^jupyterlab/d' <<<"$missing")
    if [[ -z $missing ]]; then say "all other requirements are met"; return; fi
    mapfile -t wanted <<<"$missing"
    pip_install "${wanted[@]}"
}

free_addresses() {
    [[ ${TPU_PROCESS_ADDRESSES-} == local ]] || return 0  # on a pod it is a true list of addresses
    unset TPU_PROCESS_ADDRESSES
    say "TPU_PROCESS_ADDRESSES=local, as this image has it, breaks the start of 8 processes: unset for" \
        'the check below; the notebooks do os.environ.pop("TPU_PROCESS_ADDRESSES", None), and so must' \
        "your own"
}

# The numbers are small and whole: exact in bfloat16 too, in which TPUs multiply.
probe='
import sys
import papermill, pytorch_lightning, torch, torch_xla, torch_xla.runtime, transformers
from pytorch_lightning.accelerators import XLAAccelerator

packages = torch, torch_xla, pytorch_lightning, transformers, papermill
print("versions:", *(f"{p.__name__}=={p.__version__}" for p in packages), flush=True)
wanted, kind = sys.argv[1], torch_xla.runtime.device_type()
if kind != wanted:
    sys.exit(f"torch_xla sees no {wanted} and took the {kind}")
a = torch.arange(64.0).reshape(8, 8) % 5
devices = [str(device) for device in torch_xla.devices()]
for device in devices:
    b = a.to(device)
    if not torch.equal((b @ b).cpu(), a @ a):
        sys.exit(f"{device} multiplies matrices wrongly")
n, counted = len(devices), XLAAccelerator.auto_device_count()
if counted < n:
    sys.exit(f"{n} answer, but Lightning, by PCI and the metadata server, counts {counted}")
print(f"{n} {kind} device(s), each with the right matrix product:", *devices)
print(f"ready, for example for: papermill 04_train.ipynb out.ipynb -p tpu_cores {n}")
'

advice() {  # advice TEXT: what helps, going by what the failed probe wrote
    local holder="restart the kernel or end the process that holds the TPU, and wait half a minute"
    local metadata="where the metadata server can't be reached, export TPU_SKIP_MDS_QUERY=1"
    metadata+=" TPU_ACCELERATOR_TYPE=v5litepod-1 (or the type and number of chips here)"
    case ${1,,} in
        *"in use"* | *busy*) say "$holder" ;;
        "no answer"*) say "$holder; $metadata; on a pod, run this on all hosts at once; or raise" \
            "SETUP_TPU_SECONDS" ;;
        *metadata* | *tpu-env*) say "$metadata" ;;
        *"sees no"*) say "unset PJRT_DEVICE if it is set, else restart the runtime" ;;
        *) say "restart the runtime and run this again" ;;
    esac
}

prove() {
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
survey
check_host
install_pair
install_rest
if [[ $changed ]]; then say "a kernel that imported torch before this needs a restart"
elif [[ ! $dry_run ]]; then say "nothing had to be installed"; fi
free_addresses
prove
