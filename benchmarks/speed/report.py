"""The result of a benchmark, to read and to keep."""
import json
import statistics
from typing import Any, Dict, List, Optional

from mcod_plugin.utils.files import write_text
from mcod_plugin.runs.tables import render
from .score import Score

__all__ = ['results', 'tables', 'write']

MIB = 1024**2


def results(scores: Dict[str, Score],
            ratios: Dict[str, List[float]]) -> Dict[str, Any]:
    """The measurements as plain data.

    Args:
        scores (dict[str, Score]): The scores by contender.
        ratios (dict[str, list[float]]): The ratios by name, one value for
            each round.

    Returns:
        dict[str, dict]: ``contenders`` and ``ratios``.
    """
    return dict(
        contenders={
            name:
            dict(
                score.facts,
                turns=[
                    dict(seconds=seconds, steps=steps)
                    for seconds, steps in score.turns
                ],
                milliseconds=1000 * score.median,
                spread=score.spread,
                images_per_step=score.images,
                images_per_second=score.images_per_second,
                peak_bytes=score.peak_bytes)
            for name, score in scores.items()
        },
        ratios={
            name:
            dict(
                values=values,
                median=statistics.median(values),
                min=min(values),
                max=max(values))
            for name, values in ratios.items()
        })


def tables(report: Dict[str, Any]) -> str:
    """A report as text.

    Args:
        report (dict[str, Any]): What :func:`run_benchmark` returns.

    Returns:
        str: What was measured where, a table of the contenders and one of the
        ratios.
    """
    header = ['contender', 'ms per step', 'spread %', 'images/s', 'peak MiB']
    rows = [[
        name, f'{row["milliseconds"]:.2f}', f'{100 * row["spread"]:.1f}',
        f'{row["images_per_second"]:,.0f}',
        _mib(row['peak_bytes'])
    ] for name, row in report['contenders'].items()]
    if report['growth_branch'] is not None:
        header += ['ms per branch', 'MiB per branch']
        for cells, (name, row) in zip(rows, report['contenders'].items()):
            number = int(name.rpartition('/')[2])
            cells += [
                f'{row["milliseconds"] / number:.2f}',
                _mib(row['peak_bytes'], number)
            ]
    text = f'{_heading(report)}\n{render(header, rows)}'
    rows = [[name, *(f'{row[key]:.3f}' for key in ('median', 'min', 'max'))]
            for name, row in report['ratios'].items()]
    if rows:
        text += '\n' + render(('ratio', 'median', 'min', 'max'), rows)
    return text


def _heading(report: Dict[str, Any]) -> str:
    threads = report['threads']
    formats = report['memory_formats'] or {}
    settings = [
        f'batch size {report["batch_size"]}', report['precision'],
        *dict.fromkeys(formats.values())
    ]
    return (f'{report["config"]}: {", ".join(settings)}; on '
            f'{report["device"]}, {threads} thread{"s" * (threads > 1)}, '
            f'torch {report["versions"]["torch"]}.\nMedians of '
            f'{report["rounds"]} rounds; the spread is their interquartile '
            'range.')


def _mib(number: Optional[int], parts: int = 1) -> str:
    return '-' if number is None else f'{number / MIB / parts:,.0f}'


def write(report: Dict[str, Any], path: str) -> None:
    """Write a report beside its place, then put it there.

    Args:
        report (dict[str, Any]): The report.
        path (str): The file.
    """
    write_text(path, f'{json.dumps(report, indent=2)}\n')
