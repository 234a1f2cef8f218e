from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

COHORT = f"""\
_base_ = [{str(ROOT / 'configs' / 'mcod_quickstart.py')!r}]
model = dict(
    branches=dict(
        _delete_=True,
        resnet=dict(
            backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=4),
            head=dict(type='LinearClsHead', num_classes=10)),
        vgg=dict(
            backbone=dict(type='mcod_plugin.CifarVGG', depth=11, width=4),
            head=dict(type='LinearClsHead', num_classes=10))))
train_dataloader = dict(
    batch_size=32, dataset=dict(size=32, indices=96))
val_dataloader = dict(batch_size=40, dataset=dict(size=32, indices=40))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=2)
"""

STUDY = """\
config = 'cohort.py'
methods = dict(solo='solo', always_on='always_on')
seeds = [0, 1]
"""


@pytest.fixture
def write_study(tmp_path):
    """Writes a study of a tiny cohort, with other lines than usual or more
    of them, and returns its path."""

    def write(**lines):
        (tmp_path / 'cohort.py').write_text(COHORT)
        path = tmp_path / 'study.py'
        text = STUDY
        for key, value in lines.items():
            kept = [
                line for line in text.split('\n')
                if not line.startswith(f'{key} =')
            ]
            text = '\n'.join(kept)
            if value is not None:
                text += f'{key} = {value!r}\n'
        path.write_text(text)
        return str(path)

    return write
