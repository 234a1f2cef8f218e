"""Model cards: Markdown with the front matter of the Hugging Face hub."""
import os.path as osp
from typing import List

from mcod_plugin.runs.tables import markdown
from mcod_plugin.utils.units import file_size
from .measure import RUNS, THREADS
from .publication import Member, Publication
from .trained_run import TrainedRun
from .training import known, listed, training_section

__all__ = ['branch_card', 'cohort_card']


def branch_card(publication: Publication, member: Member) -> str:
    """The card of a branch.

    Args:
        publication (Publication): Its cohort.
        member (Member): The branch.

    Returns:
        str: The card.

    Raises:
        ValueError: If the hub's library does not accept it.
    """
    peers = [m.name for m in publication.branches if m is not member]
    place = 'the only one'
    if peers:
        place = (f'number {publication.branches.index(member) + 1} of the '
                 f'{len(publication.branches)}')
    beside = f' with {listed(peers)}' if peers else ''
    trained = 'trained' + beside
    if member.name in publication.run.frozen:
        trained = f'frozen in a cohort{beside}, trained'
    return _card(
        publication, member,
        f'{member.network} for {publication.data.name}, {trained} '
        f'{publication.run.method}; top-1 accuracy '
        f'{member.metrics["top1"]:.2f} %.\n'
        'It is an ordinary MMPretrain classifier that needs no other network; '
        f'{place} in [its cohort]({_link(member, publication.ensemble)}).')


def cohort_card(publication: Publication) -> str:
    """The card of a cohort and its ensemble, which ranks the branches.

    Args:
        publication (Publication): The cohort.

    Returns:
        str: The card.

    Raises:
        ValueError: If the hub's library does not accept it.
    """
    member = publication.ensemble
    names = listed([branch.name for branch in publication.branches])
    number = len(publication.branches)
    best = publication.branches[0]
    which, rest = 'Only', 'ensemble is no other'
    if number > 1:
        which = 'Best'
        rest = (f'ensemble of all has {member.metrics["top1"]:.2f} % and '
                'costs as much as all')
    return _card(
        publication, member,
        f'A cohort of {number} network{"s" * (number > 1)} for '
        f'{publication.data.name} ({names}), trained '
        f'{publication.run.method}.\n'
        f'{which} branch: [{best.name}]({_link(member, best)}) with '
        f'{best.metrics["top1"]:.2f} % top-1, to be used alone; the {rest}.')


def _card(publication: Publication, member: Member, summary: str) -> str:
    from huggingface_hub import ModelCard

    sections = [
        f'# {member.model_name}', summary, '## Use',
        _use(member), '## Results',
        _results(publication, member), *_gain(publication, member),
        '## Reproduce the number',
        _reproduce(publication, member), '## Training',
        training_section(publication), '## Data',
        _data(publication), '## Limits',
        _limits(publication, member), '## Files',
        _files(member)
    ]
    if member.captions:
        sections[-2:-2] = ['## Figures', _figures(member)]
    text = '\n\n'.join(sections) + '\n'
    content = f'---\n{_front_matter(publication, member)}\n---\n\n{text}'
    # It parses the front matter and checks the results, as the hub does.
    return ModelCard(content).content


def _front_matter(publication: Publication, member: Member) -> str:
    """YAML that the Hugging Face hub reads."""
    from huggingface_hub import EvalResult, ModelCardData

    data = publication.data
    results = [
        EvalResult(
            task_type='image-classification',
            task_name='Image Classification',
            dataset_type=data.hub,
            dataset_name=data.name,
            dataset_split=publication.split,
            dataset_args=publication.part or None,
            metric_type='accuracy',
            metric_name=f'Top {key[len("top"):]} Accuracy in %',
            metric_value=round(value, 4))
        for key, value in member.metrics.items()
    ]
    return ModelCardData(
        license='apache-2.0',
        library_name='mmpretrain',
        pipeline_tag='image-classification',
        tags=['mcod_plugin', *_techniques(publication.run), 'mmpretrain'],
        datasets=[data.hub] if data.listed else None,
        metrics=['accuracy'],
        model_name=member.model_name,
        eval_results=results).to_yaml()


def _techniques(run: TrainedRun) -> List[str]:
    """What the hub's users look for."""
    if not run.distils:
        return []
    return ['distillation' if run.frozen_teachers else 'online-distillation']


def _use(member: Member) -> str:
    channels, height, width = member.input_shape
    order = f'{member.channel_order}, ' if channels == 3 else ''
    needs = ['mmpretrain', *member.own_packages]
    if member.needs_plugin:
        needs.insert(1, 'mcod_plugin')
    return f"""\
In the folder of this card, with {listed(needs)} installed:

```python
import torch
from mmpretrain import get_model

model = get_model('config.py')
content = torch.load('{member.weights}', weights_only=True)
model.load_state_dict(content['state_dict'])
# Yours: {order}pixels from 0 to 255, (N, {channels}, {height}, {width}).
images = torch.randint(256, (2, {channels}, {height}, {width}))
inputs = model.data_preprocessor(dict(inputs=images))['inputs']
with torch.no_grad():
    scores = model(inputs).softmax(1)
print(scores.argmax(1).tolist())
```

Normalisation is in the model. {_classes_note(member)}"""


