"""The CPUs that the tasks of Ray Data may use."""

from __future__ import annotations

import math

import ray


def num_cpus() -> float:
    """The CPUs of the cluster, or the limit of this process if that is lower; at least 1, also while no machine is there."""
    limit = ray.data.DataContext.get_current().execution_options.resource_limits.cpu
    return max(1.0, min(ray.cluster_resources().get("CPU", 1.0), limit or math.inf))
