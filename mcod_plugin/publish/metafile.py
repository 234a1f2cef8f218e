"""The entry of a cohort in a model index of MMPretrain."""
from typing import Any, Dict

import yaml

from .publication import Member, Publication

__all__ = ['PAPER', 'metafile']

PAPER = dict(
    URL='https://doi.org/10.3390/e21040357',
    Title='Multistructure-Based Collaborative Online Distillation')


def metafile(publication: Publication) -> str:
    """The metafile of a cohort, in YAML. Paths are relative to its folder.
    ``Cohort`` extends MMPretrain's format: the branches of an ensemble."""
    collection = dict(
        Name=publication.name,
        Metadata={
            'Training Data': publication.data.name,
            'Training Techniques': [f'Trained {publication.run.method}'],
            'Architecture':
            [member.network for member in publication.branches]
        },
        README='README.md')
    if publication.run.is_mcod:
        collection['Paper'] = PAPER
    models = [_model(publication, member) for member in publication.members]
    models[-1]['Cohort'] = [
        dict(
            Name=member.name,
            Config=member.path('config.py'),
            Weights=member.path(member.weights),
            Metrics=_metrics(member)) for member in publication.branches
    ]
    return yaml.safe_dump(
        dict(Collections=[collection], Models=models),
        sort_keys=False,
        allow_unicode=True)


def _model(publication: Publication, member: Member) -> Dict[str, Any]:
    run = publication.run
    metadata = {
        'Training Data': publication.data.name,
        run.unit.capitalize() + 's': run.done,
        'Batch Size': run.cfg.train_dataloader.get('batch_size'),
        'FLOPs': member.flops,
        'Parameters': member.parameters,
        'SHA256': member.sha256,
    }
    return {
        'Name':
        member.model_name,
        'Metadata': {
            key: value
            for key, value in metadata.items() if value is not None
        },
        'In Collection':
        publication.name,
        'Results': [{
            'Dataset': publication.data.name,
            'Metrics': _metrics(member),
            'Task': 'Image Classification'
        }],
        'Weights':
        member.path(member.weights),
        'Config':
        member.path('config.py')
    }


def _metrics(member: Member) -> Dict[str, float]:
    return {
        f'Top {key[len("top"):]} Accuracy': round(value, 4)
        for key, value in member.metrics.items()
    }
