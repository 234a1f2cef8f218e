import argparse
import os
import signal
import sys
import threading
import time

import pytest

from mcod_plugin import cli
from mcod_plugin.cli import orderly_end, stop_code, user_errors
from mcod_plugin.errors import ConfigError


def load_config(config, needs=('model', ), **changes):
    values = dict(
        config=str(config),
        work_dir=None,
        method=None,
        cfg_options=[],
        no_pin_memory=False,
        launcher='none',
        local_rank=0)
    return cli.load_config(argparse.Namespace(**{**values, **changes}), needs)


@pytest.fixture
def config(tmp_path, monkeypatch):
    # It is set for the process if no launcher has done so.
    monkeypatch.setenv('LOCAL_RANK', '0')
    path = tmp_path / 'small.py'
    path.write_text('model = dict(depth=1)\n'
                    'train_cfg = dict(max_epochs=3)\n'
                    'optim_wrapper = dict()\n'
                    'train_dataloader = dict(pin_memory=True)\n'
                    "hooks = dict(a=[dict(weight=(1, 2))])\n")
    return path


def test_work_dir_of_command_line_file_or_name(config):
    assert load_config(config).work_dir == 'work_dirs/small'
    config.write_text(config.read_text() + "work_dir = 'mine'\n")
    assert load_config(config).work_dir == 'mine'
    cfg = load_config(config, work_dir='given')
    assert cfg.work_dir == 'given'


def test_work_dir_of_a_method(config, tmp_path):
    config.write_text('model = dict(branches=dict())\n')
    method = tmp_path / 'mine.py'
    method.write_text('custom_hooks = []\n')
    for name, folder in (('solo', 'small_solo'), (str(method), 'small_mine')):
        cfg = load_config(config, method=name)
        assert cfg.work_dir == f'work_dirs/{folder}'


def test_options_are_merged(config):
    cfg = load_config(
        config,
        cfg_options=['train_cfg.max_epochs=2', 'hooks.a.0.weight=0,0'])
    assert cfg.train_cfg.max_epochs == 2
    assert cfg.hooks.a[0].weight == [0, 0]


def test_unknown_option(config):
    with pytest.raises(ConfigError, match='trian_cfg.*did you mean train_cfg'):
        load_config(config, cfg_options=['trian_cfg.max_epochs=2'])


def test_option_that_is_a_dict(config):
    with pytest.raises(ConfigError, match='a dict name each of its keys'):
        load_config(config, cfg_options=['model.teacher=dict(type=a,b=c)'])


def test_settings_that_are_needed(config):
    with pytest.raises(ConfigError, match='small.py lacks the setting val'):
        load_config(config, needs=('model', 'val'))


def test_loaders_get_the_collate_function_of_the_toolbox(config):
    loader = load_config(config).train_dataloader
    assert loader.collate_fn == dict(type='default_collate')
    loader = load_config(config, no_pin_memory=True).train_dataloader
    assert loader.pin_memory is False


@pytest.mark.parametrize('given, off, gpu, pinned', [
    ('', False, True, True),
    ('pin_memory=False', False, True, False),
    ('', True, True, False),
    ('pin_memory=True', False, False, False),
])
def test_pinned_memory_as_in_the_toolbox(config, monkeypatch, given, off, gpu,
                                         pinned):
    config.write_text(config.read_text().replace('pin_memory=True', given))
    monkeypatch.setattr('mmengine.device.is_cuda_available', lambda: gpu)
    loader = load_config(config, no_pin_memory=off).train_dataloader
    assert loader.pin_memory is pinned


def test_user_errors_end_with_one_line(capsys, monkeypatch):
    monkeypatch.delenv('MCOD_DEBUG', raising=False)
    with pytest.raises(SystemExit) as ended, user_errors():
        raise ConfigError('one\nline')
    assert ended.value.code == 2
    assert capsys.readouterr().err == 'error: one line\n'
    monkeypatch.setenv('MCOD_DEBUG', '1')
    with pytest.raises(ConfigError), user_errors():
        raise ConfigError('seen')
    with pytest.raises(KeyError), user_errors():
        raise KeyError('not a mistake of the user')


@pytest.mark.parametrize('first, second, expected', [
    (SystemExit(143), None, 143),
    (KeyboardInterrupt(), None, 130),
    (SystemExit(130), RuntimeError('a worker was killed'), 130),
    (SystemExit(2), None, None),
    (RuntimeError(), RuntimeError(), None),
])
def test_stop_code(first, second, expected):
    """What a stop breaks is no fault of its own."""
    try:
        try:
            raise first
        finally:
            if second is not None:
                raise second
    except BaseException as error:
        assert stop_code(error) == expected


def test_what_a_stop_breaks_is_not_told():
    with pytest.raises(ConfigError):
        with user_errors():
            try:
                sys.exit(143)
            except SystemExit:
                raise ConfigError('a worker was killed')


@pytest.fixture
def handlers():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD)
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_cleaning_up_is_not_stopped(handlers, number):
    cleaned = []
    with pytest.raises(SystemExit) as info:
        with orderly_end():
            try:
                os.kill(os.getpid(), number)
            finally:
                for again in (signal.SIGINT, signal.SIGTERM):
                    os.kill(os.getpid(), again)
                time.sleep(1.2)
                cleaned.append(True)
    assert info.value.code == 128 + number and cleaned


def test_stop_within_a_destructor(handlers):
    """Where what is raised is printed, and lost."""
    ended = []

    class Frail:

        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            ended.append(True)

    end = time.monotonic() + 20
    with pytest.raises(SystemExit) as info:
        with orderly_end():
            Frail()
            while time.monotonic() < end:
                time.sleep(0.01)
    assert info.value.code == 143 and time.monotonic() < end and ended


def test_stop_as_a_child_ends(handlers, monkeypatch):
    """Both signals wait for the same moment, the child's behind the stop."""
    reported = []
    monkeypatch.setattr(sys, 'unraisablehook', reported.append)
    signal.signal(signal.SIGCHLD, lambda *_: pytest.fail('is listened to'))
    both = {signal.SIGTERM, signal.SIGCHLD}
    with pytest.raises(SystemExit) as info:
        with orderly_end():
            before = signal.pthread_sigmask(signal.SIG_BLOCK, both)
            try:
                for number in both:
                    # No other thread is to get it.
                    signal.pthread_kill(threading.get_ident(), number)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert info.value.code == 143 and not reported


def test_the_interpreter_as_it_is_typed(tmp_path, monkeypatch):
    """Environments link to one interpreter, so a link of the same name in
    another folder is another one."""
    monkeypatch.chdir(tmp_path)
    for folder in ('.venv/bin', 'other'):
        (tmp_path / folder).mkdir(parents=True)
        for name in ('python', 'python3'):
            (tmp_path / folder / name).symlink_to(sys.executable)
    own = tmp_path / '.venv' / 'bin'
    monkeypatch.setattr(sys, 'executable', str(own / 'python3'))
    for path, typed in ((own, 'python'), (tmp_path / 'other',
                                          '.venv/bin/python3'),
                        (tmp_path / 'none', '.venv/bin/python3')):
        monkeypatch.setenv('PATH', str(path))
        assert cli._python() == typed
    monkeypatch.chdir(tmp_path / 'other')
    assert cli._python() == str(own / 'python3')
