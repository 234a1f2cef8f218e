"""What the pages tell users to type holds.

- ``bash``: every command of ours is parsed by the tool itself, and its config
  is read with its method and its options. Those marked ``quickstart`` and
  ``tests`` are run by ``.ci/run``, the one marked ``array`` by the tests of
  ``tools/compare.py``.
- ``console``: every command is run and must print what the page shows, in
  which ``...`` stands for anything.
- ``python``: configs, methods and studies are read and built, everything else
  is run. Those of extending.md are run by ``test_extending.py``.
- ``pycon``: run as by ``doctest``.

A mark ``gpu`` or ``network`` says what a block needs that a test has not; its
commands are parsed all the same.
"""
import contextlib
import doctest
import importlib.util
import os
import re
import shlex
import shutil
import sys

import numpy as np
import pytest
import yaml
from mmengine.config import Config
from PIL import Image

from mcod_plugin import cli
from mcod_plugin.compare import read_study
from mcod_plugin.config.branch_from import branch_from
from mcod_plugin.config.methods import apply_method
from mcod_plugin.config.read import merge_options, read_config
from mcod_plugin.engine.hooks import DiscontinuousKDHook
from mcod_plugin.registry import MODELS
from ..tiny import TINY
from .pages import PAGES, ROOT, blocks, recorded

MAIN = 'configs/mcod_resnet_vgg_cifar100.py'
TOOLS = ('train', 'test', 'export', 'publish', 'compare', 'compose',
         'benchmark', 'plot')
# The arguments of other programs.
FOREIGN = {
    '--no-deps', '--max-restarts', '--show-dir', '--mode', '--shape',
    '--include-outliers', '--preview-model', '--target-category'
}


def each(*languages, but=()):
    found = [b for b in blocks(*languages) if b.page not in but]
    return pytest.mark.parametrize(
        'block', found, ids=[block.page for block in found])


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    """A folder like a clone, to which the pages' files are added."""
    folder = tmp_path_factory.mktemp('clone')
    for name in ('tools', 'mcod_plugin', 'docs'):
        (folder / name).symlink_to(ROOT / name)
    for name in ('benchmarks', 'configs'):
        shutil.copytree(ROOT / name, folder / name)
    (folder / 'PATH_TO_CLONE').symlink_to('.')
    (folder / 'my_cohort.py').write_text(TINY)
    for block in blocks('python'):
        name = re.match(r'# ([\w/]+\.py)\n', block.text)
        if name and block.page != 'extending':
            with open(folder / name[1], 'x') as file:
                file.write(block.text)
    return folder


@pytest.fixture
def here(clone, monkeypatch):
    monkeypatch.chdir(clone)
    monkeypatch.setenv('LOCAL_RANK', '0')
    return clone


@pytest.fixture(scope='module')
def trained(clone, run_tool):
    """The clone after a run of ``my_cohort.py``."""
    done = run_tool('tools/train.py', 'my_cohort.py', cwd=clone)
    assert done.code == 0, done.err
    runs = clone / 'work_dirs' / 'my_cohort'
    (runs / 'epoch_200.pth').symlink_to('epoch_2.pth')
    return clone


# What is typed into a shell


def tool(path):
    """A tool as a module."""
    spec = importlib.util.spec_from_file_location('tool', path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'path', [os.path.dirname(path), *sys.path])
        spec.loader.exec_module(module)
    return module


