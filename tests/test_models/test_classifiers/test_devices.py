"""What a GPU would refuse or wait for, found without one.

Some tensors are said to be on a device. Whatever is computed from them is
there as well, and to mix it with others is an error.
"""
import pytest
import torch
from mmengine.optim import OptimWrapper
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mcod_plugin.registry import MODELS
from mcod_plugin.structures import BatchDataSample

# What has the host wait for a value, or for how many there are.
WAITS = ('_local_scalar_dense', 'nonzero', 'masked_select', '_unique2',
         'equal')
# These take no number from the host either.
STRICT = ('cat', 'stack', 'index_select', 'gather', 'scatter_')


def tensors(values):
    return [leaf for leaf in tree_leaves(values) if torch.is_tensor(leaf)]


class OnDevice(TorchDispatchMode):
    """Follows where tensors would be, and notes what would wait."""

    def __init__(self):
        super().__init__()
        # A weak reference keeps an address from being used again.
        self.places, self.waits, self.inside = {}, [], []

    def put(self, *values):
        for value in tensors(values):
            storage = value.untyped_storage()
            self.places[storage._cdata] = StorageWeakRef(storage)

    def has(self, value):
        return value.untyped_storage()._cdata in self.places

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.partition('::')[2]
        given = tensors((args, kwargs))
        here = [value for value in given if self.has(value)]
        if here and name in WAITS:
            self.waits.append(name)
        if name in ('index', 'index_put_') and self.has(args[0]):
            for index in tensors(args[1]):
                if not self.has(index):
                    self.waits.append('index on the host')
                if index.dtype == torch.bool:
                    self.waits.append('mask')
        elif here:
            away = [
                tuple(value.shape) for value in given
                if not self.has(value) and (value.dim() or name in STRICT)
            ]
            assert not away, f'{func} of tensors on device and host: {away}'
        found = func(*args, **kwargs)
        # A factory that is called inside of an operation, such as one_hot.
        if here or not given and any(self.inside):
            self.put(found)
        return found


class Calls(TorchFunctionMode):
    """Notes which operation is going on, and whether it is on the device."""

    def __init__(self, device):
        super().__init__()
        self.device = device

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.nn.functional.one_hot:
            # On the CPU alone it looks at the values.
            labels, number = args
            classes = torch.arange(number)
            self.device.put(classes)
            return (labels[:, None] == classes).long()
        self.device.inside.append(
            any(map(self.device.has, tensors((args, kwargs))))
            or kwargs.get('device') is not None)
        try:
            return func(*args, **kwargs)
        finally:
            self.device.inside.pop()


def ensemble(**settings):
    return dict(teacher=dict(type='mcod_plugin.EnsembleTeacher', **settings))


KINDS = dict(
    mean=ensemble(),
    views=ensemble(ema=.9),
    weighted=ensemble(weights=dict(vgg=2.)),
    prob_mean=ensemble(fusion='prob_mean', leave_one_out=True),
    min_logit=ensemble(fusion='min_logit'),
    confidence=ensemble(fusion='confidence'),
    averaged=ensemble(ema=.9),
    frozen=ensemble(members='vgg'),
    gated=dict(teacher=dict(type='mcod_plugin.GatedTeacher')),
    peers=dict(
        teacher=dict(type='mcod_plugin.PeerTeacher'),
        distill=dict(type='mcod_plugin.MutualKDLoss')))


@pytest.mark.parametrize('optimizer, diverged', [('SGD', None),
                                                 ('AdamW', None),
                                                 ('SGD', 'densenet')])
@pytest.mark.parametrize('kind', KINDS)
def test_a_step_neither_mixes_devices_nor_waits(kind, optimizer, diverged):
    head = dict(type='LinearClsHead', num_classes=10)
    cohort = MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            input_size=16,
            data_preprocessor=dict(mean=[78.] * 3, std=[96.] * 3),
            branches=dict(
                resnet=dict(
                    backbone=dict(
                        type='mcod_plugin.CifarResNet', depth=8, width=4),
                    head=head),
                densenet=dict(
                    backbone=dict(
                        type='mcod_plugin.CifarDenseNet', depth=10, growth=4),
                    head=head,
                    loss_weight=2.),
                vgg=dict(
                    backbone=dict(
                        type='mcod_plugin.CifarVGG', depth=11, width=4),
                    head=head,
                    frozen=kind == 'frozen',
                    input_size=32,
                    mean=[100.] * 3,
                    std=[50.] * 3)),
            **KINDS[kind]))
    cohort.init_weights()
    cohort.train()
    if diverged is not None:
        cohort.leave_out_diverged()
        next(cohort.branches[diverged].parameters()).data.fill_(float('nan'))
    images = torch.randint(0, 256, (4, 16, 16, 3)).byte().permute(0, 3, 1, 2)
    views = {name: images.flip(3).clone() for name in cohort.branches}
    batch = dict(
        inputs=views if kind == 'views' else images,
        data_samples=BatchDataSample(
            gt_label=torch.tensor([0, 9, 3, 3]), sample_idx=torch.arange(4)))
    wrapper = OptimWrapper(
        getattr(torch.optim, optimizer)(
            cohort.parameters(), lr=.01, fused=True))
    device = OnDevice()
    device.put(
        list(cohort.parameters()), list(cohort.buffers()), images, views,
        batch['data_samples'].fields['gt_label'])
    with device, Calls(device):
        for kd_weight in (0., 1.):
            cohort.kd_weight = kd_weight
            logs = cohort.train_step(batch, wrapper)
        cohort.eval()
        with torch.no_grad():
            fields = cohort.val_step(dict(batch, inputs=images)).fields
    assert device.waits == []
    assert cohort.alive.tolist() == [True, diverged is None, True]
    for key, value in {**logs, **fields}.items():
        assert device.has(value) == (key not in ('kd_weight', 'sample_idx'))


@pytest.mark.parametrize('work, words', [
    (lambda x: x + torch.ones(3), 'on device and host'),
    (lambda x: x * torch.arange(3, device=x.device), None),
    (lambda x: x * torch.tensor(2.), None),
    (lambda x: torch.stack([x[0], torch.tensor(0.)]), 'on device and host'),
    (lambda x: x.sum().item(), '_local_scalar_dense'),
    (lambda x: x[x > 0], 'mask'),
    (lambda x: x[torch.tensor([0])], 'index on the host'),
])
def test_it_would_be_noticed(work, words):
    device = OnDevice()
    given = torch.ones(3)
    device.put(given)
    noticed = ''
    with device, Calls(device):
        try:
            work(given)
        except AssertionError as error:
            noticed = str(error)
    noticed += ' '.join(device.waits)
    assert bool(noticed) == (words is not None)
    assert (words or '') in noticed
