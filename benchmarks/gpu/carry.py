"""A study on its way from one machine to another."""
import hashlib
import json
import os
import os.path as osp
import re
import shutil
import tarfile
import tempfile
from contextlib import ExitStack
from typing import IO, Any, Dict, Iterator, List, Sequence, Tuple

from mcod_plugin.compare.plan import Run
from mcod_plugin.compare.state import (ENDED, hash_file, latest_checkpoint,
                                       state)
from mcod_plugin.errors import ConfigError
from mcod_plugin.utils.files import new_file, write_text

__all__ = ['check_target', 'pack', 'status', 'unpack']

# Bytes of a part at most.
PART_SIZE = 15 * 2**20

MANIFEST = 'manifest.json'
STATUS = 'status.md'
# Of what the manifest holds.
FORMAT = 1
# Weights are noise, on which a higher level finds nothing more.
COMPRESSION = 1


def pack(study: str,
         runs: Sequence[Run],
         folder: str,
         part_size: int = PART_SIZE) -> List[str]:
    """Put into a folder what another machine needs to go on with a study.

    ====================== =================================================
    file                   holds
    ====================== =================================================
    ``results.N``          the result files of finished runs
    ``checkpoints.N``      of each begun run the checkpoint to go on from,
                           and the last one of a finished run that another
                           run still needs
    ``status.md``          how far each run has come
    ``manifest.json``      name, size and SHA-256 of each part, and the
                           config's hash of each run
    ====================== =================================================

    The parts of a kind make one archive, ``cat results.* | tar xz``. Nothing
    is lost in it, so that a run goes on as exactly as on its own machine. The
    folder is complete or as it was before.

    Args:
        study (str): The study's name.
        runs (Sequence[Run]): All its runs, none of which is being trained.
        folder (str): The folder, which is made; an earlier state of the study
            in it is replaced.
        part_size (int): Bytes of a part at most. Defaults to 15 MiB.

    Returns:
        list[str]: The names of the files.

    Raises:
        ConfigError: If the folder holds something else, or a run has a
            result by another config.
    """
    folder = osp.normpath(folder)
    _restore(folder)
    check_target(folder)
    text = status(study, runs)
    archives = dict(
        results=[(f'{run.name}.json', run.result) for run in runs
                 if state(run) in ENDED],
        checkpoints=[(f'{name}/{osp.basename(path)}', path)
                     for name, path in _needed(runs).items()])
    part = f'{folder}.part'
    _remove(part)
    os.makedirs(part)
    manifest = dict(
        format=FORMAT,
        study=study,
        runs={run.name: run.config_hash
              for run in runs},
        archives={
            kind: _write_archive(members, osp.join(part, kind), part_size)
            for kind, members in archives.items()
        })
    write_text(osp.join(part, STATUS), text)
    write_text(osp.join(part, MANIFEST), f'{json.dumps(manifest, indent=2)}\n')
    old = f'{folder}.old'
    if osp.isdir(folder):
        _remove(old)
        os.rename(folder, old)
    os.rename(part, folder)
    _remove(old)
    return sorted(os.listdir(folder))


