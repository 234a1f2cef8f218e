"""Checkpoints of addresses, read from a server of this machine."""
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from mcod_plugin.errors import ConfigError
from mcod_plugin.utils.checkpoint import read_checkpoint


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, and breaks off in the middle of ``broken.pth``."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        if self.path != '/broken.pth':
            return super().do_GET()
        self.connection.sendall(b'HTTP/1.1 200 OK\r\n'
                                b'Content-Length: 1000\r\n\r\nPK')
        self.close_connection = True


@contextmanager
def serve(folder):
    """The address of a server of a folder."""
    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f'http://127.0.0.1:{server.server_port}'
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """What is fetched goes to a folder of the test, without a proxy."""
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    monkeypatch.setenv('no_proxy', '127.0.0.1')


def test_fetched(tmp_path):
    torch.save(dict(x=torch.arange(3)), tmp_path / 'good.pth')
    with serve(tmp_path) as address:
        found = read_checkpoint(f'{address}/good.pth')
    assert found['x'].tolist() == [0, 1, 2]


def test_not_found(tmp_path):
    with serve(tmp_path) as address:
        path = f'{address}/gone.pth'
        with pytest.raises(ConfigError) as caught:
            read_checkpoint(path)
    assert str(caught.value) == (f'checkpoint {path} cannot be fetched '
                                 '(HTTP Error 404: File not found)')


def test_no_server(tmp_path):
    with serve(tmp_path) as address:
        path = f'{address}/good.pth'
    with pytest.raises(ConfigError, match='cannot be fetched .*refused') as e:
        read_checkpoint(path)
    assert str(e.value).startswith(f'checkpoint {path} cannot be fetched (')


@pytest.mark.parametrize('name', ['broken.pth', 'text.pth'])
def test_fetched_and_no_checkpoint(tmp_path, name):
    (tmp_path / 'text.pth').write_text('no checkpoint')
    with serve(tmp_path) as address:
        with pytest.raises(ConfigError) as caught:
            read_checkpoint(f'{address}/{name}')
    assert 'truncated' in str(caught.value) or 'damaged' in str(caught.value)
    assert 'cannot be fetched' not in str(caught.value)
