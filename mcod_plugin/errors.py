"""What a user's mistake raises."""
import difflib
import math
from numbers import Integral, Real
from typing import Any, Iterable, Sequence

__all__ = [
    'ConfigError', 'TrainingError', 'nearest', 'one_line', 'check_branches',
    'check_choice', 'check_count', 'check_integer', 'check_names',
    'check_number'
]


class ConfigError(ValueError):
    """A setting or a file of the user's that cannot be used.

    The message is one line that names the setting, what was given and what
    is allowed. The command line tools print it alone and exit with code 2.
    """


class TrainingError(RuntimeError):
    """A run that has begun and cannot go on, though nothing is wrong with the
    program.

    The message is one line that says what happened, when, and what to do. The
    command line tools print it alone and exit with code 1.
    """


def nearest(name: str, choices: Iterable[str], limit: int = 3) -> str:
    """The known names most like ``name``, as a phrase for an error message.

    Args:
        name (str): The name that was given.
        choices (Iterable[str]): The names that are known.
        limit (int): The most names to give. Defaults to 3.

    Returns:
        str: ``'did you mean a, b?'``, or an empty string if nothing is near.
    """
    # Compare without case, and by the last part of a dotted name as well: a
    # missing scope prefix is the commonest slip.
    spelled = {}
    for choice in sorted(choices):
        spelled.setdefault(choice.lower(), choice)
        spelled.setdefault(choice.rpartition('.')[2].lower(), choice)
    found = difflib.get_close_matches(
        name.rpartition('.')[2].lower(), spelled, n=limit, cutoff=0.6)
    names = list(dict.fromkeys(spelled[match] for match in found))
    return f'did you mean {", ".join(names)}?' if names else ''


def one_line(error: Exception) -> str:
    """An error's message without line breaks."""
    # The text of a KeyError is the representation of its argument.
    is_key = isinstance(error, KeyError) and error.args
    return ' '.join(str(error.args[0] if is_key else error).split())


def check_branches(setting: str, given: Iterable[Any],
                   names: Sequence[str]) -> None:
    """Raise a ConfigError unless all that a setting names are among the names
    of the branches."""
    for name in given:
        if name not in names:
            raise ConfigError(
                f'{setting} names {name!r}, which is no branch of '
                f'{", ".join(names)}; {nearest(str(name), names)}'.rstrip(
                    '; '))


def check_choice(setting: str, value: Any, choices: Iterable) -> None:
    """Raise unless ``value`` is one of the ``choices``.

    Args:
        setting (str): The setting, as the user types it.
        value (Any): What was given.
        choices (Iterable): What is allowed. The message lists it sorted if
            it can be sorted, else in the given order.

    Raises:
        ConfigError: If ``value`` is none of them. A bool is not taken for a
            number, though ``True == 1``.
    """
    choices = list(choices)
    if any(value == choice
           and isinstance(value, bool) == isinstance(choice, bool)
           for choice in choices):
        return
    try:
        choices.sort()
    except TypeError:
        pass  # They have no order among themselves.
    raise ConfigError(f'{setting} must be one of '
                      f'{", ".join(map(str, choices))}; got {value!r}')


def check_integer(setting: str, value: Any, minimum: int = 1) -> None:
    """Raise unless ``value`` is an integer that is large enough.

    Args:
        setting (str): The setting, as the user types it.
        value (Any): What was given.
        minimum (int): The smallest value allowed. Defaults to 1.

    Raises:
        ConfigError: If ``value`` is not such an integer.
    """
    if (not isinstance(value, Integral) or isinstance(value, bool)
            or value < minimum):
        raise ConfigError(f'{setting} must be an integer of at least '
                          f'{minimum}; got {value!r}')


def check_count(setting: str, value: Any, minimum: int = 1) -> None:
    """As :func:`check_integer`, of what MMEngine counts by: a whole number
    such as ``1e5`` is an integer to it.

    Args:
        setting (str): The setting, as the user types it.
        value (Any): What was given.
        minimum (int): The smallest value allowed. Defaults to 1.

    Raises:
        ConfigError: If ``value`` is not such a number.
    """
    whole = isinstance(value, float) and value.is_integer()
    check_integer(setting, int(value) if whole else value, minimum)


def check_names(
        setting: str,
        value: Any,
        allowed: str = 'name at least one branch, and none twice') -> None:
    """Raise unless ``value`` is a list of names, not empty and none twice.

    Args:
        setting (str): The setting, as the user types it.
        value (Any): What was given.
        allowed (str): What the setting must do. Defaults to naming branches.

    Raises:
        ConfigError: If ``value`` is no such list.
    """
    if (not isinstance(value, (tuple, list)) or not value
            or not all(isinstance(name, str) for name in value)
            or len(set(value)) < len(value)):
        raise ConfigError(f'{setting} must {allowed}; got {value!r}')


def check_number(setting: str,
                 value: Any,
                 minimum: float = -math.inf,
                 exclusive: bool = False) -> None:
    """Raise unless ``value`` is a finite number that is large enough.

    Args:
        setting (str): The setting, as the user types it.
        value (Any): What was given.
        minimum (float): The smallest value allowed. Defaults to ``-inf``.
        exclusive (bool): Whether ``minimum`` itself is refused.
            Defaults to False.

    Raises:
        ConfigError: If ``value`` is not such a number.
    """
    good = (
        isinstance(value, Real) and not isinstance(value, bool)
        and math.isfinite(value)
        and (value > minimum if exclusive else value >= minimum))
    if not good:
        bound = '' if minimum == -math.inf else (
            f' {"greater than" if exclusive else "of at least"} {minimum:g}')
        raise ConfigError(
            f'{setting} must be a finite number{bound}; got {value!r}')