def unpack(study: str,
           runs: Sequence[Run],
           folders: Sequence[str],
           results_only: bool = False) -> None:
    """Take over what :func:`pack` has put into a folder.

    A result that is there already stays as it is. Nothing is written unless
    everything is in order.

    Args:
        study (str): The study's name.
        runs (Sequence[Run]): All its runs.
        folders (Sequence[str]): Where the files are, of which one folder need
            not have all.
        results_only (bool): Whether to leave the checkpoints alone, whose
            parts need not be there then. Defaults to False.

    Raises:
        ConfigError: If a file is missing or damaged, the state is of another
            study or of other settings, or a run has a result by another
            config.
    """
    for folder in folders:
        _restore(osp.normpath(folder))
    manifest = _read_manifest(folders)
    if manifest['study'] != study:
        raise ConfigError(f'the state in {", ".join(folders)} is of the study '
                          f'{manifest["study"]}, not of {study}')
    by_name = {run.name: run for run in runs}
    for name, config_hash in manifest['runs'].items():
        if name not in by_name:
            raise ConfigError(
                f'the state in {", ".join(folders)} has the run {name}; the '
                f'study has {", ".join(by_name)}')
        if config_hash != by_name[name].config_hash:
            raise ConfigError(
                f'the state in {", ".join(folders)} has the run {name} by '
                f'another config (hash {config_hash}, not '
                f'{by_name[name].config_hash}); give the settings with which '
                'it was trained')
    for run in runs:
        state(run)  # Whether what is here is of these runs.
    kinds = ['results'] if results_only else ['results', 'checkpoints']
    parts = {
        kind:
        [_find_part(part, folders) for part in manifest['archives'][kind]]
        for kind in kinds
    }
    with ExitStack() as stack:
        begun = []
        for kind in kinds:
            for name, file in _read_archive(parts[kind]):
                run, target = _target(kind, name, by_name)
                if target == run.result and osp.isfile(target):
                    continue
                os.makedirs(osp.dirname(osp.abspath(target)), exist_ok=True)
                part = stack.enter_context(new_file(target))
                with open(part, 'wb') as copy:
                    shutil.copyfileobj(file, copy)
                if kind == 'checkpoints':
                    begun.append((run, target))
        # Before the checkpoints take their places, since it tells by which
        # config they were made.
        for run, _ in begun:
            write_text(hash_file(run), f'{run.config_hash}\n')
    for run, target in begun:
        write_text(osp.join(run.work_dir, 'last_checkpoint'), target)


def check_target(folder: str) -> None:
    """Raise unless a state can be packed into a folder, before there is work
    to lose.

    Args:
        folder (str): The folder. Need not exist.

    Raises:
        ConfigError: If it holds anything but an earlier state.
    """
    if not osp.lexists(folder):
        return
    if not osp.isdir(folder):
        raise ConfigError(f'{folder} is no folder, to pack a state into')
    if os.listdir(folder) and not osp.isfile(osp.join(folder, MANIFEST)):
        raise ConfigError(f'{folder} must be new, empty or an earlier state '
                          'of a study, which is replaced; it holds '
                          f'{sorted(os.listdir(folder))[0]}')


def status(study: str, runs: Sequence[Run]) -> str:
    """How far a study has come, run by run.

    Args:
        study (str): Its name.
        runs (Sequence[Run]): Its runs.

    Returns:
        str: A table in Markdown.

    Raises:
        ConfigError: If a run has a result by another config.
    """
    words = {run.name: _words(run) for run in runs}
    done = sum(word == 'done' for word in words.values())
    return '\n'.join([
        f'{study}: {done} of {len(runs)} runs are done', '', '| run | state |',
        '|---|---|', *(f'| {name} | {word} |' for name, word in words.items()),
        ''
    ])


def _words(run: Run) -> str:
    found = state(run)
    if found == 'begun':
        found += (f', {_epoch(latest_checkpoint(run))} of '
                  f'{run.cfg.train_cfg.max_epochs} epochs')
    return found


def _epoch(checkpoint: str) -> int:
    return int(re.search(r'epoch_(\d+)\.pth$', checkpoint).group(1))


def _needed(runs: Sequence[Run]) -> Dict[str, str]:
    """The checkpoint of each run that somebody still needs."""
    by_name = {run.name: run for run in runs}
    needed = {}
    for run in runs:
        if state(run) in ENDED:
            continue
        if latest_checkpoint(run) is not None:
            needed[run.name] = latest_checkpoint(run)
        for name in run.needs:
            found = latest_checkpoint(by_name[name])
            if state(by_name[name]) == 'done' and found is not None:
                needed[name] = found
    return needed


