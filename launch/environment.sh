# Sourced by the other scripts: makes .venv beside the README with the pinned versions and puts it on the PATH.
# usage: . launch/environment.sh EXTRAS [FOLDER]     (EXTRAS of pyproject.toml, such as "test", or ""; FOLDER: .venv without it)
# shellcheck shell=bash

find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "bertjax needs Python 3.11 or newer; install it, or name it: PYTHON=/path/to/python3.11 $0" >&2
    return 2
}

make_environment() {
    local extras="$1" folder="$2" stamp wanted python
    stamp="$folder/installed-${extras:-core}"
    wanted="$(cat pyproject.toml launch/constraints.txt)"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        python="$(find_python)" || return 2
        echo "installing into $folder (once; a minute or two) ..."
        "$folder/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv "$folder"
        "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --use-pep517 \
            --constraint launch/constraints.txt --editable ".${extras:+[$extras]}"
        echo "$wanted" >"$stamp"
    fi
    PATH="$PWD/$folder/bin:$PATH"
}

make_environment "${1:-}" "${2:-.venv}"
