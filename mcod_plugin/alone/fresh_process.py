"""Opens exports as whoever gets them does, and computes logits.

Run as a script, in a process of its own: it reads a request from a file, as
JSON, and imports nothing of this package. It ends when its stdin is closed.
"""
import json
import os
import os.path as osp
import sys
import threading
import traceback

import numpy as np
import torch


def rgb(images: np.ndarray, order: str) -> torch.Tensor:
    """Images ``(N, C, H, W)``, whose channels are in an order such as
    ``'BGR'``, as floats in RGB."""
    if order == 'BGR' and images.shape[1] == 3:
        images = images[:, ::-1]
    return torch.from_numpy(images.astype(np.float32))


def build(config: dict, state_dict: dict) -> torch.nn.Module:
    """A network of MMPretrain's registry with all its weights."""
    from mmengine.registry import init_default_scope
    from mmpretrain.registry import MODELS
    init_default_scope('mmpretrain')
    model = MODELS.build(config)
    model.load_state_dict(state_dict, strict=True)
    model.eval()
    return model


def build_mmpretrain(config: dict, state_dict: dict):
    """MMPretrain's classifier, which prepares images itself: a function from
    images ``(N, C, H, W)``, as the data set gives them, and the order of their
    channels to logits."""
    model = build(config, state_dict)

    def run(images, order):
        inputs = torch.from_numpy(images.copy())
        return model(model.data_preprocessor(dict(inputs=inputs))['inputs'])

    return run


def build_plain(config: dict, preprocessing: dict, state_dict: dict):
    """A plain network, whose images are prepared for it; see
    :func:`build_mmpretrain`."""
    model = build(config, state_dict)
    mean, std = (
        torch.tensor(preprocessing[key]).view(-1, 1, 1)
        for key in ('mean', 'std'))

    def run(images, order):
        inputs = rgb(images, order)
        if preprocessing['channel_order'] == 'BGR' and inputs.shape[1] == 3:
            inputs = inputs.flip(1)
        return model((inputs - mean) / std)

    return run


def open_mmpretrain(folder: str):
    """Open an export of format mmpretrain."""
    from mmengine.config import Config
    config = Config.fromfile(osp.join(folder, 'config.py'))
    checkpoint = torch.load(
        osp.join(folder, 'model.pth'), map_location='cpu', weights_only=True)
    return build_mmpretrain(config.model, checkpoint['state_dict'])


def open_safetensors(folder: str):
    """Open an export of format safetensors."""
    from mmengine.utils import import_modules_from_strings
    from safetensors.torch import load_file
    with open(osp.join(folder, 'config.json'), encoding='utf-8') as file:
        config = json.load(file)
    import_modules_from_strings(config['custom_imports'])
    weights = load_file(osp.join(folder, 'model.safetensors'))
    if 'data_preprocessor' in config['model']:
        return build_mmpretrain(config['model'], weights)
    return build_plain(config['model'], config['preprocessing'], weights)


def open_timm(folder: str):
    """Open an export of format timm."""
    import timm
    model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    data = timm.data.resolve_model_data_config(model)
    mean, std = (
        torch.tensor(data[key], dtype=torch.float64).view(-1, 1, 1)
        for key in ('mean', 'std'))

    def run(images, order):
        pixels = rgb(images, order).double() / 255
        return model(((pixels - mean) / std).float())

    return run


def open_onnx(folder: str):
    """Open an export of format onnx."""
    import onnxruntime
    session = onnxruntime.InferenceSession(
        osp.join(folder, 'model.onnx'), providers=['CPUExecutionProvider'])

    def run(images, order):
        inputs = dict(images=rgb(images, order).numpy())
        return torch.from_numpy(session.run(['logits'], inputs)[0])

    return run


OPEN = dict(
    mmpretrain=open_mmpretrain,
    safetensors=open_safetensors,
    timm=open_timm,
    onnx=open_onnx)


def end_with_parent() -> None:
    """End this process when the one that has started it does, which holds the
    other end of stdin."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@torch.no_grad()
def main() -> None:
    """Answer the request: for each job write the logits, or why there are
    none."""
    end_with_parent()
    # The folder of this script is no place to import from.
    own = osp.dirname(osp.abspath(__file__))
    sys.path[:] = [path for path in sys.path if path != own]
    with open(sys.argv[1], encoding='utf-8') as file:
        request = json.load(file)
    if not request['plugin']:
        # An import of it fails.
        sys.modules['mcod_plugin'] = None
    for job in request['jobs']:
        try:
            images = np.load(job['images'], mmap_mode='r')
            run = OPEN[job['format']](job['folder'])
            logits = np.concatenate([
                run(images[begin:end], job['order']).numpy()
                for begin, end in request['batches']
            ])
        except Exception as error:
            traceback.print_exc()
            text = f'{type(error).__name__}: {error}'
            with open(job['logits'] + '.error', 'w') as file:
                file.write(' '.join(text.split()))
        else:
            np.save(job['logits'], logits)


if __name__ == '__main__':
    main()
