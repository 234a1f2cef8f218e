"""A trained cohort is published: weights, configs, figures, model cards."""
from .member import Member
from .publication import Publication
from .publish import publish_cohort
from .push import check_push, push
from .report import report

__all__ = [
    'Member', 'Publication', 'check_push', 'publish_cohort', 'push', 'report'
]
