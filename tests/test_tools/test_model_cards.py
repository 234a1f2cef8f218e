"""The cards in model_cards/: what they say, measured anew from their files."""
import hashlib
import re
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

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
