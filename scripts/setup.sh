#!/usr/bin/env bash
# Make .venv/bin/python, .venv/bin/congested and .venv/bin/mpirun work, by the first way that can:
#
#   python  a Python at hand already has DOLFINx (Docker image dolfinx/dolfinx, an active conda
#           environment): a venv on top of it
#   conda   conda, mamba or micromamba is there: environment.yml
#   apt     Debian 13+, or an Ubuntu with DOLFINx >= 0.9 in its archive: apt packages and a venv
#   tree    anything older with apt (Debian 12): a private Debian 13 tree in the user's cache and a
#           venv in it; nothing on the host changes, .venv/bin/* are links to scripts/enter.sh
#
# Run it as often as you like: when nothing changed it ends after a second. Killed half-way, the next
# run starts that part afresh. Environment variables, none of them needed:
#
#   CONGESTED_ROUTE   python, conda, apt or tree: take this way and no other
#   CONGESTED_PYTHON  the Python to build on (way "python")
#   CONGESTED_MIRROR  the Debian mirror for the private tree
#   XDG_CACHE_HOME    where congested/ with the private tree lies (default ~/.cache)

set -euo pipefail
umask 022

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$project/.venv
cache=${XDG_CACHE_HOME:-${HOME:?HOME must be set}/.cache}/congested
minimum=0.9
extras=test,dev
log=''

# The package list and everything about the private tree.
# shellcheck source=scripts/private_tree.sh
. "$project/scripts/private_tree.sh"

# ------------------------------------------------------------------------------------ small helpers

say() { printf 'setup: %s\n' "$*"; }

die() {
    printf 'setup: error: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf '       %s\n' "$@" >&2
    exit 1
}

# step TEXT COMMAND…: run it quietly; print the text, the seconds, and on failure the end of its output.
step() {
    local text=$1 start=${EPOCHREALTIME/[.,]/} status=0
    shift
    printf 'setup: %s … ' "$text"
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ "$status" != 0 ]; then
        printf 'failed\n'
        tail -n 40 "$log" >&2
        die "\"$text\" failed with status $status; the command was: $*"
    fi
    local tenths=$(((${EPOCHREALTIME/[.,]/} - start) / 100000))
    printf '%d.%d s\n' $((tenths / 10)) $((tenths % 10))
}

has() { command -v "$1" >/dev/null 2>&1; }

# What a set-up depends on; .venv/stamp holds its value when the set-up was finished.
stamp() {
    {
        printf '%s\n' "$project" "${CONGESTED_ROUTE-}" "${CONGESTED_PYTHON-}"
        cat "$project/pyproject.toml" "$project/environment.yml" "$project/scripts/setup.sh" \
            "$project/scripts/private_tree.sh" "$project/scripts/enter.sh"
    } | sha256sum | cut -c 1-16
}

# Imports what everything stands on; one line, the versions. Fails when a piece is missing or wrong.
smoke_test() {
    # -P: the package as installed, not the folder that this is started from.
    "$venv/bin/python" -P - <<'PYTHON'
import platform
from importlib.metadata import version

import congested
import dolfinx
import numpy as np
from mpi4py import MPI
from petsc4py import PETSc

if not np.issubdtype(PETSc.ScalarType, np.floating):
    raise SystemExit("PETSc is built for complex numbers; congested needs the real build")
print(
    f"{congested.__name__} {version('congested')}, DOLFINx {dolfinx.__version__}, "
    f"PETSc {'.'.join(map(str, PETSc.Sys.getVersion()))}, "
    f"{MPI.Get_library_version().split(',')[0].strip()}, Python {platform.python_version()}"
)
PYTHON
}

# ------------------------------------------------------------------------------- the four ways

# Sets `python` to the first Python at hand that has a DOLFINx new enough.
find_python_with_dolfinx() {
    local candidate
    for candidate in ${CONGESTED_PYTHON:-python3 python /usr/bin/python3}; do
        has "$candidate" || continue
        if "$candidate" - "$minimum" >/dev/null 2>&1 <<'PYTHON'; then
import sys
import dolfinx
from mpi4py import MPI
from petsc4py import PETSc
pair = lambda text: tuple(int(part) for part in text.split(".")[:2])
sys.exit(pair(dolfinx.__version__) < pair(sys.argv[1]) or isinstance(PETSc.ScalarType(0), complex))
PYTHON
            python=$(command -v "$candidate")
            return 0
        fi
    done
    return 1
}

