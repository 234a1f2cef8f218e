from mcod_plugin.engine.runner.dry_run import dry_run, kinds_of_steps


def hook(branch, **schedule):
    return dict(
        type='mcod_plugin.DiscontinuousKDHook',
        branches=[branch],
        weight=(1., 1.),
        **schedule)


def test_kinds_of_steps(tiny_runner):
    """Of two schedules, in epochs of 4 iterations."""
    runner = tiny_runner(
        epochs=6,
        custom_hooks=[
            hook('resnet', gap=(0, 0), begin=2),
            hook('vit', gap=(1, 1), by_epoch=False)
        ])
    report = dry_run(runner)
    assert kinds_of_steps(runner, 4) == {
        frozenset(['vit']): (0, 4),
        frozenset(): (1, 4),
        frozenset(['resnet', 'vit']): (8, 8),
        frozenset(['resnet']): (9, 8)
    }
    for what in ('vit distilled', 'not distilled', 'distilled',
                 'resnet distilled'):
        assert f'│ {what} ' in report
    # The last step was of the last kind.
    assert runner.model.kd_weights == dict(resnet=1., vit=0.)


def test_steps_are_those_of_the_run(tiny_runner):
    """They train, and end no epoch."""
    runner = tiny_runner(epochs=4)
    before = {
        key: value.clone()
        for key, value in runner.model.state_dict().items()
    }
    runner.call_hook = counted = Counted(runner.call_hook)
    dry_run(runner)
    after = runner.model.state_dict()
    assert all(
        not before[key].equal(after[key]) for key in before
        if key.endswith('fc.weight'))
    # Two kinds, in epochs that begin as those of a run do.
    assert counted.names.count('before_train_epoch') == 2
    assert counted.names.count('after_train_iter') == 4
    assert not {'after_train_epoch', 'after_train'} & {*counted.names}


class Counted:
    """Notes the names of what is called."""

    def __init__(self, function):
        self.function, self.names = function, []

    def __call__(self, name, **kwargs):
        self.names.append(name)
        self.function(name, **kwargs)