def _classes_note(member: Member) -> str:
    if member.folder:
        return ('`config.json` has the names of the classes, and, with '
                '`model.safetensors`, all that is needed without a pickle.')
    return ('The branches are `model.branches`, each a classifier by '
            'itself.')


def _results(publication: Publication, member: Member) -> str:
    keys = list(member.metrics)
    header = [
        '', 'model', 'network', *(f'top-{key[3:]} %' for key in keys),
        'parameters', 'FLOPs', 'CPU latency', 'checkpoint'
    ]
    rows = []
    for index, other in enumerate(publication.members):
        name = other.name if other is member else (
            f'[{other.name}]({_link(member, other)})')
        rank = '' if other is publication.ensemble else str(index + 1)
        rows.append([
            rank, f'**{name}**' if other is member else name, other.network,
            *(f'{other.metrics[key]:.2f}'
              for key in keys), f'{other.parameters:,}',
            'unknown' if other.flops is None else f'{other.flops:,}',
            f'{1000 * other.latency:.2f} ms',
            file_size(other.sizes[other.weights])
        ])
    machine = publication.machine
    differ = ''
    if len(publication.branches) > 1:
        differ = (' The branches disagree on '
                  f'{100 * publication.disagreement:.1f} % of the images.')
    return '\n'.join([
        markdown(header, rows, left=3), '',
        f'Evaluated from the published files on {publication.evaluated_on}, '
        'in float32. FLOPs are multiply-adds of one '
        'image. Latency is the '
        f'median of {RUNS} runs with batch 1 on {THREADS} thread'
        f'{"s" * (THREADS > 1)} of {publication.cpu}, PyTorch '
        f'{machine["versions"]["torch"]}.{differ}'
    ])


def _gain(publication: Publication, member: Member) -> List[str]:
    """Gains over solo, if it was measured."""
    if publication.solo is None:
        return []
    rows = [[
        other.name, f'{other.solo["top1"]:.2f}',
        f'{other.metrics["top1"]:.2f}',
        f'{other.metrics["top1"] - other.solo["top1"]:+.2f}'
    ] for other in publication.members
            if member in (other, publication.ensemble)]
    return [
        '## Gain over solo', '\n'.join([
            markdown(['', 'solo top-1 %', 'cohort top-1 %', 'gain in points'],
                     rows), '',
            'Solo: the same networks by the same recipe, never distilled, '
            'evaluated in the same way '
            f'(`{osp.basename(publication.solo.checkpoint)}`). '
            f'Seed of the cohort: {known(publication.run.seed)}, of solo: '
            f'{known(publication.solo.seed)}. **One seed proves little**: '
            'accuracy differs from seed to seed, too. `tools/compare.py` '
            'trains both with several seeds.'
        ])
    ]


def _reproduce(publication: Publication, member: Member) -> str:
    place = publication.place
    lines = '\n'.join(member.test_output)
    return f"""\
From the folder of the plugin's repository:

```bash
python tools/test.py {place}/{member.path('config.py')} \\
    {place}/{member.path(member.weights)}
```

prints, among other things:

```
{lines}
```"""


def _data(publication: Publication) -> str:
    return (f'{publication.data.name}: {publication.data.terms}\n\n'
            'The weights and this card are under the licence of the code, '
            'Apache-2.0; the terms of the data stay as they are.')


def _limits(publication: Publication, member: Member) -> str:
    run = publication.run
    _, height, width = member.input_shape
    lines = [
        f'One run, of seed {known(run.seed)}. Another seed gives another '
        'number.', f'For the classes of {publication.data.name} in images of '
        f'{width}x{height} pixels. Robustness to other images and fairness '
        'were not measured.',
        'The accuracy is on the data on which the run was validated.'
        if run.held_out == 'validation' else
        'The accuracy is on the test data of the config; the run was not '
        'validated.'
    ]
    if run.is_mcod:
        lines.insert(
            0, 'MCOD-style training, not a reproduction of the paper: its '
            'abstract leaves ensemble rule, schedule and recipe open, and '
            'those used here are our own.')
    if osp.basename(run.checkpoint).startswith('best_'):
        lines.append('The checkpoint was chosen by its accuracy on these '
                     'data, which flatters it.')
    if run.done is not None and run.done < run.planned:
        lines.append(f'The checkpoint is of {run.unit} {run.done} of the '
                     f'{run.planned} planned.')
    if publication.solo is None:
        lines.append('Not compared with solo training here: nothing is said '
                     'of a gain.')
    return '\n'.join(f'- {line}' for line in lines)


def _figures(member: Member) -> str:
    return '\n\n'.join(f'![{caption}]({file})\n\n{caption}'
                       for file, caption in member.captions.items())


def _files(member: Member) -> str:
    rows = [[f'`{name}`', file_size(size)]
            for name, size in member.sizes.items()]
    return (f'{markdown(["file", "size"], rows)}\n\n'
            f'sha256 of `{member.weights}`: `{member.sha256}`. It is opened '
            'by `torch.load(weights_only=True)`.')


def _link(here: Member, there: Member) -> str:
    """From the card of one to that of the other."""
    up = '../' if here.folder else ''
    return up + there.path('README.md')