def parse(module, path, args):
    """Its arguments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [path, *args])
        return module.parse_args()


def check_config(module, args):
    """Read the config as the tool does, with method and options."""
    if args.config == 'CONFIG':
        args.config = MAIN
    if args.method == 'js.py':
        # That of extending.md, by which its own test trains.
        args.method = None
    # Its processes are not there.
    args.launcher = 'none'
    cfg = cli.load_config(args, getattr(module, 'NEEDS', ('model', )))
    if hasattr(module, 'merge_args'):
        module.merge_args(cfg, args)
    for options in getattr(args, 'vary', []):
        module.vary(cfg, options)
    assert {*getattr(args, 'branch', [])} <= {'all', *cfg.model.branches}


def check(command):
    """Raise unless a command is right, as far as it tells without running."""
    name, *args = command
    scripts = [i for i, word in enumerate(args) if word.endswith('.py')]
    if name == 'pip':
        for extra in re.findall(r'\[([\w,]+)\]', ' '.join(args)):
            setup = (ROOT / 'setup.py').read_text()
            assert all(f"'{one}': " in setup for one in extra.split(','))
    if name in ('pip', 'git', 'mkdocs') or args[0] in ('-c', '-m'):
        return
    path, *args = args[scripts[0]:]
    args = [arg for arg in args if not arg.startswith('[')]
    if not os.path.exists(path):
        mim = importlib.util.find_spec('mmpretrain').origin
        assert os.path.isfile(
            os.path.join(os.path.dirname(mim), '.mim', path)), path
        return
    module = tool(path)
    if not hasattr(module, 'parse_args'):
        return
    args = parse(module, path, args)
    if hasattr(args, 'config') and hasattr(args, 'method'):
        check_config(module, args)
    if hasattr(args, 'study') and args.study != 'STUDY':
        read_study(args.study)
    for config in getattr(args, 'configs', []):
        branch_from(config)


@each('bash')
def test_commands(block, here):
    commands = recorded(block.text, here)
    assert commands
    for command in commands:
        check(command)


@each('console')
def test_output(block, run_tool, trained):
    parts = re.split(r'^\$ (.*)\n', block.text, flags=re.MULTILINE)[1:]
    for command, output in zip(parts[::2], parts[1::2], strict=True):
        python, path, *args = shlex.split(command)
        assert python == 'python'
        done = run_tool(path, *args, cwd=trained)
        pattern = '.*'.join(map(re.escape, output.strip().split('...')))
        assert re.fullmatch(pattern, (done.err or done.out).strip())


def options():
    """All arguments of the tools."""
    parsers = []

    def keep(parser, *args, **kwargs):
        parsers.append(parser)
        raise SystemExit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli.ToolParser, 'parse_args', keep)
        for name in TOOLS:
            with contextlib.suppress(SystemExit):
                tool(str(ROOT / 'tools' / f'{name}.py')).parse_args()
    assert len(parsers) == len(TOOLS)
    return {key for one in parsers for key in one._option_string_actions}


def test_arguments_in_the_text(here):
    """Of the tools, and settings of the main config."""
    known = options() | FOREIGN
    spans = [
        span for path in PAGES
        for span in re.findall(r'`(--[^`]+)`', path.read_text())
    ]
    assert len(spans) > 50
    for span in spans:
        words = shlex.split(span)
        assert {word for word in words if word.startswith('--')} <= known, span
        if words[0] == '--cfg-options' and words[1:] != ['KEY=VALUE']:
            merge_options(read_config(MAIN), words[1:])


# What is written into a file, or typed into Python


def check_file(text, path):
    """Build what a file of a page is for."""
    if 'methods = dict(' in text:
        return read_study(path)
    if '_base_' in text:
        cfg = read_config(path)
    else:
        # Settings for any cohort.
        cfg = read_config(MAIN)
        apply_method(cfg, path)
    cfg = cfg.to_dict()
    for branch in cfg['model']['branches'].values():
        branch.pop('pretrained', None)
    model = MODELS.build(Config(cfg).model)
    assert len(model.branches) >= 2


@each('python', but=('extending', ))
def test_code(block, here, trained):
    name = re.match(r'# ([\w/]+\.py)\n', block.text)
    if name:
        check_file(block.text, name[1])
    else:
        images = [np.zeros((32, 32, 3), np.uint8)] * 2
        exec(block.text, dict(images=images))


@each('pycon')
def test_session(block):
    test = doctest.DocTestParser().get_doctest(block.text, {}, block.page,
                                               None, None)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0


def test_the_default_schedule(here):
    """As the pages state it, in full and as the quickstart prints it."""
    hook, = read_config('configs/my_cohort_in_full.py').custom_hooks
    default = DiscontinuousKDHook().schedule
    assert hook.pop('type') == 'mcod_plugin.DiscontinuousKDHook'
    assert DiscontinuousKDHook(**hook).schedule == default
    table = str(default.resolve(12))
    assert table in [b for b in blocks('') if b.page == 'get_started'][0].text


# The page of fine-tuning, all of it


def test_finetune(here, run_tool):
    """Its commands, in their order, on a few images of noise and without the
    pretrained weights."""
    generator = np.random.default_rng(0)
    for split, number in (('train', 2), ('val', 1)):
        for name in ('daisy', 'rose', 'tulip'):
            folder = here / 'data' / 'my_images' / split / name
            folder.mkdir(parents=True)
            for i in range(number):
                image = generator.integers(0, 256, (64, 80, 3), np.uint8)
                Image.fromarray(image).save(folder / f'{i}.png')
    small = [
        '--cfg-options', 'train_cfg.max_epochs=1',
        'train_dataloader.batch_size=6', 'train_dataloader.num_workers=0',
        'val_dataloader.num_workers=0', 'test_dataloader.num_workers=0',
        'model.branches.resnet.pretrained=False',
        'model.branches.vit.pretrained=False'
    ]
    commands = [
        command for block in blocks('bash') if block.page == 'finetune'
        for command in recorded(block.text, here)
    ]
    assert [command[1] for command in commands] == [
        'tools/train.py', 'tools/train.py', 'tools/test.py', 'tools/export.py'
    ]
    for _, path, *args in commands:
        done = run_tool(path, *args, *small, cwd=here)
        assert done.code == 0, done.err
        last = here / 'work_dirs' / 'my_images' / 'epoch_1.pth'
        shutil.copy(last, last.with_name('epoch_30.pth'))
    import timm
    network = timm.create_model('local-dir:exported/vit/timm', pretrained=True)
    assert network.num_classes == 3


# The pages themselves


def test_kinds_of_blocks():
    """None of them escapes the tests above."""
    languages = ('bash', 'bibtex', 'console', 'pycon', 'python', '')
    marks = ('', 'array', 'gpu', 'network', 'quickstart', 'tests')
    number = sum(path.read_text().count('\n```') for path in PAGES) / 2
    found = blocks(*languages)
    assert len(found) == number
    for block in found:
        assert block.mark in marks, block
        if not block.language:
            assert not re.search(r'^\$? ?(python|bash|pip|>>>) ', block.text,
                                 re.MULTILINE), block


def test_every_page_is_in_the_menu():
    text = (ROOT / 'mkdocs.yml').read_text()
    menu = str(yaml.safe_load(text)['nav'])
    for path in PAGES:
        assert f"'{path.relative_to(ROOT)}'" in menu


def test_versions_of_python():
    setup = (ROOT / 'setup.py').read_text()
    least = re.search(r"python_requires='>=(3\.\d+)'", setup)[1]
    for page in ('README.md', 'docs/get_started.md'):
        found = re.findall(r'Python (3\.\d+)', (ROOT / page).read_text())
        assert found == [least], page


def test_the_readme_is_short():
    text = (ROOT / 'README.md').read_text()
    assert len(text.encode()) <= 9 * 1024
    config, = [b for b in blocks('python') if b.page == 'README']
    assert len(config.text.splitlines()) <= 15
    methods = len([*(ROOT / 'configs' / 'methods').glob('*.py')])
    assert f' {methods} ways' in text
