"""Training by replays of recorded steps is plain training, bit by bit."""
import pytest
import torch
from mmengine.hooks import Hook

from mcod_plugin.engine.graph import graph_setting
from ...tape import TapeRecorder

SGD = dict(
    type='SGD',
    lr=0.1,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    _delete_=True)
# A learning rate of its own for every step.
CHANGES = {
    'optim_wrapper.optimizer':
    SGD,
    'param_scheduler': [
        dict(
            type='CosineAnnealingLR',
            by_epoch=True,
            end=6,
            convert_to_iter_based=True)
    ],
    'custom_hooks.0.end':
    6
}


class Log(Hook):
    """Keeps what the steps give."""
    priority = 'LOWEST'

    def __init__(self):
        self.rows = []

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        self.rows.append({
            **{key: float(value)
               for key, value in outputs.items()}, 'lr':
            runner.optim_wrapper.get_lr()['lr'][0]
        })


class Result:
    """What came of a training."""

    def __init__(self, runner, recorder):
        log = Log()
        runner.register_hook(log)
        # The runner forgets it when it has ended.
        record_step = runner._record_step

        def keep():
            record_step()
            self.step = runner._graphed

        runner._record_step = keep
        runner.train()
        self.rows, self.recorder = log.rows, recorder
        self.weights = {
            key: value.clone()
            for key, value in runner.model.state_dict().items()
        }
        self.state = [
            value.clone()
            for entry in runner.optim_wrapper.optimizer.state.values()
            for value in entry.values() if torch.is_tensor(value)
        ]
        self.hub = {
            key: value.data[0].tolist()
            for key, value in runner.message_hub.log_scalars.items()
            if 'time' not in key
        }

    def __eq__(self, other):
        return (self.rows == other.rows and self.hub == other.hub
                and self.weights.keys() == other.weights.keys()
                and all(map(torch.equal, self.weights.values(),
                            other.weights.values()))
                and all(map(torch.equal, self.state, other.state)))


@pytest.fixture
def train(tiny_runner, monkeypatch):
    """Trains a tiny run, recorded if ``cuda_graph`` is set."""

    def run(name, epochs=6, hooks=(), **changes):
        runner = tiny_runner(name, epochs, **{**CHANGES, **changes})
        for hook in hooks:
            runner.register_hook(hook)
        found = []

        def make_recorder(runner):
            found.append(TapeRecorder(runner.model, runner.optim_wrapper))
            return found[0]

        monkeypatch.setattr(graph_setting, 'make_recorder', make_recorder)
        return Result(runner, found)

    return run


def test_plain_pair(train):
    plain = train('plain')
    graphed = train('graphed', cuda_graph=True)
    assert graphed.step.replays > 0 and plain.step is None
    assert graphed == plain
