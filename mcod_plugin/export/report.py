"""Telling what was exported."""
from typing import List

from mcod_plugin.runs.tables import render
from mcod_plugin.utils.units import file_size
from .export import Export, Exports

__all__ = ['report']


def report(exports: Exports) -> str:
    """A table of the exports, and what there is to say besides.

    Args:
        exports (Exports): The exports.

    Returns:
        str: The lines.
    """
    rows = [[
        item.branch, item.format,
        _files(item), f'{item.difference:.1e}',
        _percent(item.metrics),
        _percent(exports.metrics[item.branch])
    ] for item in exports.items]
    header = [
        'branch', 'format', 'files', 'max difference', 'top-1 %', 'in cohort'
    ]
    lines = [
        render(header, rows),
        'Opened in a fresh process and compared with the branch in its '
        f'cohort, on {exports.images}.'
    ]
    if exports.averaged:
        lines.append('The weights are averages over the run, of EMAHook.')
    own = dict.fromkeys(package for item in exports.items
                        for package in item.own_packages)
    for text, names in (
        ('have parts of mcod_plugin, which must be installed to open them as '
         'mmpretrain or safetensors', _names(exports.items, 'needs_plugin')),
        ("are tested on a data set of mcod_plugin's, which must be installed "
         "for the toolbox's tools/test.py",
         _names(exports.items, 'tests_need_plugin')),
        (f'import {", ".join(own)} as their cohort does, which must be '
         'installed to open them as mmpretrain or safetensors',
         _names(exports.items, 'own_packages'))):
        if names:
            lines.append(f'{", ".join(names)}: {text}.')
    for (name, format), reason in exports.left_out.items():
        reason = reason.partition(f'--format {format}: ')[2] or reason
        lines.append(f'{name} as {format} is not exported: {reason}.')
    return '\n'.join(lines)


def _files(item: Export) -> str:
    return '\n'.join(f'{name} {file_size(size)}'
                     for name, size in item.files.items())


def _percent(metrics: dict) -> str:
    return f'{metrics["top1"]:.2f}' if metrics else ''


def _names(items: List[Export], key: str) -> List[str]:
    return list(
        dict.fromkeys(item.branch for item in items if getattr(item, key)))
