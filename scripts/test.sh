#!/usr/bin/env bash
# Set up what is missing, then everything CI checks: ruff, mypy, the layering, the tests on one rank,
# and tests/mpi on two and three ranks. All parts run, whichever fails; the exit status tells.
#
#     scripts/test.sh                          everything
#     scripts/test.sh tests/measures -k ball   arguments go to pytest; the MPI part is left out

set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$project"
scripts/setup.sh

bin=$project/.venv/bin
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
results=()
failed=0

# part NAME COMMAND…: run it, remember how it went and how long it took.
part() {
    local name=$1 start=$SECONDS status=0
    shift
    printf '\n== %s\n' "$name"
    "$@" || status=$?
    [ "$status" = 0 ] || failed=1
    results+=("$(printf '%-22s %-18s %4d s' "$name" \
        "$([ "$status" = 0 ] && echo passed || echo "FAILED (status $status)")" $((SECONDS - start)))")
}

# pytest on one rank, several files at a time; its closing line is kept, to be the last line of this
# script. More than four would need more than the 16 GB that many machines have.
serial_tests() {
    local workers
    workers=$(nproc)
    "$bin/python" -m pytest -n "$((workers < 4 ? workers : 4))" --dist loadfile "$@" | tee "$logs/serial"
}

# parallel_tests RANKS: tests/mpi. Rank 0 speaks; the others' output is shown when something failed.
parallel_tests() {
    local status=0 rank
    # A test that fails on one rank leaves the others waiting in a collective: the thread method of
    # pytest-timeout ends a rank even inside MPI, and that ends the run; timeout is the last resort.
    # shellcheck disable=SC2016  # each rank's shell expands these
    timeout --kill-after=10 900 "$bin/mpirun" -n "$1" bash -c '
        rank=${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}} python=$1 logs=$2
        [ "$rank" = 0 ] || exec >"$logs/rank$rank" 2>&1
        exec "$python" -m pytest tests/mpi --color=no -p no:cacheprovider -o timeout_method=thread' \
        bash "$bin/python" "$logs" || status=$?
    if [ "$status" != 0 ]; then
        for ((rank = 1; rank < $1; rank++)); do
            printf -- '---- rank %d of %d\n' "$rank" "$1"
            tail -n 60 "$logs/rank$rank" 2>/dev/null || true
        done
    fi
    rm -f "$logs"/rank*
    return "$status"
}

part "ruff" "$bin/ruff" check .
part "mypy" "$bin/mypy"
part "layers" "$bin/lint-imports"
part "pytest" serial_tests "$@"
if [ $# -gt 0 ]; then
    results+=("MPI part left out: pytest was given arguments")
else
    for ranks in 2 3; do
        part "pytest on $ranks ranks" parallel_tests "$ranks"
    done
fi

printf '\n'
printf '%s\n' "${results[@]}"
if [ "$failed" != 0 ]; then
    printf 'scripts/test.sh: something failed, see above\n'
    exit 1
fi
# The closing line of the tests on one rank, without colours.
tail -n 1 "$logs/serial" | sed 's/\x1b\[[0-9;]*m//g'
