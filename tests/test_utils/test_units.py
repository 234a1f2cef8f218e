import pytest

from mcod_plugin.utils.units import duration, file_size


@pytest.mark.parametrize('seconds, text', [
    (0.4, '0 s'),
    (59.4, '59 s'),
    (60, '1 min'),
    (3599, '1 h 00 min'),
    (90 * 60, '1 h 30 min'),
    (7500, '2 h 05 min'),
])
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize('number, text', [
    (0, '0 B'),
    (1023, '1023 B'),
    (1536, '1.5 KiB'),
    (3 << 19, '1.50 MiB'),
])
def test_file_size(number, text):
    assert file_size(number) == text
