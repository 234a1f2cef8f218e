"""A graph for ONNX runtimes."""
import inspect
import io
import json
import logging
import warnings
from pathlib import Path

import torch
import torch.nn as nn
from torch import Tensor

from mcod_plugin.alone.branch_model import BranchModel
from mcod_plugin.errors import ConfigError, one_line

__all__ = ['OPSET', 'write_onnx']

# The first that has layer norm, and one that every PyTorch since 2.1 writes.
OPSET = 17


class _Pixels(nn.Module):
    """A classifier that takes pixels."""

    def __init__(self, model: BranchModel) -> None:
        super().__init__()
        self.classifier = model.classifier
        self.turn = (
            model.channel_order == 'BGR' and model.input_shape[0] == 3)
        for name in ('mean', 'std'):
            value = torch.tensor(getattr(model, name)).view(-1, 1, 1)
            self.register_buffer(name, value)

    def forward(self, images: Tensor) -> Tensor:
        if self.turn:
            images = images[:, [2, 1, 0]]
        return self.classifier((images - self.mean) / self.std)


def write_onnx(model: BranchModel, folder: str) -> None:
    """Write ``model.onnx``, of operator set 17, of a branch into a folder.

    Input ``images`` is float32 ``(N, C, H, W)``, RGB, on the scale of the
    pixels, 0 to 255; the normalisation is part of the graph. Output ``logits``
    is float32 ``(N, num_classes)``. N is free. The metadata ``classes``,
    ``input`` and ``branch`` are in the file as well.
    """
    import onnx
    options = {}
    if 'dynamo' in inspect.signature(torch.onnx.export).parameters:
        # It is many times as fast as its successor, needs no other package,
        # and what it gives is compared anyway.
        options['dynamo'] = False
    buffer = io.BytesIO()
    logger = logging.getLogger('torch.onnx')
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter('ignore')
            torch.onnx.export(
                _Pixels(model).eval(), (torch.zeros(2, *model.input_shape), ),
                buffer,
                opset_version=OPSET,
                input_names=['images'],
                output_names=['logits'],
                dynamic_axes=dict(images={0: 'N'}, logits={0: 'N'}),
                **options)
    except Exception as error:
        raise ConfigError(
            f'--format onnx: PyTorch cannot export branch {model.name}: '
            f'{one_line(error)[:300]}') from error
    finally:
        logger.setLevel(level)
    graph = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(
        graph, {
            'branch': model.name,
            'classes': json.dumps(model.classes, ensure_ascii=False),
            'input':
            'RGB, 0 to 255' if model.input_shape[0] == 3 else '0 to 255'
        })
    onnx.checker.check_model(graph)
    Path(folder, 'model.onnx').write_bytes(graph.SerializeToString())
