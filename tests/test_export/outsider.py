"""Whoever got the exports and has no mcod_plugin: prints logits as JSON.

Written apart from the package's own check, by what users call.
"""
import builtins
import json
import os
import sys

import numpy as np
import torch

allowed = sys.argv[1] == 'plugin'
importing = builtins.__import__


def without_plugin(name, *args, **kwargs):
    if name.split('.')[0] == 'mcod_plugin' and not allowed:
        raise ModuleNotFoundError(f'no module named {name}')
    return importing(name, *args, **kwargs)


builtins.__import__ = without_plugin

import onnxruntime  # noqa: E402
import timm  # noqa: E402
from mmpretrain import ImageClassificationInferencer, get_model  # noqa: E402

request = json.load(sys.stdin)
found = {}
for branch, format, folder, images in request:
    pixels = np.load(images).astype(np.float32)
    with torch.no_grad():
        if format == 'mmpretrain':
            config = f'{folder}/config.py'
            model = get_model(config, pretrained=f'{folder}/model.pth')
            inputs = dict(inputs=torch.from_numpy(pixels))
            logits = model(model.data_preprocessor(inputs)['inputs']).numpy()
            inferencer = ImageClassificationInferencer(
                config, pretrained=f'{folder}/model.pth', device='cpu')
            digits = np.load(f'{os.path.dirname(images)}/images.npy')
            small = [image.transpose(1, 2, 0) for image in digits[:3]]
            found[f'{branch} inferencer'] = [[
                int(result['pred_label']), result['pred_class']
            ] for result in inferencer(small)]
        elif format == 'timm':
            model = timm.create_model(f'local-dir:{folder}', pretrained=True)
            data = timm.data.resolve_model_data_config(model)
            mean, std = (
                np.array(data[key], np.float32)[:, None, None]
                for key in ('mean', 'std'))
            inputs = torch.from_numpy((pixels / 255 - mean) / std)
            logits = model.eval()(inputs).numpy()
            found[f'{branch} labels'] = model.pretrained_cfg['label_names']
            found[f'{branch} size'] = data['input_size']
        else:
            session = onnxruntime.InferenceSession(f'{folder}/model.onnx')
            # one by one, though it was traced with two
            logits = np.concatenate([
                session.run(None, {'images': pixels[i:i + 1]})[0]
                for i in range(len(pixels))
            ])
            found[f'{branch} meta'] = (
                session.get_modelmeta().custom_metadata_map)
    found[f'{branch} {format}'] = logits.tolist()
found['plugin'] = any(name.startswith('mcod_plugin') for name in sys.modules)
with open(sys.argv[2], 'w') as file:
    json.dump(found, file)
