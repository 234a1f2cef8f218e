"""What a study found: tables, and a file that holds them."""
import math
import os.path as osp
import re
from collections import defaultdict
from statistics import fmean
from typing import (Any, Callable, Dict, Iterable, List, Mapping, Optional,
                    Sequence, Tuple)

from mcod_plugin.errors import ConfigError, check_choice
from mcod_plugin.runs.metrics import DISAGREEMENT, ENSEMBLE
from mcod_plugin.runs.record import dose
from mcod_plugin.runs.tables import WIDTH, markdown, render
from mcod_plugin.utils.files import check_out, write_text
from .contrasts import contrast_table, text_of
from .figures import draw
from .plan import Run
from .results import (Results, all_runs, best, differences, divergence,
                      frozen_branches, kd_ratios, last, length,
                      of_other_configs, read_results, trained_branches, unit)
from .statistics import Estimate, TwoWay, estimate
from .study import Study

__all__ = ['Report', 'insert', 'write_report']

NONE = '-'

Column = Dict[str, str]
# By method and seed.
Values = Dict[str, Mapping[int, float]]


class Report:
    """Tables of the methods of a study.

    Runs that have diverged are named, and count nowhere.

    Args:
        results (dict[str, list[dict]]): The runs by method, see
            :func:`~mcod_plugin.compare.results.read_results`.
        baseline (str): The method to which gains refer.
        seeds (Sequence[int], optional): The seeds that each method is to
            have; runs of others do not count. None means those of all runs
            together.
        contrasts (Mapping[str, Sequence[tuple[str, str]]], optional): Pairs
            of methods that the study set out to compare, of each the first
            against the second, by question. Defaults to none.
        hashes (dict[str, str], optional): The hash of the config that each
            run is to have, by name. Those that have another one are told.
            None means any.

    Raises:
        ConfigError: If there is no run yet, none that counts, or no such
            baseline.

    Examples:
        >>> results = read_results('results/small', ['solo', 'mcod'])
        >>> print(Report(results, baseline='solo').to_text())
    """

    def __init__(self,
                 results: Results,
                 baseline: str,
                 seeds: Optional[Sequence[int]] = None,
                 contrasts: Optional[Mapping[str, Sequence[Tuple[
                     str, str]]]] = None,
                 hashes: Optional[Dict[str, str]] = None) -> None:
        check_choice('baseline', baseline, results)
        if seeds is None:
            seeds = {run['seed'] for run in all_runs(results)}
        self.seeds = sorted(seeds)
        self.baseline = baseline
        self.contrasts = contrasts or {}
        self.results = {}
        # By method the seeds of the runs that have failed, and why.
        self._failed: Dict[str, Dict[int, str]] = {}
        for method, runs in results.items():
            runs = [run for run in runs if run['seed'] in self.seeds]
            reasons = {run['seed']: divergence(run) for run in runs}
            self.results[method] = [
                run for run in runs if reasons[run['seed']] is None
            ]
            self._failed[method] = {
                seed: reason
                for seed, reason in reasons.items() if reason
            }
        self.runs = all_runs(self.results)
        if not self.runs:
            raise ConfigError(
                ' '.join(self._failures())
                or 'no run has finished yet; there is nothing to report')
        self.names = [*self.runs[0]['branches'], ENSEMBLE]
        self._hashes = hashes

    def to_markdown(self) -> str:
        """The whole report in Markdown: what was run and on what; tables of
        accuracy, of the gain over the baseline, of the contrasts, of top-5
        accuracy, of the pull of the distillation, and of the best validation
        with the time of a run, without the methods that have no run yet; what
        has failed, what is missing, what was made by another config, and what
        was not the same for all runs."""
        tables = [
            self._accuracy(),
            self._gain(), *self._contrasts(),
            self._top5(),
            self._pull(),
            self._best()
        ]
        parts = [self._heading()]
        for title, header, rows in filter(None, tables):
            parts += [f'{title}.', markdown(header, rows)]
        notes = [*self._notes(), *differences(self.results)]
        if notes:
            parts.append('\n'.join(f'- {note}' for note in notes))
        return '\n\n'.join(parts)

    def to_text(self) -> str:
        """The tables of accuracy and of the gain, for a terminal, what has
        failed, what is missing and what was made by another config."""
        parts = []
        for title, header, rows in filter(
                None, (self._accuracy(), self._gain(), *self._contrasts())):
            rows = [[_without_marks(cell) for cell in row] for row in rows]
            parts += [
                _without_marks(f'{title}.'),
                render(header, _fit(header, rows))
            ]
        return '\n'.join([*parts, *self._notes()])

    def _heading(self) -> str:
        runs = self.runs
        threads = _distinct(run.get('threads') for run in runs)
        if threads:
            threads = f' ({threads} thread{"s" * (threads != "1")})'
        libraries = dict.fromkeys(library for run in runs
                                  for library in run['versions'])
        versions = {
            library: _distinct(run['versions'].get(library) for run in runs)
            for library in libraries
        }
        given = [f'{name} {text}' for name, text in versions.items() if text]
        # Seven digits name a commit, as they do in Git's own lists.
        commits = _distinct(run['commit'][:7] for run in runs
                            if run.get('commit'))
        if commits:
            dirty = any(run.get('dirty') for run in runs)
            given.append(f'commit {commits}' + ' with changes' * dirty)
        return (f'{length(runs[0])} {unit(runs[0])}s, batch size '
                f'{_distinct(run["batch_size"] for run in runs)}, '
                f'{_distinct(run["precision"] for run in runs)}, '
                f'{_list_seeds(self.seeds)}; on '
                f'{_distinct(run["device"] for run in runs)}{threads}; '
                f'{", ".join(given)}.')

    def _notes(self) -> List[str]:
        return [*self._failures(), *self._missing(), *self._of_other_configs()]

    def _failures(self) -> List[str]:
        return [
            f'Failed: {method}_seed{seed} ({reason}).'
            for method, failed in self._failed.items()
            for seed, reason in failed.items()
        ]

    def _missing(self) -> List[str]:
        methods = defaultdict(list)
        for method, runs in self.results.items():
            there = {run['seed'] for run in runs} | {*self._failed[method]}
            missing = sorted(set(self.seeds) - there)
            methods[tuple(missing)].append(method)
        methods.pop((), None)
        return [
            f'Missing: {_list_seeds(seeds)} of {", ".join(names)}.'
            for seeds, names in methods.items()
        ]

    def _of_other_configs(self) -> List[str]:
        if self._hashes is None:
            return []
        names = of_other_configs(self.results, self._hashes)
        return [
            'Made by another config than the one that the study now has: '
            f'{", ".join(names)}.'
        ] * bool(names)

    def _count(self, runs: Sequence[Any]) -> str:
        complete = len(runs) == len(self.seeds)
        return f'{len(runs)}' + ('' if complete else f' of {len(self.seeds)}')

    def _accuracy(self) -> tuple:
        columns = self._by_name(lambda runs, name: last(runs, f'{name}/top1'))
        title = (f'**Top-1 accuracy** after the last {unit(self.runs[0])}, in '
                 'percent')
        if len(self.seeds) > 1:
            title += ', mean ± standard deviation over the seeds'
            if len(self.results) > 1:
                title += ('; bold is a mean that is better than that of each '
                          'other method with all seeds, by the 95 % intervals '
                          'of the differences')
        sentences = [title]
        if any(map(frozen_branches, self.results.values())):
            sentences.append('A frozen branch teaches, is not trained and '
                             'counts in no mean of branches')
        disagreement = self._values(lambda runs: {
            seed: 100 * share
            for seed, share in last(runs, DISAGREEMENT).items()
        })
        if any(disagreement.values()):
            columns['disagreement'] = _column(disagreement)
            sentences.append('Disagreement is the share of images on which '
                             'two networks differ, in percent')
        errors = self._values(_calibration_errors)
        if any(errors.values()):
            columns['ECE'] = self._contest(
                _column(errors), errors, self._trained(), lowest=True)
            sentences.append('ECE is the expected calibration error in '
                             'percent, mean of the branches')
        doses = {
            method: dose(runs[0])
            for method, runs in self.results.items() if runs
        }
        if any(doses.values()):
            columns['distilled'] = {
                method: f'{100 * found[0]:.3g} %, {found[1]:.2f}'
                for method, found in doses.items() if found
            }
            sentences.append('Distilled is the share of the steps that '
                             'distil any network, and the mean weight over '
                             'all steps and networks, the dose')
        columns['seeds'] = {
            method: self._count(runs)
            for method, runs in self.results.items()
        }
        return self._table('. '.join(sentences), columns)

    def _gain(self) -> Optional[tuple]:
        pairs = {
            method:
            len(self._seeds_of(method) & self._seeds_of(self.baseline))
            for method in self.results if method != self.baseline
        }
        compared = [method for method, number in pairs.items() if number]
        if not compared:
            return None
        columns = {
            name:
            self._gains(
                self._values(lambda runs: last(runs, f'{name}/top1')),
                self._trained(name))
            for name in self.names
        }
        for name in self.names:
            for method, runs in self.results.items():
                if name in frozen_branches(runs):
                    columns[name][method] = 'frozen'
        column = self._gains(self._branches(), self._trained())
        for method in set(compared) - set(self._trained()):
            # Of fewer branches: a comparison of its own.
            values = self._branches(trained_branches(self.results[method]))
            own = {key: values[key] for key in (method, self.baseline)}
            column[method] = text_of(
                TwoWay(own).difference(method, self.baseline))
        columns['mean of branches'] = column
        columns['pairs'] = {
            method: str(number)
            for method, number in pairs.items()
        }
        title = (f'**Gain** in top-1 accuracy over `{self.baseline}`, in '
                 'percentage points')
        if len(self.seeds) > 1:
            title += (' [95 % confidence interval by a model in which method '
                      'and seed add up]')
        return self._table(title, columns, compared)

    def _gains(self, values: Values, methods: Sequence[str]) -> Column:
        """The gains of some methods over the baseline."""
        values = {method: values[method] for method in methods}
        if not values.get(self.baseline):
            return {}
        model = TwoWay(values)
        column = {
            method: text_of(model.difference(method, self.baseline))
            for method in methods
        }
        # The baseline itself is in the contest: where no method beats it,
        # none is bold.
        return self._contest(column, values, methods)

    def _contrasts(self) -> List[Optional[tuple]]:
        branches = self._branches()
        outcomes = {
            # A method that freezes one has another mean.
            'the mean of branches': {
                method: branches[method]
                for method in self._trained()
            },
            'the ensemble':
            self._values(lambda runs: last(runs, f'{ENSEMBLE}/top1'))
        }
        return [
            contrast_table(outcome, values, pairs, question)
            for question, pairs in self.contrasts.items()
            for outcome, values in outcomes.items()
        ]

    def _top5(self) -> Optional[tuple]:
        columns = self._by_name(lambda runs, name: last(runs, f'{name}/top5'))
        if not columns:
            return None
        return self._table(
            f'**Top-5 accuracy** after the last {unit(self.runs[0])}, in '
            'percent', columns)

    def _pull(self) -> Optional[tuple]:
        columns = {}
        for name in self.names[:-1]:
            columns[name] = {
                method: text
                for method, runs in self.results.items()
                if (text := _course([kd_ratios(run, name) for run in runs]))
            }
        methods = [
            method for method in self.results
            if any(method in column for column in columns.values())
        ]
        return self._table(
            '**Pull of the distillation** (`kd_ratio`): the norm of its '
            'gradient over that of the own loss, both at the logits of a '
            'branch and as weighted; mean of the first and of the last third '
            f'of the {self._looks} that distil', columns,
            methods) if methods else None

    def _best(self) -> tuple:
        columns = self._by_name(best)
        columns['minutes per run'] = _column(
            self._values(
                lambda runs:
                {run['seed']: run['train_seconds'] / 60
                 for run in runs}))
        what = self._looks[:-1]
        return self._table(
            f'**Best {what}**: the highest top-1 accuracy of all {what}s, in '
            'percent, and the time spent on training. The accuracy flatters, '
            f'since the {what} is chosen by the images that it is measured on',
            columns)

    @property
    def _looks(self) -> str:
        """The parts of the runs, of each of which something is known."""
        by_epoch = unit(self.runs[0]) == 'epoch'
        return 'epochs' if by_epoch else 'validations'

    def _by_name(
        self, values_of: Callable[[Any, str],
                                  Dict[int, float]]) -> Dict[str, Column]:
        """A column for each branch and the ensemble that has values."""
        columns = {}
        for name in self.names:
            values = self._values(lambda runs: values_of(runs, name))
            if any(values.values()):
                columns[name] = self._contest(
                    _column(values), values, self._trained(name))
                for method in set(self.results) - set(self._trained(name)):
                    columns[name][method] += ' (frozen)'
        return columns

    def _values(self, values_of: Callable[[Any], Mapping[int,
                                                         float]]) -> Values:
        return {
            method: values_of(runs)
            for method, runs in self.results.items()
        }

    def _branches(self, names: Optional[Sequence[str]] = None) -> Values:
        """The mean top-1 accuracy of some branches, by default of those that a
        method trains."""
        return self._values(lambda runs: last(
            runs, *
            (f'{name}/top1' for name in names or trained_branches(runs))))

    def _seeds_of(self, method: str) -> set:
        return {run['seed'] for run in self.results[method]}

    def _trained(self, *names: str) -> List[str]:
        """The methods that freeze none of these branches, by default of
        all."""
        return [
            method for method, runs in self.results.items()
            if not {*(names or self.names)} & {*frozen_branches(runs)}
        ]

    def _contest(self,
                 column: Column,
                 values: Values,
                 rivals: Iterable[str],
                 lowest: bool = False) -> Column:
        """A column with the best mean in bold, among those rivals that have
        all seeds, if it is better than each of the others."""
        rivals = {
            method: values[method]
            for method in rivals if len(values[method]) == len(self.seeds)
        }
        if len(rivals) < 2:
            return column
        sign = -1 if lowest else 1
        best = max(
            rivals, key=lambda method: sign * fmean(rivals[method].values()))
        model = TwoWay(rivals)
        if all(
                model.difference(best, other).excludes_zero()
                for other in rivals if other != best):
            column[best] = f'**{column[best]}**'
        return column

    def _table(self,
               title: str,
               columns: Dict[str, Column],
               methods: Optional[Iterable[str]] = None) -> tuple:
        """Title, header and rows of a table with a row for each method, by
        default for each that has a run."""
        if methods is None:
            methods = [method for method, runs in self.results.items() if runs]
        rows = [[
            f'`{method}`' + ' (baseline)' * (method == self.baseline),
            *(column.get(method, NONE) for column in columns.values())
        ] for method in methods]
        return title, ['method', *columns], rows


