"""The pages of the documentation, and the blocks of code on them."""
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BASH = shutil.which('bash')
PAGES = [
    path for path in (ROOT / 'README.md', ROOT / 'CONTRIBUTING.md',
                      *sorted((ROOT / 'docs').glob('*.md'))) if path.is_file()
]
BLOCK = re.compile(r'^(?:<!-- ([^\n]*) -->\n)?```([^\n]*)\n(.*?)^```$',
                   re.DOTALL | re.MULTILINE)
# Commands that a block may name. None of them is run.
STUBS = ('git', 'mkdocs', 'mpirun', 'pip', 'python', 'python3', 'srun',
         'torchrun')


@dataclass(frozen=True)
class Block:
    """A block of a page, with the mark in the line before."""
    page: str
    mark: str
    language: str
    text: str


def blocks(*languages):
    """Of all pages, by page and number."""
    found = [
        Block(path.stem, *match.groups(default='')) for path in PAGES
        for match in BLOCK.finditer(path.read_text())
    ]
    return [block for block in found if block.language in languages]


def recorded(text, folder):
    """What a block of commands runs, by Bash itself: variables, loops and our
    own scripts are real, the rest only says by what arguments it was called.

    Returns:
        list[list[str]]: The commands.
    """
    home, log = folder / 'stubs', folder / 'log'
    if not home.is_dir():
        home.mkdir()
        (home / 'stub').write_text(
            f'#!{BASH}\n'
            'printf "%s\\x1f" "${0##*/}" "$@" >>"$LOG"\n'
            'printf "\\x1e" >>"$LOG"\n')
        (home / 'stub').chmod(0o755)
        for name in STUBS:
            (home / name).symlink_to('stub')
        for name in ('bash', 'dirname', 'env'):
            (home / name).symlink_to(shutil.which(name))
        (folder / '.venv').mkdir()
        (folder / '.venv' / 'bin').symlink_to(home)
        (home / 'activate').touch()
    log.write_text('')
    # Nothing is cloned that one could go to.
    text = f'cd() {{ :; }}\n{text}'
    done = subprocess.run([BASH, '-eu', '-c', text],
                          cwd=folder,
                          env=dict(PATH=str(home), LOG=str(log)),
                          capture_output=True,
                          text=True)
    assert done.returncode == 0, f'{text}\n{done.stderr}'
    return [
        command.split('\x1f')[:-1]
        for command in log.read_text().split('\x1e')[:-1]
    ]
