"""Compiled branches train like others, and leave nothing behind."""
import pytest
import torch
from mmengine.hooks import Hook
from torch._dynamo.utils import counters
from torch._inductor.cudagraph_trees import MarkStepBox

from mcod_plugin.engine.runner import compile_settings
from mcod_plugin.errors import ConfigError


class Graphs(Hook):
    """Notes the weight, the loss and the number of graphs of every step."""

    def __init__(self):
        self.weights, self.losses, self.graphs = [], [], []

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        self.weights.append(runner.model.kd_weight)
        self.losses.append(outputs['loss'].detach())
        self.graphs.append(counters['stats']['unique_graphs'])


def run(runner):
    graphs = Graphs()
    runner.register_hook(graphs)
    runner.train()
    return graphs


def test_compiled_branches(tiny_runner, tmp_path):
    torch._dynamo.reset()
    counters.clear()
    # All batches are of one size, and none is of validation.
    changes = dict.fromkeys(('val_cfg', 'val_dataloader', 'val_evaluator'))
    compiled = tiny_runner(
        'compiled', 3, compile=dict(backend='eager'), **changes)
    found = run(compiled)
    plain = tiny_runner('plain', 3, **changes)
    expected = run(plain)
    assert torch.equal(
        torch.stack(found.losses), torch.stack(expected.losses))

    # Three weights, one of them 0, and one graph for each branch.
    assert len(set(found.weights)) == 3 and 0 in found.weights
    assert found.graphs == [2] * 12
    log = next((tmp_path / 'compiled').rglob('*.log')).read_text()
    assert 'The branches are compiled' in log
    # The count of FLOPs has seen them before.
    assert '227,232' in log

    state = compiled.model.state_dict()
    assert state.keys() == plain.model.state_dict().keys()
    plain.load_checkpoint(f'{compiled.work_dir}/epoch_3.pth')
    for key, value in plain.model.state_dict().items():
        assert torch.equal(value, state[key])


def test_compiled_branch_that_diverges(tiny_runner):
    """It is left out as an uncompiled one is."""

    class Break(Hook):

        def before_train_iter(self, runner, batch_idx, data_batch):
            if batch_idx == 1:
                runner.model.branches.vit.head.fc.bias.data.fill_(torch.nan)

    torch._dynamo.reset()
    found = []
    for compile in (dict(backend='eager'), False):
        runner = tiny_runner(
            epochs=1,
            compile=compile,
            on_divergence='drop',
            **{'optim_wrapper.clip_grad': dict(max_norm=1.)})
        runner.register_hook(Break())
        found.append(run(runner).losses)
        assert runner.model.alive.tolist() == [True, False]
    assert torch.equal(*map(torch.stack, found))
    assert torch.stack(found[0]).isfinite().all()


def test_steps_are_marked_for_cuda_graphs(tiny_runner, tmp_path):
    """Else a branch would overwrite another one's logits in validation."""

    def marks(runner):
        before = MarkStepBox.mark_step_counter
        runner.train()
        return before - MarkStepBox.mark_step_counter

    torch._dynamo.reset()
    compiled = tiny_runner('compiled', 2, compile=dict(backend='eager'))
    # 64 images in four steps, then 40 in three, twice.
    assert marks(compiled) == 2 * (4 + 3)
    before = MarkStepBox.mark_step_counter
    compiled.model(torch.zeros(2, 3, 16, 16))
    assert before - MarkStepBox.mark_step_counter == 1
    assert marks(tiny_runner('plain', 2)) == 0


def test_bad_setting_ends_a_run_before_it_begins(tiny_runner):
    runner = tiny_runner(compile=dict(backend='inductr'))
    with pytest.raises(ConfigError, match='did you mean inductor'):
        runner.train()
    assert not runner.started


def test_no_cuda_graphs_with_accumulated_gradients(tiny_runner):
    runner = tiny_runner(
        compile=dict(mode='reduce-overhead'),
        **{'optim_wrapper.accumulative_counts': 2})
    with pytest.raises(ConfigError, match='accumulative_counts, 2: a replay'):
        runner.train()
    assert not runner.started


@pytest.mark.parametrize('isolated', [True, False])
def test_every_branch_has_versions_of_its_own(tiny_runner, monkeypatch,
                                              isolated):
    """Five networks for batches of two sizes in training, and of two in
    validation, are more versions than PyTorch makes of one function."""
    if not isolated:
        # As in a PyTorch that knows no such argument.
        monkeypatch.setattr(compile_settings, '_arguments',
                            lambda: ['backend', 'dynamic'])
    torch._dynamo.reset()
    counters.clear()
    branches = {
        f'net{width}': dict(
            backbone=dict(
                type='mcod_plugin.CifarResNet', depth=8, width=width),
            head=dict(type='LinearClsHead', num_classes=10))
        for width in range(4, 9)
    }
    runner = tiny_runner(
        epochs=1,
        compile=dict(backend='eager', dynamic=False),
        **{
            'model.branches': dict(branches, _delete_=True),
            'train_dataloader.batch_size': 24
        })
    with torch._dynamo.config.patch(cache_size_limit=8):
        runner.train()
    assert counters['stats']['unique_graphs'] == 5 * 4


def test_other_models_are_compiled_whole(tiny_runner):
    branch = dict(
        type='ImageClassifier',
        backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=4),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=16))
    runner = tiny_runner(
        model=dict(branch, _delete_=True), compile=dict(backend='eager'))
    runner._maybe_compile('train_step')
    assert 'train_step' in vars(runner.model)
