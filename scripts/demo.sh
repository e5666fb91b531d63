#!/usr/bin/env bash
# The main job from any state of the machine: set up what is missing, then solve the published pair.
# Arguments go to scripts/demo.py (`scripts/demo.sh --help`).

set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

"$project/scripts/setup.sh"
exec "$project/.venv/bin/python" "$project/scripts/demo.py" "$@"