def _write_archive(members: Sequence[Tuple[str, str]], stem: str,
                   part_size: int) -> List[Dict[str, Any]]:
    """Write files as parts ``<stem>.000``, ``<stem>.001`` and so on."""
    if not members:
        return []
    parts = []
    with tempfile.TemporaryFile() as whole:
        with tarfile.open(
                fileobj=whole, mode='w:gz',
                compresslevel=COMPRESSION) as archive:
            for name, path in members:
                archive.add(path, name, recursive=False)
        whole.seek(0)
        while True:
            data = whole.read(part_size)
            if not data:
                return parts
            path = f'{stem}.{len(parts):03}'
            with open(path, 'wb') as file:
                file.write(data)
            parts.append(
                dict(
                    name=osp.basename(path),
                    size=len(data),
                    sha256=hashlib.sha256(data).hexdigest()))


def _read_archive(paths: Sequence[str]) -> Iterator[Tuple[str, IO[bytes]]]:
    """The files in an archive, each by name."""
    if not paths:
        return
    with tempfile.TemporaryFile() as whole:
        for path in paths:
            with open(path, 'rb') as file:
                shutil.copyfileobj(file, whole)
        whole.seek(0)
        with tarfile.open(fileobj=whole, mode='r:gz') as archive:
            for member in archive:
                if member.isfile():
                    yield member.name, archive.extractfile(member)


def _read_manifest(folders: Sequence[str]) -> Dict[str, Any]:
    path = _find_file(MANIFEST, folders)
    try:
        with open(path, encoding='utf-8') as file:
            manifest = json.load(file)
        given = manifest['format']
        # What will be looked up.
        dict(manifest['runs'])
        for kind in ('results', 'checkpoints'):
            for part in manifest['archives'][kind]:
                part['name'], part['size'], part['sha256']
        manifest['study']
    except (ValueError, TypeError, LookupError) as error:
        raise ConfigError(f'{path} is damaged or no manifest of a state '
                          f'({type(error).__name__}: {error})') from error
    if given != FORMAT:
        raise ConfigError(f'{path} must be of format {FORMAT}; got {given!r}')
    return manifest


def _find_file(name: str, folders: Sequence[str]) -> str:
    for folder in folders:
        path = osp.join(folder, name)
        if osp.isfile(path):
            return path
    raise ConfigError(f'the file {name} of a state is missing in '
                      f'{", ".join(folders)}')


def _find_part(part: Dict[str, Any], folders: Sequence[str]) -> str:
    """Where a part is, undamaged."""
    path = _find_file(osp.basename(part['name']), folders)
    with open(path, 'rb') as file:
        data = file.read()
    if len(data) != part['size']:
        raise ConfigError(f'{path} is damaged: it has {len(data)} bytes, not '
                          f'the {part["size"]} of its manifest')
    if hashlib.sha256(data).hexdigest() != part['sha256']:
        raise ConfigError(f'{path} is damaged: its SHA-256 is not that of its '
                          'manifest')
    return path


def _target(kind: str, name: str, by_name: Dict[str, Run]) -> Tuple[Run, str]:
    """The run of a file in an archive, and where it belongs. Names come from
    others: nothing else is written."""
    if kind == 'results':
        stem, extension = osp.splitext(name)
        if extension == '.json' and stem in by_name:
            return by_name[stem], by_name[stem].result
    else:
        stem, _, base = name.partition('/')
        if stem in by_name and re.fullmatch(r'epoch_\d+\.pth', base):
            run = by_name[stem]
            return run, osp.join(run.work_dir, base)
    raise ConfigError(f'the {kind} of the state hold {name}, which is of no '
                      'run of the study')


def _restore(folder: str) -> None:
    """Put back a state of which packing was cut off just before the new one
    took its place."""
    old = f'{folder}.old'
    if osp.isdir(old) and not osp.lexists(folder):
        os.rename(old, folder)


def _remove(folder: str) -> None:
    """Remove what is left of an attempt that was cut off."""
    if osp.isdir(folder):
        shutil.rmtree(folder)
