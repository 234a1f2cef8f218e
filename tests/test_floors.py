"""No part of the package knows one that stands above it."""
import ast
from pathlib import Path

import mcod_plugin

PACKAGE = Path(mcod_plugin.__file__).parent
# From the ground. Each room imports only what stands on a lower floor, inside
# functions as well.
FLOORS = (
    ('errors', 'version'),
    ('model_index', 'registry', 'schedule', 'utils'),
    ('structures', ),
    ('config', ),
    ('datasets', 'evaluation', 'models'),
    ('runs', ),
    ('engine', ),
    ('alone', ),
    ('compare', 'compose', 'export', 'publish'),
    ('cli', ),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# What is still to be mended, and why it has not been. Entries may only go.
EXCEPTIONS = {
    # What tells how a branch stands alone is still a part of the export.
    ('publish', 'export'),
}


def room_of(module):
    """The room of a module by its dotted name; None for the package."""
    parts = module.split('.')
    return parts[1] if len(parts) > 1 else None


def imports(path, package=PACKAGE):
    """The rooms that a file imports, inside functions as well."""
    parts = [package.name, *path.relative_to(package).with_suffix('').parts]
    for node in ast.walk(ast.parse(path.read_text('utf-8'))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = parts[:-node.level] if node.level else []
            module = '.'.join([*base, *filter(None, [node.module])])
            # ``from mcod_plugin import cli`` names the room last.
            modules = [module] if '.' in module else [
                f'{module}.{alias.name}' for alias in node.names
            ]
        else:
            continue
        for module in modules:
            if module.split('.')[0] == package.name:
                yield room_of(module)


def faults(package=PACKAGE):
    """Pairs of rooms of which the first imports the second and must not,
    with the files that do."""
    found = {}
    for path in sorted(package.rglob('*.py')):
        room = path.relative_to(package).with_suffix('').parts[0]
        if room == '__init__':
            continue
        for other in imports(path, package):
            known = FLOOR.get(other, -1)
            if other not in (None, room) and known >= FLOOR[room]:
                found.setdefault((room, other),
                                 set()).add(str(path.relative_to(package)))
    return found


def test_every_room_has_a_floor():
    rooms = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.suffix == '.py' or (path / '__init__.py').is_file()
    }
    assert rooms - {'__init__'} <= FLOOR.keys()


def test_no_room_imports_one_that_stands_above_it():
    found = faults()
    new = {
        pair: files
        for pair, files in found.items() if pair not in EXCEPTIONS
    }
    assert not new
    # What is mended is struck off.
    assert EXCEPTIONS == found.keys()


def test_imports_of_all_kinds_are_seen(tmp_path):
    package = tmp_path / PACKAGE.name
    (package / 'models' / 'heads').mkdir(parents=True)
    (package / 'models' / 'heads' / 'head.py').write_text(
        'import torch\n'
        'import mcod_plugin.cli\n'
        'from mcod_plugin import compare\n'
        'from mcod_plugin.errors import ConfigError\n'
        'from ...engine.hooks import Hook\n'
        'from ..utils import tool\n'
        'def build():\n'
        '    from mcod_plugin.export.files import write\n')
    assert faults(package).keys() == {('models', room)
                                      for room in ('cli', 'compare', 'engine',
                                                   'export')}
