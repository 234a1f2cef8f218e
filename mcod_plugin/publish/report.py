"""Telling what was published."""
from mcod_plugin.utils.table import render
from .publication import Publication

__all__ = ['report']


def report(publication: Publication, out: str) -> str:
    """A table of the branches, ranked, and where their cards lie.

    Args:
        publication (Publication): What was published.
        out (str): The folder.

    Returns:
        str: The lines.
    """
    header = ['', 'top-1 %', 'parameters', 'ms', 'card']
    rows = [[
        member.name, f'{member.metrics["top1"]:.2f}', f'{member.parameters:,}',
        f'{1000 * member.latency:.2f}',
        member.path('README.md')
    ] for member in publication.members]
    if publication.solo is not None:
        header.insert(2, 'over solo')
        for row, member in zip(rows, publication.members):
            gain = member.metrics['top1'] - member.solo['top1']
            row.insert(2, f'{gain:+.2f}')
    return (f'{render(header, rows)}\n'
            f'Evaluated on {publication.evaluated_on}.\n'
            f'Published in {out}.')
