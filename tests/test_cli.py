import argparse
import os
import signal
import sys
import time

import mmengine.device
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper

from mcod_plugin import cli
from mcod_plugin.cli import (check_out, orderly_end, stop_code, use_amp,
                             user_errors)
from mcod_plugin.engine.optim_wrapper import autocast_optim_wrapper
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


def amp(**settings):
    cfg = Config(dict(optim_wrapper=dict(optimizer={}, **settings)))
    use_amp(cfg)
    cfg.optim_wrapper.pop('optimizer')
    return cfg.optim_wrapper


@pytest.fixture
def on(monkeypatch):
    """Makes the tools think that they are on another device."""

    def become(device, bfloat16=True):
        for module in (mmengine.device, autocast_optim_wrapper):
            monkeypatch.setattr(module, 'get_device', lambda: device)
        monkeypatch.setattr(torch.cuda, 'is_bf16_supported',
                            lambda including_emulation=True: bfloat16)

    return become


OURS = dict(type='mcod_plugin.AutocastOptimWrapper')
SCALED = dict(type='AmpOptimWrapper', loss_scale='dynamic')


@pytest.mark.parametrize('settings', [
    dict(),
    dict(type=None),
    dict(type='OptimWrapper'),
    dict(type='AmpOptimWrapper', loss_scale=512., dtype=None),
    dict(type='mmengine.AmpOptimWrapper', dtype='bfloat16'),
    dict(type=OptimWrapper),
    dict(OURS, dtype='bfloat16'),
    dict(OURS, dtype='auto'),
])
def test_amp_is_bfloat16_where_there_is_bfloat16(on, settings):
    for device in ('cpu', 'cuda'):
        on(device)
        assert amp(**settings) == OURS
    on('cuda', bfloat16=False)
    assert amp(**settings) == {
        **SCALED, 'loss_scale': settings.get('loss_scale', 'dynamic')
    }


def test_amp_keeps_float16_that_is_asked_for(on):
    on('cuda')
    settings = dict(type='AmpOptimWrapper', dtype='float16')
    assert amp(**settings) == dict(SCALED, dtype='float16')
    on('cpu')
    with pytest.raises(ConfigError, match='dtype float16 needs a GPU'):
        amp(**settings)


def test_amp_with_other_wrappers():
    with pytest.raises(ConfigError, match='must be one of.*ApexOptimWrapper'):
        amp(type='ApexOptimWrapper')


def test_out_must_have_a_place(tmp_path):
    check_out('--out', str(tmp_path / 'new.json'))
    with pytest.raises(ConfigError, match='does not exist'):
        check_out('--out', str(tmp_path / 'no' / 'new.json'))
    with pytest.raises(ConfigError, match='is a folder'):
        check_out('--out', str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_out_must_be_writable(tmp_path):
    with pytest.raises(ConfigError, match='no such file can be made in'):
        check_out('--out', str(tmp_path / ('a' * 300)))
    path = tmp_path / 'old.json'
    path.write_text('old')
    check_out('--out', str(path))
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(
    not sys.platform.startswith('linux'), reason='only Linux has /proc')
def test_out_must_be_writable_by_root_as_well():
    with pytest.raises(ConfigError, match='--out /proc/x.py: .* in /proc'):
        check_out('--out', '/proc/x.py')


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_out_must_not_be_read_only(tmp_path):
    path = tmp_path / 'old.json'
    path.touch(0o444)
    with pytest.raises(ConfigError, match='old.json must not be written to'):
        check_out('--out', str(path))


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
