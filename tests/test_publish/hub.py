"""A stand-in for the Hugging Face hub, on this machine."""
import base64
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

TOKEN = 'hf_of_a_test'


class Hub(ThreadingHTTPServer):
    """Takes what is uploaded.

    Attributes:
        repos (dict[str, dict[str, bytes]]): Files by repository.
        checked (list[str]): The cards that were handed in to be checked.
        private (set[str]): Repositories that were made private.
        refuses (str): A repository that it does not take; none by default.
    """

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.repos, self.checked, self.refuses = {}, [], ''
        self.private = set()

    @property
    def address(self):
        """Where it is."""
        return f'http://127.0.0.1:{self.server_port}'

    @property
    def env(self):
        """Variables by which a process finds it, and nothing else."""
        return dict(
            HF_ENDPOINT=self.address,
            HF_TOKEN=TOKEN,
            NO_PROXY='127.0.0.1',
            no_proxy='127.0.0.1')


class Handler(BaseHTTPRequestHandler):
    """Answers as the hub does."""

    def do_GET(self):
        if self.path == '/api/whoami-v2':
            if self.headers['Authorization'] == f'Bearer {TOKEN}':
                return self.answer(dict(name='user', type='user', orgs=[]))
            return self.answer(
                dict(error='Invalid username or password.'), 401)
        repo, found, _ = self.path.removeprefix('/api/models/').partition(
            '/tree/main')
        if found and repo in self.server.repos:
            return self.answer([
                dict(type='file', path=name, oid='0', size=len(content))
                for name, content in self.server.repos[repo].items()
            ])
        self.answer(dict(error='not found'), 404)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        hub, path = self.server, self.path
        if path == '/api/validate-yaml':
            content = json.loads(body)['content']
            if 'license: nonsense' in content:
                return self.answer(dict(error='no such license'), 400)
            hub.checked.append(content)
            return self.answer({})
        if path == '/api/repos/create':
            request = json.loads(body)
            name = f'{request.get("organization", "user")}/{request["name"]}'
            if name == hub.refuses:
                return self.answer(dict(error='You have no rights here'), 403)
            hub.repos.setdefault(name, {})
            # Told by different versions of its library.
            if request.get('private') or request.get(
                    'visibility') == 'private':
                hub.private.add(name)
            return self.answer(dict(url=f'{hub.address}/{name}', name=name))
        repo, _, action = path.removeprefix('/api/models/').rpartition('/')
        repo, _, action = repo.rpartition('/')
        if action == 'preupload':
            files = [
                dict(
                    path=file['path'],
                    uploadMode='regular',
                    shouldIgnore=False) for file in json.loads(body)['files']
            ]
            return self.answer(dict(files=files))
        if action == 'commit':
            for line in body.splitlines():
                entry = json.loads(line)
                if entry['key'] == 'deletedFile':
                    del hub.repos[repo][entry['value']['path']]
                if entry['key'] == 'file':
                    value = entry['value']
                    hub.repos[repo][value['path']] = base64.b64decode(
                        value['content'])
            return self.answer(
                dict(
                    success=True,
                    commitOid='0' * 40,
                    commitUrl=f'{hub.address}/{repo}/commit/{"0" * 40}',
                    hookOutput=''))
        self.answer(dict(error=f'not found: {path}'), 404)

    def answer(self, content, code=200):
        """Send JSON."""
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        """Say nothing."""


@contextmanager
def running_hub():
    """A hub that runs as long as the block."""
    with Hub() as hub:
        thread = Thread(target=hub.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
