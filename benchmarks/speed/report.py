"""What was measured, and what it says about the cohort."""
import re
import statistics
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple

import numpy as np

from mcod_plugin.runs.tables import render

__all__ = ['Measurement', 'growth_ratios', 'results', 'speed_ratios', 'tables']

MIB = 1024**2

Ratios = Dict[str, List[float]]


@dataclass
class Measurement:
    """What was measured of a case.

    Args:
        images (float): Images in a step.
        peak_bytes (int, optional): By how much the peak of its process's
            memory grew; None if that is not known.
        facts (dict[str, Any]): What else the case told of itself.
        samples (list[tuple[float, int]]): Seconds and steps of each round.
    """

    images: float
    peak_bytes: Optional[int] = None
    facts: Dict[str, Any] = field(default_factory=dict)
    samples: List[Tuple[float, int]] = field(default_factory=list)

    @property
    def seconds(self) -> np.ndarray:
        """np.ndarray: Seconds of a step, by round."""
        return np.array([seconds / steps for seconds, steps in self.samples])


def speed_ratios(found: Mapping[str, Measurement],
                 branches: Iterable[str],
                 iterations: int,
                 val_images: int,
                 variants: Iterable[str] = ()) -> Ratios:
    """How the cohort compares with its branches alone.

    The times of a ratio are those of one round, so that a machine that is
    slower for a while counts on both sides.

    Args:
        found (dict[str, Measurement]): The measurements by case. A ratio that
            lacks one of its cases is left out.
        branches (Iterable[str]): Names of the branches.
        iterations (int): Iterations of an epoch.
        val_images (int): Images of a validation; 0 if there is none.
        variants (Iterable[str]): Names of other configs of the cohort.

    Returns:
        dict[str, list[float]]: The ratios by name, one value for each round;
        of memory a single one.
    """

    def seconds(*names: str) -> np.ndarray:
        return _seconds(found, names)

    def epoch(training: Iterable[str], validation: Iterable[str]):
        total = iterations * seconds(*training)
        if val_images:
            total = total + val_images * sum(
                seconds(name) / found[name].images if name in found else np.nan
                for name in validation)
        return total

    bare = [f'bare/{name}' for name in branches]
    solo = epoch([f'solo/{name}' for name in branches],
                 [f'val/{name}' for name in branches])
    loaders = [
        seconds(name) for name in found if name.startswith('data/toolbox-')
    ]
    ratios = {
        'runner/on : sum of bare':
        seconds('runner/on') / seconds(*bare),
        'step/on : sum of bare':
        seconds('step/on') / seconds(*bare),
        'step/on : step/off':
        seconds('step/on') / seconds('step/off'),
        'epoch of cohort : epochs of solos':
        epoch(['runner/on'], ['val/cohort']) / solo,
        'images/s of data/cohort : best of data/toolbox':
        np.min(loaders or [np.nan], 0) / seconds('data/cohort'),
        'memory of step/on : sum of bare':
        _memory(found, ['step/on']) / _memory(found, bare),
    }
    for name in variants:
        for kind, usual in (('runner', 'runner/on'), ('data', 'data/cohort')):
            ratios[f'{kind}/{name} : {usual}'] = (
                seconds(f'{kind}/{name}') / seconds(usual))
    return _known(ratios)


def growth_ratios(found: Mapping[str, Measurement]) -> Ratios:
    """Time and memory of each larger cohort as a multiple of those of as many
    cohorts of one; see :func:`speed_ratios`."""
    ratios = {}
    for what, measure in (('time', _seconds), ('memory', _memory)):
        for name in found:
            number = int(re.sub(r'\D', '', name))
            if number > 1:
                ratios[f'{what} of {number} : {number} x {what} of 1'] = (
                    measure(found, [name]) /
                    measure(found, ['growth/1'] * number))
    return _known(ratios)


def _seconds(found: Mapping[str, Measurement], names: Iterable[str]) -> Any:
    """Seconds of a step of all cases together, by round; not a number if one
    was not timed."""
    return sum(found[name].seconds if name in found else np.nan
               for name in names)


def _memory(found: Mapping[str, Measurement], names: Iterable[str]) -> float:
    """Peak memory of all cases together; not a number if one is not known."""
    return sum((found[name].peak_bytes if name in found else None) or np.nan
               for name in names)


def _known(ratios: Mapping[str, Any]) -> Ratios:
    return {
        name: np.atleast_1d(values).tolist()
        for name, values in ratios.items() if not np.isnan(values).any()
    }


def results(found: Mapping[str, Measurement],
            ratios: Ratios) -> Dict[str, Any]:
    """The measurements as plain data. In files the cases are called
    ``contenders``, and their samples ``turns``."""
    return dict(
        contenders={
            name: _summary(case)
            for name, case in found.items()
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


def _summary(case: Measurement) -> Dict[str, Any]:
    first, median, third = np.percentile(case.seconds, [25, 50, 75]).tolist()
    return dict(
        case.facts,
        turns=[
            dict(seconds=seconds, steps=steps)
            for seconds, steps in case.samples
        ],
        milliseconds=1000 * median,
        # Interquartile range as a share of the median.
        spread=(third - first) / median,
        images_per_step=case.images,
        images_per_second=case.images / median,
        peak_bytes=case.peak_bytes)


def tables(report: Dict[str, Any]) -> str:
    """What :func:`run_benchmark` returns as text: what was measured where, a
    table of the cases and one of the ratios."""
    header = ['case', 'ms per step', 'spread %', 'images/s', 'peak MiB']
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
    threads = report['threads']
    settings = [
        f'batch size {report["batch_size"]}', report['precision'],
        *dict.fromkeys((report['memory_formats'] or {}).values())
    ]
    text = (f'{report["config"]}: {", ".join(settings)}; on '
            f'{report["device"]}, {threads} thread{"s" * (threads > 1)}, '
            f'torch {report["versions"]["torch"]}.\nMedians of '
            f'{report["rounds"]} rounds; the spread is their interquartile '
            f'range.\n{render(header, rows)}')
    rows = [[name, *(f'{row[key]:.3f}' for key in ('median', 'min', 'max'))]
            for name, row in report['ratios'].items()]
    if rows:
        text += '\n' + render(('ratio', 'median', 'min', 'max'), rows)
    return text


def _mib(number: Optional[int], parts: int = 1) -> str:
    return '-' if number is None else f'{number / MIB / parts:,.0f}'
