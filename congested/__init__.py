"""Certified solver for congested transport, the problem behind WGAN-GP critics.

The public names are imported when they are first used, so that ``congested --help`` and a mistake
in a problem file do not wait for DOLFINx.
"""

from __future__ import annotations

import importlib
from typing import Any

from congested.version import __version__

_PUBLIC = {
    "AugmentedLagrangian": "congested.solvers.augmented_lagrangian",
    "Bounds": "congested.certificate",
    "Box": "congested.domain",
    "BulkMarker": "congested.adapt",
    "CellFields": "congested.certificate",
    "Comparison": "congested.comparison",
    "CongestedError": "congested.errors",
    "ConstantWeight": "congested.weights.kinds",
    "ContinuumFields": "congested.continuum",
    "DensityMeasure": "congested.measures.density",
    "DensityWeight": "congested.weights.kinds",
    "Estimate": "congested.measures.sampling",
    "FlowOptions": "congested.flow_result",
    "GaussianMixture": "congested.measures.gaussian_mixture",
    "Image": "congested.measures.image",
    "InfeasibleProblem": "congested.errors",
    "InputError": "congested.errors",
    "Interpolates": "congested.weights.kinds",
    "MassFlow": "congested.flow_result",
    "MeasureWeight": "congested.weights.kinds",
    "MeshField": "congested.measures.mesh_field",
    "MeshFile": "congested.domain",
    "MixtureWeight": "congested.weights.kinds",
    "Network": "congested.critics.network",
    "Newton": "congested.solvers.newton",
    "NotConverged": "congested.errors",
    "OutputOptions": "congested.problem",
    "PairMetrics": "congested.critics.pair_metrics",
    "Points": "congested.measures.points",
    "Problem": "congested.problem",
    "ProgressEvent": "congested.solution",
    "RayMonotonePair": "congested.measures.ray_monotone",
    "RayMonotoneSource": "congested.measures.ray_monotone",
    "Samplers": "congested.critics.sampling",
    "Solution": "congested.solution",
    "SolverOptions": "congested.problem",
    "Status": "congested.solution",
    "Training": "congested.critics.training_options",
    "UniformBall": "congested.measures.uniform",
    "UniformBox": "congested.measures.uniform",
    "WeightResult": "congested.weight_result",
    "array_sampler": "congested.critics.sampling",
    "benchmark_metrics": "congested.critics.pair_metrics",
    "cell_integrals": "congested.certificate",
    "compare": "congested.comparison",
    "compute_flow": "congested.mass_flow",
    "compute_weight": "congested.weight_result",
    "continuum_integrals": "congested.continuum",
    "critic_from_functions": "congested.critics.load",
    "critic_from_module": "congested.critics.load",
    "from_samplers": "congested.critics.sampling",
    "image_from_file": "congested.measures.image_file",
    "load_arrays": "congested.io.arrays",
    "load_critic": "congested.critics.load",
    "mesh_field_from_file": "congested.measures.mesh_field",
    "pair_from_file": "congested.measures.ray_file",
    "plot_critic": "congested.plot_critic",
    "plot_overview": "congested.plot",
    "plot_weight": "congested.plot",
    "points_from_file": "congested.measures.points",
    "problem_samplers": "congested.critics.problem_sampling",
    "read_result": "congested.io.result",
    "reference_from_directory": "congested.critics.reference",
    "resume": "congested.resume",
    "sample_metrics": "congested.critics.pair_metrics",
    "sampled_dual": "congested.critics.sampled",
    "solve": "congested.nested_iteration",
    "train": "congested.critics.training",
    "write_critic": "congested.critics.torch_network",
    "write_pair": "congested.io.pair",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
