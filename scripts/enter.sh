#!/usr/bin/env bash
# Run one program of the private Debian 13 tree that scripts/setup.sh made.
#
# .venv/bin/python, .venv/bin/congested, .venv/bin/mpirun, … are links to this file; the name it was
# called by says which program is meant. Called by its own name it takes a command:
#
#     scripts/enter.sh bash -c 'gcc --version'
#
# What it does: a mount namespace of its own, in which /usr, /etc and /var are the tree's and every
# other directory is the host's, so that the project, the home folder and /tmp are where they were.
# Everything happens by exec in one process: exit codes, signals and standard input pass through.
# Nothing on the host changes, and the mounts vanish with the process.

set -euo pipefail

die() {
    printf 'congested: %s\n' "$1" >&2
    exit 1
}

# ---------------------------------------------------------------- second stage, inside the namespace
# Arguments: the cache entry (holds root/ and mnt/), the project, the program, its arguments.
mount_and_exec() {
    local entry=$1 project=$2 program=$3
    shift 3
    local root=$entry/root mnt=$entry/mnt cwd path name
    cwd=$(pwd -P)

    mount -t tmpfs -o mode=755 tmpfs "$mnt"
    # The home folder holds $mnt and is bound below: unbindable keeps that from binding it twice.
    mount --make-unbindable "$mnt"
    for name in usr etc var; do
        mkdir "$mnt/$name"
        mount --rbind "$root/$name" "$mnt/$name"
    done
    for path in "$root"/*; do
        if [ -L "$path" ]; then
            cp -P "$path" "$mnt/"          # bin, sbin, lib, lib64
        fi
    done
    for path in /*; do
        name=${path#/}
        if [ -e "$mnt/$name" ] || [ -L "$mnt/$name" ]; then
            continue
        elif [ -L "$path" ]; then
            cp -P "$path" "$mnt/"
        elif [ -d "$path" ]; then
            mkdir "$mnt/$name"
            # A directory that cannot be bound (another user's FUSE mount, say) is only left out.
            mount --rbind "$path" "$mnt/$name" 2>/dev/null || rmdir "$mnt/$name"
        fi
    done
    for name in resolv.conf hosts passwd group ssl/certs/ca-certificates.crt; do
        if [ -e "/etc/$name" ] && [ -e "$mnt/etc/$name" ]; then
            mount --bind "/etc/$name" "$mnt/etc/$name"
        fi
    done
    # A home folder, project or temporary folder below /usr, /etc or /var (a build server's
    # /var/lib/jenkins) is brought along, unless the tree has something of its own there.
    for path in /var/tmp "${HOME:-/}" "$project" "$entry" "${TMPDIR:-/tmp}" "$cwd"; do
        case $path in
            /usr/* | /etc/* | /var/*)
                if [ -d "$path" ] && [ -z "$(ls -A "$mnt$path" 2>/dev/null)" ]; then
                    mkdir -p "$mnt$path"
                    mount --rbind "$path" "$mnt$path"
                fi
                ;;
        esac
    done
    basename "$entry" >"$mnt/.congested-tree"

    local chroot
    chroot=$(PATH=$PATH:/usr/sbin:/sbin command -v chroot)
    prepare_environment "$project"
    local -a drop=()
    if [ "$(id -u)" != 0 ]; then
        drop=(setpriv --inh-caps=-all --ambient-caps=-all --)   # lent for the mounts only
    fi
    # shellcheck disable=SC2016  # the inner shell expands these
    exec "$chroot" "$mnt" /bin/bash -c 'cd -- "$0" && exec "$@"' "$cwd" "${drop[@]}" "$program" "$@"
}

# The environment of every program of the tree. Argument: the project.
prepare_environment() {
    export PATH="$1/.venv/tree/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    # Programs and libraries of the host that these would name are not in the tree.
    unset LD_LIBRARY_PATH LD_PRELOAD PYTHONHOME PETSC_DIR PETSC_ARCH SLEPC_DIR
    unset CC CXX CPP CFLAGS CXXFLAGS CPPFLAGS LDFLAGS
    export PYTHONNOUSERSITE=1
    # OpenMPI: run as root, silently, with more ranks than cores, all on this machine.
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    # Vectors and small matrices gain nothing from a second thread, which waits busily.
    export OPENBLAS_NUM_THREADS="${OPENBLAS_NUM_THREADS:-1}"
    export OMPI_MCA_btl="${OMPI_MCA_btl:-self,sm}"
    export PRTE_MCA_rmaps_default_mapping_policy="${PRTE_MCA_rmaps_default_mapping_policy:-:oversubscribe}"
}

if [ "${CONGESTED_ENTER_STAGE-}" = 2 ]; then
    unset CONGESTED_ENTER_STAGE
    mount_and_exec "$@"
fi

# ------------------------------------------------------------------------------ first stage, outside
# Which link was called, and so which project and which program. A link to the link is followed.
link=$0
case $link in */*) ;; *) link=./$link ;; esac
while [ -L "$link" ]; do
    target=$(readlink "$link")
    case $target in
        */scripts/enter.sh) break ;;
        /*) link=$target ;;
        *) link=${link%/*}/$target ;;
    esac
done
if [ -L "$link" ]; then
    project=$(cd "${link%/*}/../.." && pwd -P)
    name=${link##*/}
else
    project=$(cd "${link%/*}/.." && pwd -P)
    [ $# -gt 0 ] || die "usage: scripts/enter.sh COMMAND [ARGUMENT…]"
    name=$1
    shift
fi
entry=$(readlink "$project/.venv/cache" || true)
if [ ! -d "$entry/root/usr" ]; then
    die "the private Debian tree of $project is gone: run scripts/setup.sh again"
fi

case $name in
    mpirun | mpiexec)
        program=/usr/bin/$name
        # Each rank would otherwise bring its own threads for dense linear algebra.
        export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
        ;;
    */*) program=$name ;;
    *)
        if [ -L "$link" ] || [ -L "$project/.venv/bin/$name" ]; then
            program=$project/.venv/tree/bin/$name
        else
            program=$name
        fi
        ;;
esac

if [ -e /.congested-tree ]; then
    # Already inside: a rank that mpirun started, a test that starts .venv/bin/congested.
    [ "$(cat /.congested-tree)" = "${entry##*/}" ] ||
        die "called from inside another private tree ($(cat /.congested-tree)): call it from outside"
    prepare_environment "$project"
    exec "$program" "$@"
fi

if [ "${OMPI_COMM_WORLD_SIZE:-${PMI_SIZE:-1}}" -gt 1 ]; then
    die "started by the host's MPI, which would run unconnected copies: start it by $project/.venv/bin/mpirun"
fi

if [ "$(id -u)" = 0 ]; then
    namespace=(unshare -m --propagation private)
else
    namespace=(unshare -U --map-current-user --keep-caps -m --propagation private)
fi
export CONGESTED_ENTER_STAGE=2
exec "${namespace[@]}" "${BASH:-/bin/bash}" "$project/scripts/enter.sh" "$entry" "$project" "$program" "$@"
