# The private Debian 13 tree: its package list, and how it is made. Sourced by scripts/setup.sh, whose
# helpers and variables it uses; scripts/enter.sh runs programs in it.
# shellcheck shell=bash disable=SC2034,SC2154

set -euo pipefail

suite=trixie
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
as_owner=()

# What the private tree holds; the route "apt" asks for the same (Ubuntu has the same names).
packages=(
    ca-certificates git
    python3-dolfinx-real python3-petsc4py-real python3-mpi4py openmpi-bin
    gcc libc6-dev python3-dev python3-pip python3-venv
    libopenblas0-pthread # the reference BLAS that comes without it is 20 times slower
    python3-scipy python3-matplotlib python3-h5py python3-h5py-mpi python3-meshio python3-gmsh python3-torch
    python3-pytest python3-pytest-xdist python3-hypothesis
    python3-nbclient python3-nbconvert python3-ipykernel
    libegl1 libegl-mesa0 libgl1-mesa-dri libosmesa6 libxrender1
)
# Folders of these packages that nothing here reads (a fifth of the tree's files).
left_out=(
    /usr/share/man /usr/share/locale /usr/share/doc /usr/lib/libtorch-test
    /usr/include/boost /usr/share/javascript/mathjax /usr/libexec/valgrind
)

tree_key() {
    printf '%s\n' "$suite" "$(dpkg --print-architecture)" "${packages[@]}" "${left_out[@]}" |
        sha256sum | cut -c 1-12
}

# Ends the script when this system refuses a mount namespace with everything scripts/enter.sh needs.
check_namespaces() {
    local probe status=0
    local -a namespace=(unshare -m --propagation private)
    [ "$(id -u)" = 0 ] || namespace=(unshare -U --map-current-user --keep-caps -m --propagation private)
    probe=$(mktemp -d)
    # shellcheck disable=SC2016  # the inner shell expands these
    "${namespace[@]}" bash -euc 'mount -t tmpfs tmpfs "$1"
        mkdir "$1/usr" "$1/proc"
        mount --rbind /usr "$1/usr"
        mount --rbind /proc "$1/proc"
        for link in bin sbin lib lib64; do ln -s "usr/$link" "$1/$link"; done
        PATH=$PATH:/usr/sbin:/sbin
        chroot "$1" /bin/true' bash "$probe" >"$log" 2>&1 || status=$?
    rmdir "$probe"
    [ "$status" = 0 ] || die "this system refuses the mount namespace that the private Debian tree needs:" \
        "$(tail -n 1 "$log")" \
        "Ways that do without:" \
        "  conda, mamba or micromamba on PATH, then scripts/setup.sh again" \
        "  the Docker image dolfinx/dolfinx with this folder mounted, and scripts/setup.sh in it" \
        "  Debian 13 or later, or a recent Ubuntu (its own packages are used)" \
        "A container started with --privileged, or with --cap-add SYS_ADMIN --security-opt apparmor=unconfined, allows it."
}