find_conda() {
    local candidate
    for candidate in "${MAMBA_EXE-}" "${CONDA_EXE-}" mamba micromamba conda; do
        if [ -n "$candidate" ] && has "$candidate"; then
            conda=$candidate
            return 0
        fi
    done
    return 1
}

apt_candidate() {
    LC_ALL=C apt-cache policy python3-dolfinx-real 2>/dev/null | sed -n 's/^ *Candidate: *\([0-9:]*[0-9.]*\).*/\1/p'
}

apt_has_dolfinx() {
    local found
    has apt-get && has apt-cache || return 1
    # A fresh container has no lists yet, and apt-cache then knows nothing.
    if [ "$(id -u)" = 0 ] && [ -z "$(find /var/lib/apt/lists -name '*Packages*' -print -quit 2>/dev/null)" ]; then
        step "apt-get update (no package lists yet)" apt-get -q update
    fi
    found=$(apt_candidate)
    found=${found#*:}
    [ -n "$found" ] && dpkg --compare-versions "$found" ge "$minimum"
}

# apt_install PACKAGE…: as root; otherwise says what to type.
apt_install() {
    if [ "$(id -u)" != 0 ]; then
        die "these packages are missing, and only root can install them:" \
            "sudo apt-get update && sudo apt-get install --no-install-recommends $*" \
            "Then run scripts/setup.sh again."
    fi
    step "apt-get update" apt-get -q update
    step "apt-get install $(printf '%.60s' "$*")" env DEBIAN_FRONTEND=noninteractive \
        apt-get -qy -o DPkg::Lock::Timeout=300 install --no-install-recommends "$@"
}

missing_packages() {
    local package
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
            printf '%s\n' "$package"
    done
}

# A venv on a Python that has DOLFINx. Argument: that Python.
venv_on_python() {
    local parent
    step "venv on $1" "$1" -m venv --system-site-packages "$venv"
    # A venv on a venv (the Docker image's) sees the base Python's packages only: name the parent's.
    parent=$("$1" -c 'import site, sys
if sys.prefix != sys.base_prefix:
    print(*(f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()), sep="\n")')
    if [ -n "$parent" ]; then
        printf '%s\n' "$parent" >"$("$venv/bin/python" -c 'import sysconfig
print(sysconfig.get_path("purelib"))')/parent_environment.pth"
    fi
    pip_install "$venv/bin"
    local name
    for name in mpirun mpiexec; do
        if has "$name"; then
            write_mpi_wrapper "$name" "$(command -v "$name")"
        fi
    done
    [ -e "$venv/bin/mpirun" ] || die "no mpirun on PATH, though DOLFINx is there: install the MPI that it uses"
}

# write_mpi_wrapper NAME PROGRAM [LINE]: .venv/bin/NAME runs PROGRAM, allowed as root and on few cores.
write_mpi_wrapper() {
    cat >"$venv/bin/$1" <<SHELL
#!/usr/bin/env bash
# Written by scripts/setup.sh.
${3-}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe="\${OMPI_MCA_rmaps_base_oversubscribe:-1}"
export PRTE_MCA_rmaps_default_mapping_policy="\${PRTE_MCA_rmaps_default_mapping_policy:-:oversubscribe}"
export OMP_NUM_THREADS="\${OMP_NUM_THREADS:-1}"
exec "$2" "\$@"
SHELL
    chmod +x "$venv/bin/$1"
}

# pip_install BIN: this project and its tools into the venv whose programs are in BIN.
pip_install() {
    step "pip install congested[$extras]" "$venv/bin/python" -m pip install \
        --disable-pip-version-check --quiet --editable "${project}[$extras]"
    # Where the distribution has pytest, pip installs none, and there would be no .venv/bin/pytest.
    if [ ! -e "$1/pytest" ]; then
        printf '#!/bin/sh\nexec "%s/python" -m pytest "$@"\n' "$1" >"$1/pytest"
        chmod +x "$1/pytest"
    fi
}

set_up_conda() {
    local prefix=$venv/conda program name activate
    # micromamba and older conda differ in their words for the same thing.
    case ${conda##*/} in
        micromamba*) step "conda environment with $conda (minutes)" "$conda" create --yes --prefix "$prefix" --file "$project/environment.yml" ;;
        *) step "conda environment with $conda (minutes)" "$conda" env create --prefix "$prefix" --file "$project/environment.yml" ;;
    esac
    step "pip install congested" "$prefix/bin/python" -m pip install --disable-pip-version-check \
        --quiet --no-deps --editable "$project"
    mkdir -p "$venv/bin"
    # The packages' activation scripts set what the form compiler needs (CC and the like).
    activate="export CONDA_PREFIX='$prefix' PATH='$prefix/bin':\"\$PATH\"
for file in '$prefix'/etc/conda/activate.d/*.sh; do [ ! -e \"\$file\" ] || . \"\$file\"; done"
    for program in "$prefix"/bin/*; do
        name=${program##*/}
        case $name in
            mpirun | mpiexec) write_mpi_wrapper "$name" "$program" "$activate" ;;
            python | python3 | pip | congested | pytest | ruff | mypy | lint-imports | pre-commit | jupyter*)
                printf '#!/usr/bin/env bash\n# Written by scripts/setup.sh.\n%s\nexec "%s" "$@"\n' \
                    "$activate" "$program" >"$venv/bin/$name"
                chmod +x "$venv/bin/$name"
                ;;
        esac
    done
}

