"""Model cards: ``card.md`` filled in, with the front matter of the Hugging
Face hub."""
import os.path as osp
import shlex
from pathlib import Path
from typing import Any, List, Optional

from mcod_plugin.runs.metrics import ENSEMBLE
from mcod_plugin.runs.tables import markdown
from mcod_plugin.utils.units import file_size
from .licenses import UNKNOWN
from .measure import BINS, RUNS, THREADS
from .metafile import PAPER
from .publication import Hub, Member, Publication
from .trained_run import TrainedRun
from .training import escape, known, listed, origin_text, training_steps

__all__ = ['branch_card', 'cohort_card']

TEMPLATE = Path(__file__).with_name('card.md')


def branch_card(publication: Publication,
                member: Member,
                hub: Optional[Hub] = None) -> str:
    """The card of a branch. With a hub, where the members lie, its links and
    code lead there, else into the folder. Raise a ValueError if the hub's
    library does not accept the card."""
    peers = [m.name for m in publication.branches if m is not member]
    place = 'the only one'
    if peers:
        place = (f'number {publication.branches.index(member) + 1} of the '
                 f'{len(publication.branches)}')
    beside = f' with {listed(peers)}' if peers else ''
    run = publication.run
    how = f'trained{beside} {run.method}'
    if member.name in run.frozen:
        how = f'which taught {listed(peers)} and was not trained itself'
    return _card(
        publication, member, hub,
        f'{member.network} for {escape(publication.data.name)}, {how}; top-1 '
        f'accuracy {member.metrics["top1"]:.2f} %.\n'
        'It is an ordinary MMPretrain classifier that needs no other network; '
        f'{place} in [its cohort]'
        f'({_link(member, publication.ensemble, hub)}).')


def cohort_card(publication: Publication, hub: Optional[Hub] = None) -> str:
    """The card of a cohort and its ensemble, which ranks the branches; see
    :func:`branch_card`."""
    member = publication.ensemble
    names = listed([branch.name for branch in publication.branches])
    number = len(publication.branches)
    frozen = publication.run.frozen
    best = next((branch for branch in publication.branches
                 if branch.name not in frozen), publication.branches[0])
    which, rest = 'Only', 'ensemble is no other'
    if number > 1:
        which = 'Best trained' if frozen else 'Best'
        rest = (f'ensemble of all has {member.metrics["top1"]:.2f} % and '
                'costs as much as all')
    return _card(
        publication, member, hub,
        f'A cohort of {number} network{"s" * (number > 1)} for '
        f'{escape(publication.data.name)} ({names}), trained '
        f'{publication.run.method}.\n'
        f'{which} branch: [{best.name}]({_link(member, best, hub)}) with '
        f'{best.metrics["top1"]:.2f} % top-1, to be used alone; the {rest}.')


def _card(publication: Publication, member: Member, hub: Optional[Hub],
          summary: str) -> str:
    from huggingface_hub import ModelCard

    solo = publication.solo
    place = publication.place
    if hub is not None:
        # What the hub's command makes of it.
        place = osp.basename(hub.repos[''])
    # It parses the front matter and checks the results, as the hub does.
    return ModelCard.from_template(
        _front_matter(publication, member),
        template_path=str(TEMPLATE),
        publication=publication,
        member=member,
        repo=hub and hub.repos[member.folder],
        summary=summary,
        results=_results(publication, member, hub),
        bins=BINS,
        runs=RUNS,
        threads=THREADS,
        gains=_gains(publication, member),
        solo_checkpoint=solo and osp.basename(solo.checkpoint),
        known=known,
        needs=listed(_needs(member, hub)),
        cohort_repo=hub and hub.repos[''],
        place=place,
        # A branch has a repository of its own.
        own_place=osp.basename(hub.repos[member.folder])
        if hub else f'{place}/{member.folder}'.rstrip('/'),
        resampling=member.interpolation.upper(),
        training=training_steps(publication),
        origin=origin_text(publication),
        paper=PAPER,
        starts=_starts(publication),
        license_note=_license_note(member),
        escape=escape,
        shell=shlex.quote,
        limits=_limits(publication, member),
        files=_files(member)).content


def _front_matter(publication: Publication, member: Member) -> Any:
    """What the Hugging Face hub reads."""
    from huggingface_hub import EvalResult, ModelCardData

    data = publication.data
    values = {
        f'Top {key[len("top"):]} Accuracy in %': ('accuracy', value)
        for key, value in member.metrics.items()
    }
    values['Calibration Error in %'] = ('expected_calibration_error',
                                        member.calibration_error)
    results = [
        EvalResult(
            task_type='image-classification',
            task_name='Image Classification',
            dataset_type=data.hub,
            dataset_name=data.name,
            dataset_split=publication.split,
            dataset_args=publication.part or None,
            metric_type=kind,
            metric_name=name,
            metric_value=round(value, 4))
        for name, (kind, value) in values.items()
    ]
    return ModelCardData(
        license=member.license,
        base_model=[
            start.hub for start in publication.starts
            if start.hub and member.name in (start.branch, ENSEMBLE)
        ] or None,
        library_name='timm' if member.timm else 'mmpretrain',
        pipeline_tag='image-classification',
        tags=['mcod_plugin', *_techniques(publication.run), 'mmpretrain'],
        datasets=[data.hub] if data.listed else None,
        metrics=['accuracy'],
        model_name=member.model_name,
        eval_results=results)


