"""A config and a checkpoint for the toolbox."""
import os.path as osp

from mmengine.config import Config

from .branch_model import BranchModel
from .files import to_checkpoint, write_bytes

__all__ = ['write_mmpretrain']

FILES_NOTE = """\
# The network sees {order} images, as the data set holds them. Tools that read
# image files read BGR, so hand them arrays: inferencer(image[..., ::-1]).
"""


def write_mmpretrain(model: BranchModel, folder: str) -> None:
    """Write ``config.py`` and ``model.pth``.

    The config holds the classifier with its preprocessor, and the data and
    metrics of a test. The checkpoint holds ``state_dict`` and ``meta`` with
    ``dataset_meta``, and is opened by ``torch.load(weights_only=True)``.

    Args:
        model (BranchModel): The branch.
        folder (str): Where to write them.
    """
    classifier, state_dict = model.toolbox
    settings = dict(default_scope='mmpretrain')
    if model.custom_imports:
        settings['custom_imports'] = dict(
            imports=model.custom_imports, allow_failed_imports=False)
    settings['model'] = dict(classifier, data_preprocessor=model.preprocessor)
    settings.update(model.test_settings)
    text = f'# {model.name}, a branch of {model.origin["config"]}\n'
    if model.data_order == 'RGB' and model.input_shape[0] == 3:
        text += FILES_NOTE.format(order=model.channel_order)
    text += Config(settings).pretty_text
    write_bytes(osp.join(folder, 'config.py'), text.encode('utf-8'))

    dataset_meta = dict(classes=model.classes) if model.classes else {}
    meta = dict(
        dataset_meta=dataset_meta, metrics=model.metrics, **model.origin)
    write_bytes(osp.join(folder, 'model.pth'), to_checkpoint(state_dict, meta))