def write_report(study: Study, runs: Sequence[Run]) -> str:
    """Make the report of a study from its result files, tables and figures,
    and return the tables for a terminal, and where the report is. Raise if
    there is no result yet, one of them cannot be used, or the report's file
    has no place for it; results by other configs than those of the runs are
    told."""
    methods = [method.name for method in study.methods]
    results = read_results(study.results, methods, study.seeds)
    report = Report(results, study.baseline, study.seeds, study.contrasts,
                    {run.name: run.config_hash
                     for run in runs})
    path = study.report or osp.join(study.results, 'report.md')
    # Before the figures, which would be left behind.
    insert(_text_around(study), study.name, '')
    check_out('results', osp.join(study.results, 'report.md'))
    check_out('report', path)
    figures = draw(report.results, study.baseline, study.results)
    folder = osp.relpath(study.results, osp.dirname(osp.abspath(path)))
    links = [
        f'![{osp.splitext(name)[0].capitalize()} of the study {study.name}]'
        f'({osp.normpath(osp.join(folder, name))})' for name in figures
    ]
    block = '\n\n'.join([report.to_markdown(), *links])
    # Read again: other studies may have their reports in the same file.
    write_text(path, insert(_text_around(study), study.name, block))
    return f'{report.to_text()}\nThe report is in {path}'


