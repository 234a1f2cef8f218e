import pytest
import torch
from mmengine.config import ConfigDict
from mmpretrain.models.tta import AverageClsScoreTTA
from mmpretrain.structures import DataSample

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.tta import CohortTTA
from mcod_plugin.registry import MODELS


@MODELS.register_module()
class EnsembleAlone(AverageClsScoreTTA):
    """It averages what MMPretrain's does."""


@MODELS.register_module()
class BestVersion(CohortTTA):
    """A user's, which takes the version that the ensemble is surest of."""

    def merge_preds(self, data_samples_list):
        return [
            max(versions, key=lambda sample: sample.pred_score.max().item())
            for versions in data_samples_list
        ]


def cohort(head):
    torch.manual_seed(0)
    net = dict(type='mcod_plugin.CifarResNet', depth=8, width=4)
    branch = dict(backbone=net, head=dict(type=head, num_classes=3))
    return MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            input_size=16,
            branches=dict(a=branch, b=dict(branch, frozen=True))))


@pytest.mark.parametrize('head', ['LinearClsHead', 'MultiLabelLinearClsHead'])
def test_scores_are_means(head):
    model = CohortTTA(cohort(head)).eval()
    versions = [torch.randn(4, 3, 16, 16) for _ in range(3)]
    labels = [DataSample().set_gt_label([i % 3]) for i in range(4)]
    with torch.no_grad():
        merged = model.test_step(
            dict(
                inputs=versions,
                data_samples=[[sample.clone() for sample in labels]
                              for _ in versions]))
        alone = [model.module.predict(images) for images in versions]
    assert len(merged) == 4
    for i, sample in enumerate(merged):
        assert sample.gt_label.tolist() == [i % 3]
        for name in ('', '_a', '_b'):
            mean = sum(found[i].get(f'pred_score{name}')
                       for found in alone) / 3
            torch.testing.assert_close(sample.get(f'pred_score{name}'), mean)
            if head != 'LinearClsHead':
                assert sample.get(f'pred_label{name}').tolist() == [
                    c for c in range(3) if mean[c] >= .5
                ]
        if head == 'LinearClsHead':
            assert sample.pred_label.tolist() == [
                sample.pred_score.argmax().item()
            ]
    # What it has not itself is the cohort's.
    assert model.frozen == ['b'] and model.num_classes == 3
    with pytest.raises(AttributeError):
        model.nothing


def test_which_one_a_runner_builds(tiny_runner):
    runner = tiny_runner()
    given = runner.cfg.model
    for kind in ('mmpretrain.AverageClsScoreTTA', 'mcod_plugin.CohortTTA',
                 'BestVersion', 'mcod_plugin.BestVersion', None):
        model = ConfigDict(type=kind, module=given)
        if kind == 'BestVersion':
            with pytest.raises(KeyError):
                runner.build_model(model)
            continue
        if kind is None:
            del model['type']
        built = runner.build_model(model)
        assert isinstance(built, CohortTTA)
        assert built.module.input_size == (16, 16)
        # The preprocessor of the config, which MMEngine puts outside.
        model.data_preprocessor = dict(mean=[1., 2., 3.], std=[1.] * 3)
        built = runner.build_model(model)
        mean = built.module.data_preprocessor.mean
        assert mean.flatten().tolist() == [1, 2, 3]
    with pytest.raises(
            ConfigError, match='tta_model.type must be mcod_plugin.CohortTTA'):
        runner.build_model(
            ConfigDict(type='mcod_plugin.EnsembleAlone', module=given))
