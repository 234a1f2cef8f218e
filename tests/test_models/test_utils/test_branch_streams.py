"""What works beside what, with streams that only note what they have seen."""
from contextlib import contextmanager

import pytest
import torch

from mcod_plugin.models.utils.branch_streams import BranchStreams
from mcod_plugin.registry import MODELS

NAMES = ('first', 'second', 'third')


class Stream:
    """Knows what is done before whatever it does next."""

    def __init__(self):
        self.seen = []

    def wait_stream(self, other):
        self.seen += other.seen


@pytest.fixture
def gpu(monkeypatch):
    """Stands for a GPU: the streams that are current, and who reads what."""
    streams, kept = [Stream()], []

    @contextmanager
    def stream(chosen):
        streams.append(chosen)
        yield
        streams.pop()

    monkeypatch.setattr(torch.cuda, 'Stream', Stream)
    monkeypatch.setattr(torch.cuda, 'stream', stream)
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda: streams[-1])
    monkeypatch.setattr(torch.Tensor, 'record_stream',
                        lambda value, stream: kept.append((value, stream)))
    return streams, kept


def test_branches_wait_for_what_they_need_and_not_for_each_other(gpu):
    streams, kept = gpu
    main = streams[0]
    beside = BranchStreams(NAMES)
    main.seen.append('images')
    images, logits, before, used = torch.zeros(2), {}, {}, {}
    for name in NAMES:
        with beside.work(name, images):
            used[name] = streams[-1]
            before[name] = list(streams[-1].seen)
            streams[-1].seen.append(name)
            logits[name] = torch.ones(2)
    assert streams == [main]
    assert before == dict.fromkeys(NAMES, ['images'])
    assert used['third'] is main and used['first'] is not used['second']
    # Memory is kept while others read it.
    assert [stream for value, stream in kept
            if value is images] == [used['first'], used['second']]
    feats = dict(first=(torch.zeros(1), [torch.zeros(1)]))
    del kept[:]
    beside.join(logits, feats)
    assert set(main.seen) == {'images', *NAMES}
    read = {id(value) for value, stream in kept if stream is main}
    assert read == {
        id(logits['first']),
        id(logits['second']),
        id(feats['first'][0]),
        id(feats['first'][1][0])
    }


def test_a_cohort_goes_on_after_all_branches(gpu):
    streams, _ = gpu
    head = dict(type='LinearClsHead', num_classes=10)
    cohort = MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            input_size=8,
            branches={
                name:
                dict(
                    backbone=dict(
                        type='mcod_plugin.CifarResNet', depth=8, width=2),
                    head=head)
                for name in NAMES
            }))
    images = torch.rand(2, 3, 8, 8)
    expected = cohort.branch_logits(images)
    for name, branch in cohort.branches.items():
        branch.register_forward_hook(
            lambda *args, name=name: streams[-1].seen.append(name))
    cohort.streams = BranchStreams(NAMES)
    found = cohort.branch_logits(images)
    assert set(streams[0].seen) == set(NAMES)
    assert found.keys() == expected.keys()
    assert all(map(torch.equal, found.values(), expected.values()))