def insert(text: str, name: str, block: str) -> str:
    """The text of a Markdown file with the report of a study in its place,
    between ``<!-- study: NAME -->`` and ``<!-- /study: NAME -->``, of which
    there must be one each, in this order."""
    begin, end = f'<!-- study: {name} -->', f'<!-- /study: {name} -->'
    for marker in (begin, end):
        count = text.count(marker)
        if count != 1:
            raise ConfigError(f'the report of study {name} needs the line '
                              f'{marker} once in its file; it is there '
                              f'{count} times')
    head, _, rest = text.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise ConfigError(f'{begin} must stand before {end}')
    return f'{head}{begin}\n\n{block}\n\n{end}{tail}'


def _text_around(study: Study) -> str:
    """The text that has a place for the report."""
    if study.report is None:
        return f'<!-- study: {study.name} -->\n<!-- /study: {study.name} -->\n'
    try:
        with open(study.report, encoding='utf-8') as file:
            return file.read()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, 'strerror', 'it is no text in UTF-8')
        raise ConfigError(
            f'report {study.report} cannot be read: {reason}') from error


def _course(courses: Sequence[Dict[int, float]]) -> str:
    """The first and the last third of what runs have by epoch; empty if there
    is a run that has nothing."""
    if not courses or not all(courses):
        return ''
    firsts, lasts = [], []
    for course in courses:
        values = list(course.values())
        third = math.ceil(len(values) / 3)
        firsts.append(fmean(values[:third]))
        lasts.append(fmean(values[-third:]))
    return f'{fmean(firsts):.3g} to {fmean(lasts):.3g}'


