from mcod_plugin.config.parts import type_name


def test_name_without_its_prefix():
    assert type_name(dict(type='pkg.mod.Name')) == 'Name'
    assert type_name(dict(type=dict)) == 'dict'
    assert type_name({}) == type_name(dict(type=None)) == ''
    assert type_name(dict(type='A', source='pkg.B'), 'source') == 'B'
