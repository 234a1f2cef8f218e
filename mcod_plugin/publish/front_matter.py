"""The front matter of model cards, that the Hugging Face hub reads."""
from typing import List

from .ended_run import EndedRun
from .member import Member
from .publication import Publication

__all__ = ['front_matter']


def front_matter(publication: Publication, member: Member) -> str:
    """The front matter of a card.

    Args:
        publication (Publication): Its cohort.
        member (Member): Whose card it is.

    Returns:
        str: YAML, without the lines around it.
    """
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


def _techniques(run: EndedRun) -> List[str]:
    """What the hub's users look for."""
    if not run.distils:
        return []
    return ['distillation' if run.frozen_teachers else 'online-distillation']
