"""The files that install and check the project agree with each other and do what they say."""

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
SHELL_SCRIPTS = [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"]

# What conda calls otherwise, and what only conda has to bring (PyPI has no DOLFINx).
CONDA_NAME = {"torch": "pytorch"}
ONLY_CONDA = {
    "c-compiler",
    "fenics-dolfinx",
    "h5py",
    "mpi4py",
    "petsc4py",
    "pip",
    "python",
    "python-gmsh",
}


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def conda() -> dict[str, Requirement]:
    content = yaml.safe_load((ROOT / "environment.yml").read_text())
    requirements = [Requirement(line) for line in content["dependencies"]]
    names = [requirement.name for requirement in requirements]
    assert len(set(names)) == len(names), "a name is there twice"
    return {requirement.name: requirement for requirement in requirements}


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=120, **options
    )


# ---------------------------------------------------------------------------------------- versions


def test_conda_asks_for_the_versions_of_pyproject(
    pyproject: dict[str, Any], conda: dict[str, Requirement]
) -> None:
    project = pyproject["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    requirements = [Requirement(line) for group in groups for line in group]
    assert len(requirements) >= 14
    expected = {CONDA_NAME.get(item.name, item.name): item.specifier for item in requirements}
    found = {name: item.specifier for name, item in conda.items() if name not in ONLY_CONDA}
    assert found == expected
    assert conda["python"].specifier == Requirement("python" + project["requires-python"]).specifier


def test_every_requirement_has_a_lower_bound(pyproject: dict[str, Any]) -> None:
    project = pyproject["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for line in [line for group in groups for line in group]:
        assert [part.operator for part in Requirement(line).specifier] == [">="], line


def test_setup_and_conda_ask_for_the_same_dolfinx(conda: dict[str, Requirement]) -> None:
    minimum = re.search(r"^minimum=(\S+)$", (ROOT / "scripts/setup.sh").read_text(), re.MULTILINE)
    assert minimum is not None
    assert str(conda["fenics-dolfinx"].specifier) == f">={minimum[1]}"


def test_versions_of_package_and_citation_agree() -> None:
    from congested.version import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert Version(citation["version"]) == Version(__version__)
    assert citation["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_installed_requirements_are_new_enough(pyproject: dict[str, Any]) -> None:
    from importlib.metadata import version

    for line in pyproject["project"]["dependencies"]:
        requirement = Requirement(line)
        assert version(requirement.name) in requirement.specifier, line


# ------------------------------------------------------------------------------------- source tree


def test_lower_layers_never_import_higher_ones() -> None:
    completed = run(
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command as c; c()",
        cwd=ROOT,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    contracts = (ROOT / "pyproject.toml").read_text().count("[[tool.importlinter.contracts]]")
    assert f"{contracts} kept, 0 broken" in completed.stdout


def test_no_source_file_is_longer_than_500_lines() -> None:
    folders = ["congested", "scripts", "tests"]
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")] + SHELL_SCRIPTS
    assert len(files) > 20
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in files}
    assert {name: lines for name, lines in lengths.items() if lines > 500} == {}


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda path: path.name)
def test_shell_script_parses_and_is_executable(script: Path) -> None:
    assert os.access(script, os.X_OK)
    completed = run("bash", "-n", script)
    assert (completed.returncode, completed.stderr) == (0, "")
    assert "set -euo pipefail" in script.read_text()


def test_ci_runs_the_test_script_and_nothing_else() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["exec scripts/test.sh"]


# ------------------------------------------------------------------------------------------ set-up


@pytest.fixture
def bare_project(tmp_path: Path) -> Path:
    """Return a folder with what setup.sh reads, and with no .venv."""
    for name in ["pyproject.toml", "environment.yml"]:
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    return tmp_path


@pytest.mark.skipif(not (ROOT / ".venv" / "stamp").exists(), reason="not set up by setup.sh")
def test_second_setup_is_quick_and_changes_nothing() -> None:
    stamp = ROOT / ".venv" / "stamp"
    before = stamp.stat().st_mtime_ns
    start = time.perf_counter()
    completed = run(ROOT / "scripts" / "setup.sh")
    seconds = time.perf_counter() - start
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert re.fullmatch(
        r"setup: up to date: congested \S+, DOLFINx 0\.\d+\.\d+\S*, PETSc 3\.\d+\.\d+, .*, "
        r"Python 3\.\d+\.\d+\S*\n",
        completed.stdout,
    )
    assert stamp.stat().st_mtime_ns == before
    assert seconds < 20  # 1 s on a quiet machine; one on which all cores are taken needs more


def test_setup_leaves_a_foreign_venv_alone(bare_project: Path) -> None:
    if Path("/.congested-tree").exists():
        pytest.skip("inside the private tree setup.sh refuses earlier")
    keepsake = bare_project / ".venv" / "keepsake"
    keepsake.parent.mkdir()
    keepsake.write_text("mine")
    completed = run(bare_project / "scripts" / "setup.sh")
    assert completed.returncode == 1
    assert "was not made by this script" in completed.stderr
    assert keepsake.read_text() == "mine"


@pytest.mark.skipif(not Path("/.congested-tree").exists(), reason="no private tree here")
def test_setup_inside_the_tree_says_to_run_it_outside(bare_project: Path) -> None:
    completed = run(bare_project / "scripts" / "setup.sh")
    assert completed.returncode == 1
    assert "run scripts/setup.sh from outside" in completed.stderr
    assert not (bare_project / ".venv").exists()


def test_setup_takes_no_arguments(bare_project: Path) -> None:
    completed = run(bare_project / "scripts" / "setup.sh", "--force")
    assert completed.returncode == 1
    assert "takes no arguments" in completed.stderr


def test_enter_without_a_tree_names_the_remedy(bare_project: Path) -> None:
    (bare_project / ".venv" / "bin").mkdir(parents=True)
    link = bare_project / ".venv" / "bin" / "python"
    link.symlink_to("../../scripts/enter.sh")
    completed = run(link, "-c", "print('never')")
    assert (completed.returncode, completed.stdout) == (1, "")
    assert "run scripts/setup.sh again" in completed.stderr


@pytest.mark.skipif(not (ROOT / ".venv" / "bin" / "python").exists(), reason="not set up")
class TestEntryPoints:
    """.venv/bin/* pass everything through, also when called from inside."""

    python = ROOT / ".venv" / "bin" / "python"

    def test_exit_status_and_standard_input(self) -> None:
        code = "import sys; print(sys.stdin.read()[::-1]); sys.exit(7)"
        completed = run(self.python, "-c", code, input="abc")
        assert (completed.returncode, completed.stdout) == (7, "cba\n")

    def test_working_directory_and_arguments(self, tmp_path: Path) -> None:
        folder = tmp_path / "a folder"
        folder.mkdir()
        code = "import os, sys; print(os.getcwd(), sys.argv[1:])"
        completed = run(self.python, "-c", code, "one two", "*", "", cwd=folder)
        assert completed.stdout == f"{folder} ['one two', '*', '']\n"

    def test_termination_reaches_the_program(self) -> None:
        code = "print('up', flush=True); import time; time.sleep(60)"
        with subprocess.Popen(
            [self.python, "-c", code], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            process.terminate()
            assert process.wait(timeout=10) == -15

    def test_ranks_find_each_other(self) -> None:
        mpirun = ROOT / ".venv" / "bin" / "mpirun"
        code = (
            "from mpi4py import MPI\n"
            "ranks = MPI.COMM_WORLD.gather(MPI.COMM_WORLD.rank)\n"
            "if ranks: print(ranks)"
        )
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("OMPI_COMM", "PMIX", "PMI_", "PRTE_MCA_prte"))
        }
        completed = run(mpirun, "-n", "3", self.python, "-c", code, env=environment)
        assert completed.returncode == 0, completed.stderr
        assert completed.stdout == "[0, 1, 2]\n"
