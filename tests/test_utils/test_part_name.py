from mcod_plugin.utils.part_name import part_name


def test_name_without_its_prefix():
    assert part_name(dict(type='pkg.mod.Name')) == 'Name'
    assert part_name(dict(type=dict)) == 'dict'
    assert part_name({}) == part_name(dict(type=None)) == ''
    assert part_name(dict(type='A', source='pkg.B'), 'source') == 'B'
