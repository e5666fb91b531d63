"""Several critics against one solution: the report, its files and its table."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import congested as ct
from congested import parallel
from congested.comparison import Comparison, compare, picture_names
from congested.critics.certify import certifier
from congested.critics.evaluate import Evaluation
from congested.critics.network import Activation, Network
from congested.critics.relative import relative_suboptimality
from congested.errors import CongestedError, InputError
from congested.io.arrays import ResultArrays
from congested.plot_critic import critic_headline
from congested.report import compare_table
from tests.critics.references import own_potential, reference, solution


def network(seed: int = 3, dimension: int = 2, activation: Activation = Activation.RELU) -> Network:
    random = np.random.default_rng(seed)
    sizes = ((6, dimension), (1, 6))
    return Network(
        tuple(random.normal(size=size) for size in sizes),
        tuple(random.normal(size=size[0]) for size in sizes),
        activation,
    )


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    critics = {
        "random.pt": network(),
        "own": own_potential(reference("plane")),
        "smooth.npz": network(5, activation=Activation.TANH),
    }
    return compare(reference("plane"), critics)


def text_of(result: Mapping[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=120, color_system=None)
    console.print(compare_table(result, Path("out")))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_what_design_promises_is_in_the_file(comparison: Comparison, tmp_path: Path) -> None:
    written = comparison.write(tmp_path / "new" / "place")
    assert [path.name for path in written.iterdir()] == ["compare.json"]
    content = json.loads((written / "compare.json").read_text(encoding="utf-8"))
    bounds = reference("plane").bounds
    assert content["schema"] == 1
    assert content["reference"]["lower"] == pytest.approx(bounds.lower)
    assert content["reference"]["upper"] == pytest.approx(bounds.upper)
    assert (content["reference"]["scope"], content["reference"]["strength"]) == ("cell-data", 10.0)
    # The best first.
    assert next(iter(content["critics"])) == "own"
    losses = [one["suboptimality"]["upper"] for one in content["critics"].values()]
    assert losses == sorted(losses)
    for name, one in content["critics"].items():
        dual = one["critic_loss"] - one["penalty"]
        assert one["dual_value"] == pytest.approx(dual, abs=1e-14)
        assert one["momentum_l1_reading"] == pytest.approx(dual - one["penalty"], abs=1e-14)
        lower, upper = one["suboptimality"]["lower"], one["suboptimality"]["upper"]
        error = one["dual_value_error"]
        assert lower == pytest.approx(max(0.0, bounds.lower - dual - error), abs=1e-14)
        assert upper == pytest.approx(bounds.upper - dual + error, abs=1e-14)
        relative = one["relative_suboptimality"]
        assert relative["lower"] == pytest.approx(lower / bounds.upper, rel=1e-12, abs=1e-15)
        assert relative["upper"] == pytest.approx(upper / bounds.lower, rel=1e-12)
        best = one["best_multiple"]
        assert best["suboptimality"]["upper"] <= upper + best["dual_value_error"] + 1e-12
        for key in ("cosine", "gradient_l2"):
            assert {"source", "weight", "momentum", "error"} == set(one[key])
        assert {"critic", "solution"} == set(one["mean_gradient_norm"])
        method = "exact pieces" if name == "random.pt" else "quadrature"
        assert one["integration"]["method"] == method
        assert one["picture"] is None
    assert content["critics"]["random.pt"]["architecture"] == "2-6-1 relu"
    assert content["critics"]["own"]["architecture"] == "FunctionCritic"


def test_a_solution_and_its_files_are_the_same(tmp_path: Path) -> None:
    critic = network()
    solution("plane").write(tmp_path)
    read = ct.reference_from_directory(tmp_path)
    one = compare(solution("plane"), critic).result()
    other = compare(read, {"critic": critic}).result()
    for result in (one, other):
        result["critics"]["critic"].pop("seconds")
    assert json.dumps(one) == json.dumps(other)


@pytest.mark.parametrize("name", ["p2", "continuum", "closed", "w1", "cube, p2", "same"])
def test_every_kind_of_solution(name: str, tmp_path: Path) -> None:
    solution(name).write(tmp_path)
    read = ct.reference_from_directory(tmp_path)
    dimension = solution(name).mesh.topology.dim
    written = compare(read, network(3, dimension)).write(tmp_path)
    content = json.loads((written / "compare.json").read_text(encoding="utf-8"))
    assert content["reference"]["scope"] == "cell-data"
    (one,) = content["critics"].values()
    if name == "w1":
        assert (one["penalty"], one["dual_value"]) == ("inf", "-inf")
        assert one["suboptimality"] == {"lower": "inf", "upper": "inf"}
        assert 0.0 < one["best_multiple"]["dual_value"] < content["reference"]["upper"]
        assert one["cosine"]["weight"] is one["momentum_relative_l1"] is None
    elif name == "same":
        # Nothing is relative to a cost of zero.
        assert one["relative_suboptimality"] == {"lower": None, "upper": None}
        assert one["suboptimality"]["upper"] >= 0.0
    else:
        assert one["suboptimality"]["upper"] > one["suboptimality"]["lower"] > 0.0
    # The cells' data have another error than the original densities, which have none.
    assert (content["reference"]["data_error"] is None) == (name == "continuum")


def test_public_names_are_those_of_functions() -> None:
    import congested.comparison  # noqa: F401

    assert ct.compare is compare
    assert ct.Comparison is Comparison


# --- relative to the cost -----------------------------------------------------------------------


@pytest.mark.parametrize("worth", [-1e6, -3.0, -0.1, 0.0, 0.2, 0.35, 0.36, 0.37])
def test_relative_suboptimality_is_true_for_any_cost(worth: float) -> None:
    lower, upper = 0.36, 0.38
    least, most = relative_suboptimality((max(0.0, lower - worth), upper - worth), lower, upper)
    for cost in np.linspace(max(lower, worth), upper, 11):
        assert least <= (cost - worth) / cost * (1.0 + 1e-14)
        assert (cost - worth) / cost <= most * (1.0 + 1e-14)
    # Not much wider than it has to be.
    ends = [(cost - worth) / cost for cost in (lower, upper)]
    gap = 1.0 - lower / upper
    assert least >= min(ends) * (1.0 - gap) - 1e-14
    assert most <= max(ends) * (1.0 + 1.1 * gap)


def test_nothing_is_relative_to_a_cost_that_may_be_zero() -> None:
    for lower, upper in ((0.0, 0.0), (0.0, 0.1), (-0.1, 0.1), (math.nan, 1.0)):
        assert all(map(math.isnan, relative_suboptimality((0.0, 0.3), lower, upper)))
    assert relative_suboptimality((math.inf, math.inf), 0.3, 0.4) == (math.inf, math.inf)
    assert relative_suboptimality((math.inf, math.inf), 0.3, math.inf) == (math.inf, math.inf)
    assert relative_suboptimality((0.1, math.inf), 0.4, math.inf) == (0.0, math.inf)


@pytest.mark.parametrize("steepness", [0.5, 1.0, 4.0, 40.0])
def test_the_file_the_picture_and_the_training_say_the_same(steepness: float) -> None:
    """Also of critics that are worth less than nothing."""
    found = reference("plane")
    critic = network().scaled(steepness)
    (report,) = compare(found, {"a.pt": critic}, sign=1).critics
    result = Comparison(found, (report,)).result()
    one = result["critics"]["a.pt"]
    least, most = one["relative_suboptimality"].values()
    for cost in (found.bounds.lower, found.bounds.upper):
        assert least <= (cost - one["dual_value"]) / cost <= most
    told = certifier(found)(critic)
    assert (told.lower, told.upper) == pytest.approx((least, most), rel=1e-12)
    words = critic_headline({"name": "a.pt", **result}, report.evaluation)[1]
    assert f"{100 * least:.3g} to {100 * most:.3g} %" in words


# --- pictures -----------------------------------------------------------------------------------


def test_each_critic_has_a_picture_of_its_own() -> None:
    assert picture_names(["a.pt", "b.npz"]) == {
        "a.pt": "compare_a.png",
        "b.npz": "compare_b.png",
    }
    for names in (
        ["a.pt", "a.npz", "b.pt"],
        ["x/a.pt", "y/a.pt", "../a.pt", "/a.pt"],
        ["a/b", "a_b", "b", "a_b.pt"],
    ):
        found = picture_names(names)
        assert list(found) == names
        assert len(set(found.values())) == len(names)
        for picture in found.values():
            assert Path(picture).name == picture
            assert picture.startswith("compare_")
            assert picture.endswith(".png")


def draw(
    arrays: ResultArrays, result: Mapping[str, Any], evaluation: Evaluation, file: Path
) -> None:
    assert evaluation.fields is not None
    assert len(evaluation.fields.value) == len(arrays.cells)
    file.write_text(result["name"])


def test_an_earlier_comparison_is_replaced_and_nothing_else(
    comparison: Comparison, tmp_path: Path
) -> None:
    comparison.write(tmp_path, draw=draw)
    names = {"compare.json", "compare_own.png", "compare_random.png", "compare_smooth.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    content = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))
    for name, one in content["critics"].items():
        assert (tmp_path / one["picture"]).read_text() == name
    mine = tmp_path / "compare_mine.png"
    mine.write_text("not made here")
    compare(reference("plane"), {"other.pt": network()}).write(tmp_path, draw=draw)
    after = {path.name for path in tmp_path.iterdir()}
    assert after == {"compare.json", "compare_other.png", "compare_mine.png"}
    # A file that somebody else wrote is replaced, too.
    for strange in ("[]", '{"critics": {"a": {"picture": "../x.png"}}}', "damaged"):
        (tmp_path / "compare.json").write_text(strange)
        comparison.write(tmp_path)
        assert json.loads((tmp_path / "compare.json").read_text())["schema"] == 1
    assert mine.exists()


def test_a_picture_that_fails_costs_only_itself(comparison: Comparison, tmp_path: Path) -> None:
    def fails(
        arrays: ResultArrays, result: Mapping[str, Any], evaluation: Evaluation, file: Path
    ) -> None:
        if result["name"] == "own":
            raise RuntimeError("no paint")
        draw(arrays, result, evaluation, file)

    with pytest.raises(CongestedError, match=r"everything but compare_own\.png is written.*no pai"):
        comparison.write(tmp_path, draw=fails)
    names = {"compare.json", "compare_random.png", "compare_smooth.png"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_directories_that_cannot_be_written(comparison: Comparison, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write"):
        comparison.write(tmp_path / "file")


# --- the table ----------------------------------------------------------------------------------


def test_the_table_has_the_best_first(comparison: Comparison) -> None:
    result = comparison.result()
    text = text_of(result)
    bounds = reference("plane").bounds
    assert text.startswith(f"Two Gaussians: cost {bounds.lower:.8g} .. {bounds.upper:.8g} (λ = 10)")
    lines = [line.split() for line in text.splitlines()]
    rows = [line for line in lines if line and line[0] in result["critics"]]
    assert [row[0] for row in rows] == list(result["critics"])
    for row, (name, one) in zip(rows, result["critics"].items(), strict=True):
        words = [word for word in row[1:] if word != "(−)"]
        assert ("(−)" in row) == (one["sign"] == -1), name
        assert float(words[0]) == pytest.approx(one["critic_loss"], rel=6e-4)
        assert float(words[1]) == pytest.approx(one["penalty"], rel=6e-3)
        assert float(words[2]) == pytest.approx(one["dual_value"], rel=6e-4)
        estimated = one["integration"]["method"] == "quadrature"
        assert words[3].startswith("≈") == estimated
        lost = [float(word) for word in words[3].removeprefix("≈").split("..")]
        relative = one["relative_suboptimality"]
        assert lost == pytest.approx([100 * relative["lower"], 100 * relative["upper"]], rel=6e-3)
        assert float(words[4]) == pytest.approx(one["cosine"]["weight"], abs=6e-4)
        assert float(words[6]) == pytest.approx(one["momentum_relative_l1"], rel=6e-3)
    assert "(|∇u| of the solution: 1.0180)" in text
    assert max(map(len, text.rstrip().splitlines())) <= 100


def test_long_names_leave_room_for_all_digits(comparison: Comparison) -> None:
    content = comparison.result()
    one = content["critics"]["random.pt"]
    one |= {
        "critic_loss": -0.0123456,
        "penalty": 1.2345e-05,
        "dual_value": -0.0123456,
        "sign": -1,
        "relative_suboptimality": {"lower": 0.9999, "upper": 1.0234},
    }
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(compare_table({**content, "critics": {"m" * 50: one}}, Path("out")))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "…" not in text
    assert "100..102" in text


def test_only_what_is_estimated_is_called_so(comparison: Comparison) -> None:
    content = comparison.result()
    words = "≈: integrated by quadrature, an estimate"
    assert words in text_of(content)
    exact = {"random.pt": content["critics"]["random.pt"]}
    text = text_of({**content, "critics": exact})
    assert "≈" not in text
    assert "\ncertified, in % of the cost" in text
    own = {"own": content["critics"]["own"]}
    assert "certified" not in text_of({**content, "critics": own})


@pytest.mark.parametrize("name", ["critic.pt", "runs/a_long_name_of_a_critic.pt"])
def test_a_steep_critic_takes_no_digits_from_the_others(comparison: Comparison, name: str) -> None:
    content = comparison.result()
    plain = content["critics"]["smooth.npz"]
    steep = json.loads(json.dumps(plain))
    steep |= {"critic_loss": -123456.789, "penalty": 1.17049680001e14, "dual_value": -1.17049e14}
    steep["relative_suboptimality"] = {"lower": 1.170496800012e24, "upper": 1.18e24}
    steep["momentum_relative_l1"] = 123456789.0
    for measure in ("source", "weight"):
        steep["mean_gradient_norm"]["critic"][measure] = 1234567.891
    critics = {f"{number}{name}": plain for number in range(6)} | {f"6{name}": steep}
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(compare_table({**content, "critics": critics}, Path("out")))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "…" not in text
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert len([line for line in lines if f" {plain['critic_loss']:.4g} " in line]) == 6
    last = next(line.split() for line in lines if "1.17e+14" in line)
    assert "-1.235e+05" in last
    assert "≈1.17e+26..1.18e+26" in last
    assert "1.235e+06" in last
    assert last[-1] == "1.23e+08"


def test_the_table_of_w1_tells_what_multiples_are_worth() -> None:
    result = compare(reference("w1"), {"a.pt": network()}).result()
    text = text_of(result)
    assert "λ = ∞" in text
    assert "under the source" in " ".join(text.split())
    assert "nan" not in text
    row = next(line for line in text.splitlines() if "a.pt" in line).split()
    best = result["critics"]["a.pt"]["best_multiple"]["dual_value"]
    assert row[-6:-3] == ["inf", "-inf", "inf"]
    assert float(row[-1]) == pytest.approx(best, rel=6e-4)


def test_the_table_of_nothing_to_move_has_no_percents() -> None:
    text = text_of(compare(reference("same"), {"a.pt": network()}).result())
    assert "nan" not in text
    assert next(line for line in text.splitlines() if "a.pt" in line).split()[-4] == "-"


# --- mistakes, progress -------------------------------------------------------------------------


def test_a_critic_of_another_dimension_is_named() -> None:
    with pytest.raises(InputError, match=r"b.pt: critic: found a critic of 3 coordinates"):
        compare(reference("plane"), {"a.pt": network(), "b.pt": network(3, 3)})


def test_progress_is_told_each_name() -> None:
    told: list[str] = []
    compare(reference("plane"), {"a": network(), "b": network(4)}, progress=told.append)
    assert told == ["a", "b"]


def test_the_sign_may_be_given() -> None:
    for sign in (1, -1):
        (one,) = compare(reference("plane"), network(), sign=sign).critics
        assert one.evaluation.sign == sign


def test_steps_are_shown_on_terminals_alone() -> None:
    comm = reference("plane").comm
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with parallel.step_bar(comm, 2, console=console) as step:
        step("first.pt")
        step("second.pt")
    assert isinstance(console.file, io.StringIO)
    assert "second.pt" in console.file.getvalue()
    assert "1/2" in console.file.getvalue()
    for enabled, terminal in ((False, True), (True, False)):
        console = Console(file=io.StringIO(), force_terminal=terminal)
        with parallel.step_bar(comm, 2, enabled=enabled, console=console) as step:
            step("first.pt")
        assert isinstance(console.file, io.StringIO)
        assert console.file.getvalue() == ""
