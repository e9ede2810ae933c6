"""The CPUs of the cluster count, up to the limit of the process."""

from __future__ import annotations

import pytest
import ray

from naturaltone.infra import local
from naturaltone.pipeline.cpus import num_cpus


@pytest.mark.usefixtures("ray_cluster")
def test_the_limit_counts_where_it_is_lower_and_a_cluster_without_cpus_counts_as_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ray.data.DataContext.get_current().execution_options
    assert num_cpus() == local.cores()
    monkeypatch.setattr(options, "resource_limits", ray.data.ExecutionResources())
    assert num_cpus() == local.local_cpus()
    monkeypatch.setattr(ray, "cluster_resources", dict)
    assert num_cpus() == 1