def _techniques(run: TrainedRun) -> List[str]:
    """What the hub's users look for."""
    if not run.distils:
        return []
    return ['distillation' if run.frozen_teachers else 'online-distillation']


def _needs(member: Member, hub: Optional[Hub]) -> List[str]:
    """The packages by which it is opened."""
    packages = dict(
        huggingface_hub=hub is not None,
        mmpretrain=True,
        timm=member.needs_timm,
        mcod_plugin=member.needs_plugin)
    needed = [name for name, is_needed in packages.items() if is_needed]
    return needed + member.own_packages


def _results(publication: Publication, member: Member,
             hub: Optional[Hub]) -> str:
    keys = list(member.metrics)
    header = [
        '', 'model', 'network', *(f'top-{key[3:]} %' for key in keys),
        'calibration error %', 'parameters', 'FLOPs', 'CPU latency',
        'checkpoint'
    ]
    rows = []
    for index, other in enumerate(publication.members):
        name = other.name if other is member else (
            f'[{other.name}]({_link(member, other, hub)})')
        rank = '' if other is publication.ensemble else str(index + 1)
        rows.append([
            rank, f'**{name}**' if other is member else name, other.network,
            *(f'{other.metrics[key]:.2f}'
              for key in keys), f'{other.calibration_error:.2f}',
            f'{other.parameters:,}',
            'unknown' if other.flops is None else f'{other.flops:,}',
            f'{1000 * other.latency:.2f} ms',
            file_size(other.sizes[other.weights])
        ])
    return markdown(header, rows, left=3)


def _gains(publication: Publication, member: Member) -> str:
    """Gains over solo, if it was measured."""
    if publication.solo is None:
        return ''
    rows = [[
        other.name, f'{other.solo["top1"]:.2f}',
        f'{other.metrics["top1"]:.2f}',
        f'{other.metrics["top1"] - other.solo["top1"]:+.2f}'
    ] for other in publication.members
            if member in (other, publication.ensemble)]
    return markdown(['', 'solo top-1 %', 'cohort top-1 %', 'gain in points'],
                    rows)


def _starts(publication: Publication) -> str:
    """The weights that the branches began with."""
    rows = [[
        start.branch,
        escape(start.weights), start.license or 'not known'
    ] for start in publication.starts]
    return rows and markdown(['branch', 'began with', 'its licence'],
                             rows,
                             left=3)


def _license_note(member: Member) -> str:
    if member.license == UNKNOWN:
        return ('No licence is stated for these weights; ask whoever has '
                'published them.')
    return f'These weights are published under `{member.license}`.'


def _limits(publication: Publication, member: Member) -> List[str]:
    run = publication.run
    _, height, width = member.input_shape
    lines = [
        f'One run, of seed {known(run.seed)}. Another seed gives another '
        'number.', 'For the classes of '
        f'{escape(publication.data.name)} in images of '
        f'{width}x{height} pixels. Robustness to other images and fairness '
        'were not measured.',
        'The accuracy is on the data on which the run was validated.'
        if run.held_out == 'validation' else
        'The accuracy is on the test data of the config; the run was not '
        'validated.'
    ]
    if run.is_mcod:
        lines.insert(
            0, 'MCOD-style training, not a reproduction of the paper: its '
            'abstract leaves ensemble rule, schedule and recipe open, and '
            'those used here are our own.')
    if osp.basename(run.checkpoint).startswith('best_'):
        lines.append('The checkpoint was chosen by its accuracy on these '
                     'data, which flatters it.')
    if run.done is not None and run.done < run.planned:
        lines.append(f'The checkpoint is of {run.unit} {run.done} of the '
                     f'{run.planned} planned.')
    if publication.solo is None:
        lines.append('Not compared with solo training here: nothing is said '
                     'of a gain.')
    return lines


def _files(member: Member) -> str:
    return markdown(['file', 'size'], [[f'`{name}`', file_size(size)]
                                       for name, size in member.sizes.items()])


def _link(here: Member, there: Member, hub: Optional[Hub]) -> str:
    """From the card of one to that of the other."""
    if hub is not None:
        return f'{hub.endpoint}/{hub.repos[there.folder]}'
    up = '../' if here.folder else ''
    return up + there.path('README.md')
