"""The cards in model_cards/: what they say, measured anew from their files."""
import hashlib
import re
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS

from mcod_plugin.alone.cohort import load_cohort
from mcod_plugin.config.read import read_config
from mcod_plugin.export import export_branches
from mcod_plugin.utils.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]
CARDS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / 'model_cards').rglob('README.md'))
needs_data = pytest.mark.skipif(
    not (ROOT / 'data' / 'cifar-100-python').is_dir(),
    reason='data/cifar-100-python is not there')
# Percentage points, 5 of 10,000 images: another processor rounds differently.
TOLERANCE = 0.05
NUMBER = r'\d+\.\d+'


def test_there_are_cards():
    assert CARDS


@pytest.mark.parametrize('card', CARDS)
def test_files(card):
    path = ROOT / card
    text = path.read_text()
    for target in re.findall(r'\]\((?!https?:)([^)]+)\)', text):
        assert (path.parent / target).is_file(), target
    name, digest = re.search(r'sha256 of `([^`]+)`: `(\w{64})`', text).groups()
    weights = (path.parent / name).read_bytes()
    assert hashlib.sha256(weights).hexdigest() == digest
    assert name.endswith(f'-{digest[:8]}.pth')
    torch.load(path.parent / name, weights_only=True)
    files = [file for file in path.parent.iterdir() if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 8 << 20


@pytest.mark.parametrize(
    'metafile',
    sorted((ROOT / 'model_cards').glob('*/metafile.yml')),
    ids=lambda path: path.parent.name)
def test_published_cohort_is_one_still(metafile, tmp_path):
    """Its config, written by an earlier version, builds a cohort that takes
    its weights, each branch is what was published of it, and it goes on to
    train, to predict and to be exported."""
    init_default_scope('mmpretrain')
    *branches, ensemble = yaml.safe_load(metafile.read_text())['Models']
    cfg = read_config(str(metafile.parent / ensemble['Config']))
    path = str(metafile.parent / ensemble['Weights'])
    cohort = load_cohort(cfg, path, read_checkpoint(path))
    assert not cohort.multi_label
    images = torch.randint(0, 256, (2, 3, *cohort.input_size))
    inputs = cohort.data_preprocessor(dict(inputs=images))['inputs']
    logits = cohort.branch_logits(inputs)
    for model in branches:
        alone = Config.fromfile(metafile.parent / model['Config'])
        built = MMPRETRAIN_MODELS.build(alone.model)
        content = torch.load(
            metafile.parent / model['Weights'], weights_only=True)
        built.load_state_dict(content['state_dict'])
        name = Path(model['Config']).parent.name
        torch.testing.assert_close(
            built.eval()(built.data_preprocessor(
                dict(inputs=images))['inputs']), logits[name])
    ensemble = cohort.teacher.ensemble(logits).softmax(1)
    for sample, score in zip(cohort.predict(inputs), ensemble):
        torch.testing.assert_close(sample.pred_score, score)
        for name in logits:
            assert sample.get(f'pred_score_{name}').isfinite().all()
    cohort.kd_weight = 1.
    cohort.check_distillation()
    losses = cohort.train().loss(inputs, torch.tensor([0, 1]))
    total, logged = cohort.parse_losses(losses)
    total.backward()
    for name in logits:
        assert logged[f'{name}.loss_kd'].isfinite()
    exports = export_branches(
        cfg,
        path, ['all'], ['safetensors'],
        str(tmp_path / 'exported'),
        limit=8)
    assert {item.branch for item in exports.items} == set(logits)


@needs_data
@pytest.mark.parametrize('card', CARDS)
def test_numbers(card, run_tool, tmp_path):
    text = (ROOT / card).read_text()
    command = re.search(r'```bash\npython tools/test.py (.*?)```', text,
                        re.DOTALL)[1].replace('\\', ' ').split()
    done = run_tool('test', *command, '--work-dir', tmp_path, cwd=ROOT)
    assert done.code == 0, done.err
    claimed = re.search(r'prints, among other things:\n\n```\n(.*?)```', text,
                        re.DOTALL)[1]
    assert re.search(NUMBER, claimed)
    for line in claimed.splitlines():
        # The same line, whatever its numbers are.
        parts = map(re.escape, re.split(NUMBER, line))
        printed = re.search(f'({NUMBER})'.join(parts), done.out)
        assert printed, line
        for ours, theirs in zip(printed.groups(), re.findall(NUMBER, line)):
            assert float(ours) == pytest.approx(float(theirs), abs=TOLERANCE)
    # The hub shows those of the front matter.
    measured = dict(
        re.findall(r'(?:accuracy|ensemble)/top(\d): ([\d.]+)', done.out))
    results = ModelCard.load(ROOT / card).data.eval_results
    assert results
    for result in results:
        value = float(measured[re.search(r'Top (\d)', result.metric_name)[1]])
        assert result.metric_value == pytest.approx(value, abs=TOLERANCE)


@pytest.mark.parametrize(
    'metafile',
    sorted((ROOT / 'model_cards').glob('*/metafile.yml')),
    ids=lambda path: path.parent.name)
def test_metafile(metafile):
    for model in yaml.safe_load(metafile.read_text())['Models']:
        for key in ('Weights', 'Config'):
            assert (metafile.parent / model[key]).is_file()
