import pytest
import torch
from mmengine.hooks import CheckpointHook

from mcod_plugin.engine.hooks import BranchCheckpointHook
from mcod_plugin.errors import ConfigError


def log_of(folder):
    return ''.join(path.read_text() for path in folder.rglob('*.log'))


def test_input_size_is_that_of_the_data(tiny_runner):
    # The pipeline of the training images crops them to 16 pixels, which the
    # transformer insists on; it is no size that the model would guess.
    runner = tiny_runner(**{'model.input_size': None})
    assert runner.model.input_size == (16, 16)
    assert runner.cfg.model.input_size is None


def test_checkpoint_of_another_cohort(tiny_runner):
    runner = tiny_runner('a', 1)
    runner.train()
    file = f'{runner.work_dir}/epoch_1.pth'
    other = tiny_runner('b', **{'model.branches.vit.backbone.embed_dim': 32})
    with pytest.raises(ConfigError, match=r'epoch_1\.pth: .*instead of'):
        other.load_checkpoint(file)
    # Asking for less strictness does not help.
    with pytest.raises(ConfigError, match='not of this cohort'):
        other.load_checkpoint(file, strict=False)


def test_loaded_weights_are_those_saved(tiny_runner):
    runner = tiny_runner('a', 1)
    runner.train()
    other = tiny_runner('b', **{'randomness.seed': 8})
    other.load_checkpoint(f'{runner.work_dir}/epoch_1.pth')
    state = other.model.state_dict()
    for key, value in runner.model.state_dict().items():
        assert torch.equal(state[key], value)


def test_resume_of_a_finished_run(tiny_runner):
    tiny_runner('a', 1).train()
    with pytest.raises(ConfigError, match='nothing to resume: .*epoch 1 of 1'):
        tiny_runner('a', 1, resume=True).train()


@pytest.mark.parametrize('by_epoch', [True, False])
def test_resume_of_iterations(tiny_runner, tmp_path, by_epoch):

    def make(iterations, **kwargs):
        return tiny_runner(
            'a',
            train_cfg=dict(
                by_epoch=False, max_iters=iterations, _delete_=True),
            **{
                'custom_hooks.0.by_epoch': False,
                'default_hooks.checkpoint.by_epoch': by_epoch
            },
            **kwargs)

    make(3).train()
    with pytest.raises(
            ConfigError,
            match='at iteration 3 of 3; raise train_cfg.max_iters to go on'):
        make(3, resume=True).train()
    resumed = make(5, resume=True)
    resumed.train()
    assert resumed.iter == 5
    loss = resumed.message_hub.get_scalar('train/loss')
    assert len(loss.data[0]) == 5
    assert 'last 3 iterations, this one lasts 5' in log_of(tmp_path)


CLIPPED = 'optim_wrapper.clip_grad clips by the norm over all branches'


@pytest.mark.parametrize('clip, frozen, told', [
    (dict(max_norm=1.), False, True),
    (dict(type='norm', max_norm=1.), False, True),
    (dict(type='value', clip_value=1.), False, False),
    (dict(max_norm=1.), True, False),
    (None, False, False),
])
def test_clip_grad_is_warned_of(tiny_runner, tmp_path, clip, frozen, told):
    runner = tiny_runner(**{
        'optim_wrapper.clip_grad': clip,
        'model.branches.vit.frozen': frozen
    })
    wrapper = runner.build_optim_wrapper(runner.cfg.optim_wrapper)
    assert wrapper.clip_grad_kwargs == (clip and {
        key: value
        for key, value in clip.items() if key != 'type'
    })
    assert log_of(tmp_path).count(CLIPPED) == told


def test_resume_with_nothing_there(tiny_runner, tmp_path):
    runner = tiny_runner(epochs=1, resume=True)
    runner.train()
    assert runner.epoch == 1
    assert f'Nothing to resume from in {runner.work_dir}: ' in log_of(tmp_path)


def test_longer_run_is_warned_of(tiny_runner, tmp_path):
    tiny_runner('a', 1).train()
    tiny_runner('a', 2, resume=True).train()
    assert 'was to last 1 epochs, this one lasts 2' in log_of(tmp_path)


def test_started(tiny_runner):
    runner = tiny_runner(epochs=1)
    assert not runner.started
    runner.train()
    assert runner.started


@pytest.mark.parametrize('action', ['test', 'val'])
def test_an_evaluation_leaves_the_config_of_the_training(
        tiny_runner, tmp_path, action):

    def configs():
        return {
            path.name: path.read_text()
            for path in (tmp_path / 'run').glob('*.py')
        }

    tiny_runner(epochs=1).train()
    trained = configs()
    assert len(trained) == 1
    other = tiny_runner(**{'custom_hooks.0.gap': (9, 9)})
    getattr(other, action)()
    assert other.started and configs() == trained


def test_checkpoints_of_the_hook_of_the_toolbox(tiny_runner):
    changes = {
        'default_hooks.checkpoint':
        dict(
            _delete_=True,
            type='CheckpointHook',
            interval=1,
            filename_tmpl='at_{}.pth')
    }
    tiny_runner(epochs=1, **changes).train()
    runner = tiny_runner(resume=True, **changes)
    file = f'{runner.work_dir}/at_1.pth'
    assert torch.load(file, weights_only=True)['meta']['epoch'] == 1
    runner.train()
    assert runner.epoch == 2


@pytest.mark.parametrize('hooks', [
    None,
    dict(checkpoint=dict(type=CheckpointHook, interval=1)),
    dict(checkpoint=dict(type='mmengine.CheckpointHook', interval=1)),
])
def test_hook_of_checkpoints_that_hold_data_only(tiny_runner, hooks):
    runner = tiny_runner(**{'default_hooks.checkpoint': None})
    runner.register_default_hooks(hooks)
    found = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
    assert [type(hook) for hook in found] == [BranchCheckpointHook]
    assert found[0].interval == 1


def test_no_checkpoints(tiny_runner):
    runner = tiny_runner(epochs=1, **{'default_hooks.checkpoint': None})
    assert not any(isinstance(hook, CheckpointHook) for hook in runner.hooks)
