import pytest
import torch

from mcod_plugin.engine.runner import CohortRunner
from mcod_plugin.utils.workers import MAX_WORKERS, default_workers


@pytest.mark.skipif(torch.cuda.is_available(), reason='for CPUs')
def test_networks_on_a_cpu_keep_all_cores():
    assert default_workers() == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason='for GPUs')
def test_processes_share_the_cores(monkeypatch):
    assert 1 <= default_workers() <= MAX_WORKERS
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '10000')
    assert default_workers() == 1


@pytest.mark.parametrize('given, expected', [({}, default_workers()),
                                             (dict(num_workers=1), 1)])
def test_a_loader_without_a_number(tiny_config, given, expected):
    loader = tiny_config(in_memory=False).train_dataloader
    del loader['num_workers']
    loader.update(given)
    assert CohortRunner.build_dataloader(loader).num_workers == expected
    # The config is left as it is.
    assert loader.get('num_workers') == given.get('num_workers')