def _calibration_errors(runs: Sequence[Any]) -> Mapping[int, float]:
    return last(runs, *(f'{name}/ece' for name in trained_branches(runs)))


def _text(value: Optional[Estimate]) -> str:
    if value is None:
        return NONE
    spread = '' if value.sd is None else f' ± {value.sd:.2f}'
    return f'{value.mean:.2f}{spread}'


def _column(values: Values) -> Column:
    return {
        method: _text(estimate(own.values()))
        for method, own in values.items()
    }


def _list_seeds(seeds: Sequence[int]) -> str:
    return f'seed{"s" * (len(seeds) > 1)} {", ".join(map(str, seeds))}'


def _distinct(values: Iterable[Any]) -> str:
    return ' and '.join(
        dict.fromkeys(str(value) for value in values if value is not None))


def _fit(header: Sequence[str],
         rows: Sequence[Sequence[str]]) -> Sequence[Sequence[str]]:
    """The cells on several lines, as far as a terminal is too narrow."""
    # First before a spread, an interval or a remark, then within intervals.
    for gap in (r' (?=[±[(])', r'(?<=,) '):
        if _width(header, rows) <= WIDTH:
            break
        rows = [[re.sub(gap, '\n', cell) for cell in row] for row in rows]
    return rows


def _width(header: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    widths = [
        max(len(line) for cell in column for line in cell.split('\n'))
        for column in zip(header, *rows)
    ]
    return sum(widths) + 3 * len(widths) + 1


def _without_marks(text: str) -> str:
    """Text without marks of Markdown."""
    return re.sub(r'[*`]', '', text)