# Ends the script when what builds the tree is missing and cannot be installed. Sets `as_owner`, the
# words before a command that shall run as the owner of all the tree's files.
check_builder() {
    local -a needed=(mmdebstrap)
    [ "$(id -u)" = 0 ] || needed+=(uidmap)
    [ -e "$keyring" ] || needed+=(debian-archive-keyring)
    mapfile -t needed < <(missing_packages "${needed[@]}")
    [ ${#needed[@]} -eq 0 ] || apt_install "${needed[@]}"
    [ "$(id -u)" != 0 ] || return 0
    # Packages have files of several users; a user namespace with subordinate ids has several users.
    as_owner=(unshare --map-root-user --map-auto)
    "${as_owner[@]}" true 2>"$log" || die "user $(id -un) cannot make a user namespace with subordinate ids, which building the tree needs:" \
        "$(tail -n 1 "$log")" \
        "If /etc/subuid has no line for you: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $(id -un)"
}

debian_mirror() {
    local found=''
    if has apt-get; then
        # shellcheck disable=SC2016  # apt expands these
        found=$(apt-get indextargets --format '$(LABEL) $(SITE)' 'Created-By: Packages' 2>/dev/null |
            sed -n 's/^Debian \(http.*\)/\1/p' | head -n 1 || true)
    fi
    printf '%s\n' "${CONGESTED_MIRROR:-${found:-http://deb.debian.org/debian}}"
}

# Remove what a killed set-up left.
remove_leftover() {
    local path
    for path in "$@"; do
        if [ -e "$path" ]; then
            say "removing what an interrupted set-up left: $path"
            "${as_owner[@]}" rm -rf --one-file-system "$path"
        fi
    done
}

# bootstrap TARGET: Debian with the packages, in the new directory TARGET. (Run by `step`, where a
# failing command does not end the script by itself.)
bootstrap() {
    local target=$1 path list alive
    local -a options
    list=$(IFS=,; printf '%s' "${packages[*]}")
    options=(--mode=root --variant=minbase --include="$list")
    for path in "${left_out[@]}"; do
        options+=(--dpkgopt="path-exclude=$path/*")
    done
    if [ -e "$keyring" ]; then
        options+=(--keyring="$keyring")
    fi
    # In a process namespace of its own nothing outlives its first process, and in a mount namespace
    # no mount does. The first process reads a pipe that this script alone holds open: when the
    # script is gone, however it went, the read ends and everything in the namespace is killed.
    mkfifo "$target.alive" && exec {alive}<>"$target.alive" || return
    # shellcheck disable=SC2016  # the inner shell expands these
    "${as_owner[@]}" unshare -m -p --fork --kill-child --mount-proc --propagation private bash -c '
        target=$1
        shift
        { read -r _ <&3; kill -KILL -1; } &
        exec 3<&-
        mmdebstrap "$@" || exit
        # A user who builds in a user namespace shall own all of it, also what belongs to _apt or man.
        find "$target" ! -uid 0 -exec chown -h 0:0 {} +' \
        bash "$target" "${options[@]}" "$suite" "$target" "$mirror" 3<"$target.alive" {alive}>&- || return
    exec {alive}>&-
    rm "$target.alive"
}

# Sets `entry`: the cache entry of the package list, made if it is not there.
set_up_tree() {
    local free partial other lock
    entry=$cache/debian-$suite-$(tree_key)
    if [ -d "$entry" ]; then
        say "private Debian tree: $entry (there already)"
        return
    fi
    check_namespaces
    check_builder
    free=$(df --output=avail -k "$cache" | tail -n 1)
    [ "$free" -gt 4500000 ] || die "the private Debian tree needs 4.5 GB in $cache, and $((free / 1000)) MB are free"

    exec {lock}>"$cache/lock"
    flock --nonblock "$lock" || {
        say "another set-up is building the tree: waiting for it"
        flock "$lock"
    }
    if [ ! -d "$entry" ]; then
        remove_leftover "$cache"/*.partial
        mirror=$(debian_mirror)
        partial=$entry.partial
        mkdir -p "$partial/mnt"
        say "private Debian tree: ${#packages[@]} packages and what they need from $mirror (3 GB, minutes)"
        step "mmdebstrap $suite" bootstrap "$partial/root"
        finish_tree "$partial"
        mv "$partial" "$entry"
        say "private Debian tree: $entry, $(du -sh "$entry" | cut -f 1)B"
        for other in "$cache/debian-"*; do
            [ "$other" = "$entry" ] || say "an older tree lies beside it; delete it when nothing uses it: $other"
        done
    fi
    exec {lock}>&-
}

# finish_tree DIRECTORY: mount points for the host's files, the lock file, the check of the version.
finish_tree() {
    local root=$1/root file
    for file in resolv.conf hosts passwd group ssl/certs/ca-certificates.crt; do
        [ ! -L "$root/etc/$file" ] || rm "$root/etc/$file"
        [ -e "$root/etc/$file" ] || : >"$root/etc/$file"
    done
    rm -rf "${root:?}/var/cache/apt/archives" "$root/var/lib/apt/lists"
    dpkg-query --admindir="$root/var/lib/dpkg" -W >"$1/packages.lock"
    grep -qE "^python3-dolfinx-real[[:space:]]+(1:)?0\.9\." "$1/packages.lock" ||
        die "this mirror's Debian $suite has another DOLFINx than 0.9: $(grep '^python3-dolfinx-real' "$1/packages.lock")"
    report_drift "$1/packages.lock"
}

# Packages move with Debian's point releases. Tell which of those asked for differ from what was tested.
report_drift() {
    local tested=$project/scripts/debian-$suite.lock
    [ -e "$tested" ] || return 0
    local count
    count=$(join -j 1 <(sort "$tested") <(sort "$1") | awk '$2 != $3' | wc -l)
    [ "$count" = 0 ] || say "warning: $count packages of the tree have another version than scripts/debian-$suite.lock, with which this was tested"
}

set_up_venv_in_tree() {
    local name program
    mkdir -p "$venv/bin"
    ln -sfn "$entry" "$venv/cache"
    step "venv in the tree" "$project/scripts/enter.sh" /usr/bin/python3 -m venv --system-site-packages "$venv/tree"
    ln -s ../../scripts/enter.sh "$venv/bin/python"
    pip_install "$venv/tree/bin"
    ln -s ../../scripts/enter.sh "$venv/bin/mpirun"
    ln -s ../../scripts/enter.sh "$venv/bin/mpiexec"
    for program in "$venv/tree/bin/"*; do
        name=${program##*/}
        case $name in activate* | Activate*) continue ;; esac
        [ -e "$venv/bin/$name" ] || ln -s ../../scripts/enter.sh "$venv/bin/$name"
    done
}
