import os.path as osp
from typing import Sequence

from mcod_plugin.errors import ConfigError
from mcod_plugin.utils.files import write_text
from .figures import draw
from .plan import Run
from .report import Report, insert
from .results import read_results
from .study import Study

__all__ = ['write_report']


def write_report(study: Study, runs: Sequence[Run]) -> str:
    """Make the report of a study from its result files: tables and figures.

    Args:
        study (Study): The study.
        runs (Sequence[Run]): All its runs. Results by other configs than
            theirs are told.

    Returns:
        str: The tables for a terminal, and where the report is.

    Raises:
        ConfigError: If there is no result yet, one of them cannot be used, or
            the report's file has no place for it.
    """
    methods = [method.name for method in study.methods]
    results = read_results(study.results, methods, study.seeds)
    report = Report(results, study.baseline, study.seeds,
                    {run.name: run.config_hash
                     for run in runs})
    path = study.report or osp.join(study.results, 'report.md')
    # Before the figures, which would be left behind.
    insert(_text(study), study.name, '')
    figures = draw(report.results, study.baseline, study.results)
    folder = osp.relpath(study.results, osp.dirname(osp.abspath(path)))
    links = [
        f'![{osp.splitext(name)[0].capitalize()} of the study {study.name}]'
        f'({osp.normpath(osp.join(folder, name))})' for name in figures
    ]
    block = '\n\n'.join([report.to_markdown(), *links])
    # Read again: other studies may have their reports in the same file.
    write_text(path, insert(_text(study), study.name, block))
    return f'{report.to_text()}\nThe report is in {path}'


def _text(study: Study) -> str:
    """The text that has a place for the report."""
    if study.report is None:
        return f'<!-- study: {study.name} -->\n<!-- /study: {study.name} -->\n'
    try:
        with open(study.report, encoding='utf-8') as file:
            return file.read()
    except OSError as error:
        raise ConfigError(f'report {study.report} cannot be read: '
                          f'{error.strerror}') from error
