import pytest

from mcod_plugin.config.read import imported_modules


@pytest.mark.parametrize('given, expected', [
    ({}, []),
    (dict(custom_imports=None), []),
    (dict(custom_imports=dict(imports='own.parts')), ['own.parts']),
    (dict(custom_imports=dict(imports=['a', 'b'])), ['a', 'b']),
])
def test_imported_modules(given, expected):
    assert imported_modules(given) == expected