# ------------------------------------------------------------------------------------------- main

choose_route() {
    if [ -n "${CONGESTED_ROUTE-}" ]; then
        route=$CONGESTED_ROUTE
        case $route in
            python) find_python_with_dolfinx || die "no Python at hand has DOLFINx >= $minimum" ;;
            conda) find_conda || die "no conda, mamba or micromamba on PATH" ;;
            apt) apt_has_dolfinx || die "apt knows no DOLFINx >= $minimum" ;;
            tree) ;;
            *) die "CONGESTED_ROUTE is \"$route\"; it can be python, conda, apt or tree" ;;
        esac
    elif find_python_with_dolfinx; then
        route=python
    elif find_conda; then
        route=conda
    elif apt_has_dolfinx; then
        route=apt
    elif has apt-get && has dpkg; then
        route=tree
    else
        die "found no way to get DOLFINx >= $minimum on this system. Any of these will do:" \
            "conda, mamba or micromamba on PATH; the Docker image dolfinx/dolfinx; Debian 12 or later; a recent Ubuntu"
    fi
}

main() {
    local begin=$SECONDS python='' conda='' entry='' mirror='' wanted versions
    local -a missing
    [ $# -eq 0 ] || die "takes no arguments; its head tells the environment variables it knows"
    wanted=$(stamp)
    # Every command below inherits this lock: should this script be killed, the next one waits until
    # the last of them is gone.
    exec 9<"$project/scripts/setup.sh"
    flock --nonblock 9 || {
        say "another set-up of this folder is running: waiting for it"
        flock 9
    }
    if [ "$(cat "$venv/stamp" 2>/dev/null)" = "$wanted" ]; then
        if versions=$(smoke_test 2>/dev/null); then
            say "up to date: $versions"
            return
        fi
        say "the set-up was finished, but does not work any more: doing it again"
    fi
    [ ! -e /.congested-tree ] || die "out of date, and called from inside the private tree: run scripts/setup.sh from outside"
    if [ -e "$venv" ] && [ ! -e "$venv/made-by-setup" ]; then
        die "$venv was not made by this script: move it away, and run scripts/setup.sh again"
    fi
    mkdir -p "$cache"
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    trap 'printf "\nsetup: interrupted\n" >&2; exit 130' INT
    choose_route
    rm -rf --one-file-system "$venv"
    mkdir "$venv"
    printf '%s\n' "$route" >"$venv/made-by-setup"
    case $route in
        python)
            say "DOLFINx is there already, in $python"
            venv_on_python "$python"
            ;;
        conda)
            say "DOLFINx comes from conda-forge, by $conda"
            set_up_conda
            ;;
        apt)
            say "DOLFINx comes from this system's own packages (apt)"
            mapfile -t missing < <(missing_packages "${packages[@]}")
            [ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"
            venv_on_python /usr/bin/python3
            ;;
        tree)
            say "DOLFINx comes in a private Debian 13 tree; nothing on this system changes"
            set_up_tree
            set_up_venv_in_tree
            ;;
    esac
    versions=$(smoke_test) || die "the set-up went through, but its smoke test failed"
    printf '%s\n' "$wanted" >"$venv/stamp.new"
    mv "$venv/stamp.new" "$venv/stamp"
    say "done in $((SECONDS - begin)) s: $versions"
}

main "$@"
