"""Uploading what was published to the Hugging Face hub."""
import os.path as osp
from typing import Dict, Iterable, List, Optional

from mcod_plugin.errors import ConfigError, one_line
from mcod_plugin.utils.machine import require_packages
from .card import branch_card, cohort_card
from .publication import Hub, Publication

__all__ = ['check_push', 'push', 'repositories']

# The card goes with other links and code; the metafile is of all folders at
# once, which the repositories do not have beside each other.
LOCAL = ('README.md', 'metafile.yml')


def check_push(repo: str, license: Optional[str] = None) -> None:
    """Raise unless it can be uploaded to a repository, before there is work
    to lose.

    Args:
        repo (str): The repository, ``USER/REPO``.
        license (str, optional): The licence. Defaults to none.

    Raises:
        ConfigError: If it is no such name, the hub does not know the user, or
            no such licence.
    """
    require_packages('--push', ('huggingface_hub', ), 'publish')
    from huggingface_hub import HfApi, ModelCard
    repositories(repo, [])
    if repo.count('/') != 1:
        raise ConfigError(f'--push must be USER/REPO; got {repo!r}')
    try:
        HfApi().whoami()
    except Exception as error:
        raise ConfigError(f'--push {repo}: the hub does not let in: '
                          f'{one_line(error)}') from error
    if license is not None:
        try:
            ModelCard(f'---\nlicense: {license}\n---\n').validate()
        except Exception as error:
            raise ConfigError(f'--license {license}: the hub does not take '
                              f'it: {one_line(error)}') from error


def repositories(repo: str, branches: Iterable[str]) -> Dict[str, str]:
    """The repositories that a cohort and its branches go to: by branch
    ``USER/REPO-<branch>``, and under an empty name that of the cohort,
    ``USER/REPO``. Raise if the hub does not take one of these names."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id
    repos = {'': repo, **{name: f'{repo}-{name}' for name in branches}}
    for name, target in repos.items():
        try:
            validate_repo_id(target)
            if not target.isascii():
                raise HFValidationError('it must be of letters from a to z, '
                                        "digits, '-', '_' and '.'")
        except HFValidationError as error:
            branch = f' (branch {name})' if name else ''
            raise ConfigError(
                f'--push {repo}: the hub takes no repository {target}{branch}'
                f': {one_line(error)}') from error
    return repos


def push(publication: Publication,
         out: str,
         repo: str,
         private: bool = False,
         dry_run: bool = False) -> List[str]:
    """Upload a publication: the cohort to ``USER/REPO``, each branch to a
    repository of its own, ``USER/REPO-<branch>``.

    So the hub shows each card with its results, and counts each model's
    downloads. Links and code of the cards are those of the hub, and the
    metafile, which is of all branches at once, is left out. The hub checks
    each card before anything is uploaded. Weights of an earlier upload are
    removed there.

    Args:
        publication (Publication): What was published.
        out (str): Its folder.
        repo (str): The repository, ``USER/REPO``.
        private (bool): Whether repositories that are made are private.
            Defaults to False.
        dry_run (bool): Whether the cards are checked only. Defaults to False.

    Returns:
        list[str]: The repositories.

    Raises:
        ConfigError: If the hub refuses; what was uploaded before stays.
    """
    from huggingface_hub import HfApi, ModelCard
    repos = repositories(
        repo, (branch.folder for branch in publication.branches))
    api = HfApi()
    done: List[str] = []
    try:
        hub = Hub(api.endpoint, repos)
        cards = {
            branch.folder: branch_card(publication, branch, hub)
            for branch in publication.branches
        }
        cards[''] = cohort_card(publication, hub)
        for card in cards.values():
            ModelCard(card).validate()
        if dry_run:
            return list(repos.values())
        for member in publication.members:
            target = repos[member.folder]
            message = f'Publish {member.model_name}'
            api.create_repo(target, private=private or None, exist_ok=True)
            api.upload_folder(
                repo_id=target,
                folder_path=osp.join(out, member.folder),
                ignore_patterns=[*LOCAL, '*/*'],
                delete_patterns='*.pth',
                commit_message=message)
            # Last, as it tells of the files.
            api.upload_file(
                repo_id=target,
                path_in_repo='README.md',
                path_or_fileobj=cards[member.folder].encode('utf-8'),
                commit_message=message)
            done.append(target)
    except Exception as error:
        so_far = f'; uploaded so far: {", ".join(done)}' if done else ''
        raise ConfigError(f'--push {repo}: {one_line(error)}{so_far}; all of '
                          f'it lies in {out}') from error
    return done
