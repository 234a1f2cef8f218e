"""A trained cohort is published: weights, configs, figures, model cards."""
from .publication import Member, Publication, summary
from .publisher import publish_cohort
from .push import check_push, push

__all__ = [
    'Member', 'Publication', 'check_push', 'publish_cohort', 'push', 'summary'
]
