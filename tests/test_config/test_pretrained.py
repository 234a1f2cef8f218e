import pytest

from mcod_plugin.config.pretrained import is_pretrained, without_pretrained

HEAD = dict(type='LinearClsHead', num_classes=10)


def test_weights_to_start_from_are_left_out():
    cfg = dict(
        pretrained='a.pth',
        init_cfg=dict(type='Pretrained', checkpoint='b.pth'),
        backbone=dict(
            type='TIMMBackbone',
            pretrained=True,
            checkpoint_path='c.pth',
            init_cfg=[
                dict(type='Kaiming', layer='Conv2d'),
                dict(type='Pretrained', checkpoint='d.pth')
            ]),
        head=dict(HEAD, init_cfg=dict(type='Normal', layer='Linear')))
    assert without_pretrained(cfg) == dict(
        backbone=dict(type='TIMMBackbone'),
        head=dict(HEAD, init_cfg=dict(type='Normal', layer='Linear')))
    assert cfg['backbone']['pretrained'] is True


@pytest.mark.parametrize('cfg, expected', [
    (dict(pretrained=True), True),
    (dict(pretrained=False, checkpoint_path=''), False),
    (dict(backbone=[dict(checkpoint_path='c.pth')]), True),
    (dict(init_cfg=[dict(type='mmengine.Pretrained')]), True),
    (dict(init_cfg=dict(type='Normal', layer='Linear')), False),
])
def test_is_pretrained(cfg, expected):
    assert is_pretrained(cfg) is expected
