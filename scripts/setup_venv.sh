#!/usr/bin/env bash
# Make or refresh the virtual environment: torch first, then the pinned requirements, then this project.
# Usage: scripts/setup_venv.sh VENV [PYTHON]       Environment: TORCH_INDEX, an index URL for torch's CPU or CUDA builds.
set -euo pipefail

venv=${1:?"usage: scripts/setup_venv.sh VENV [PYTHON]"}
python=${2:-python3.11}
cd "$(dirname "$0")/.."

if [ ! -x "$venv/bin/python" ]; then
    "$python" -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || {
        echo "Python 3.11 or newer is needed, but \`$python\` is $("$python" --version 2>&1). Set PYTHON=/path/to/python3.11." >&2
        exit 1
    }
    # Debian's Python comes without ensurepip: then pip of the system fills the new environment.
    "$python" -m venv "$venv" 2>/dev/null || {
        rm -rf "$venv"
        "$python" -m venv --without-pip "$venv"
        "$python" -m pip --python "$venv/bin/python" install --quiet pip
    }
fi

pip=("$venv/bin/python" -m pip --disable-pip-version-check install --quiet)
torch=$(grep -E '^torch==' requirements.txt)

# Torch alone first: packages that build against it find it, and a CPU or CUDA index serves torch only.
echo "Installing $torch ..."
"${pip[@]}" ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$torch"
echo "Installing requirements.txt (NeMo is large: several minutes the first time) ..."
"${pip[@]}" -r <(grep -v '^meeteval==' requirements.txt)
# Published as source alone: where there is no C++ compiler all but the scores of words works without it.
"${pip[@]}" "$(grep -E '^meeteval==' requirements.txt)" || echo "Without meeteval: \`score --words\` needs it, and a C++ compiler." >&2
echo "Installing nemo_sortformer ..."
"${pip[@]}" --no-build-isolation -e ".[demo,dev]"
