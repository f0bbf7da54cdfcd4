# What the scripts beside this file share: a Python, a virtual environment, and what goes into it.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# for pytest; -n 0 among its arguments undoes it, as --pdb needs
# shellcheck disable=SC2034
parallel=(--numprocesses auto --dist worksteal)
export PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# without PYTHONDONTWRITEBYTECODE, for the tests start some thousand processes
unset PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE

usable() { # PYTHON [VERSION]: can it make virtual environments, and is it of this version (3.11 or newer)?
  "$1" -c 'import ensurepip, sys, venv; v = sys.argv[1]
sys.exit(not ("%d.%d" % sys.version_info[:2] == v if v else sys.version_info >= (3, 11)))' \
    "${2:-}" > /dev/null 2>&1
}

find_python() { # [VERSION]: print the first Python of this version, on the PATH or among those of pyenv
  local name path IFS=$'\n'
  for name in ${1:+"python$1"} python3.11 python3 python3.12 python3.13; do
    for path in $(type -aP "$name"); do
      if usable "$path" "${1:-}"; then echo "$path" && return; fi
    done
  done
  for path in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"${1:-3.11}".*/bin/python; do
    if usable "$path" "${1:-}"; then echo "$path" && return; fi
  done
  return 1
}

make_venv() { # VENV [PYTHON]: make the virtual environment, unless there is one that works
  local python
  if "$1/bin/python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' > /dev/null 2>&1; then return; fi
  if ! python=${2:-$(find_python)}; then
    echo "Python 3.11 or newer with its venv module is needed (on Debian: apt install python3.11-venv)" >&2
    return 1
  fi
  echo "making $1 with $("$python" --version)" >&2
  rm -rf "$1" && "$python" -m venv "$1"
}

install_torch() { # VENV: the pinned torch, before anything else can ask for another one
  if "$1/bin/python" -c 'import torch' > /dev/null 2>&1; then return; fi
  echo "installing $(cat constraints.txt) into $1 (once)" >&2
  "$1/bin/python" -m pip install --quiet --requirement constraints.txt
}

install() { # VENV NAME ARGUMENTS...: pip install the project and ARGUMENTS, unless that was done before
  local venv=$1 stamp=$1/.installed-$2 wanted
  shift 2
  wanted="$PWD $(cat pyproject.toml constraints.txt | cksum) $*"
  if [ "$(cat "$stamp" 2> /dev/null)" = "$wanted" ]; then return; fi
  echo "installing the project and $* into $venv (once)" >&2
  # pip 25.1 is the first with --group
  "$venv/bin/python" -m pip install --quiet --upgrade "pip>=25.1" &&
    "$venv/bin/python" -m pip install --quiet --constraint constraints.txt --editable . "$@" &&
    echo "$wanted" > "$stamp"
}
