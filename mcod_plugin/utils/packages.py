"""Packages that only some tools need."""
import importlib.util
from typing import Iterable

from mcod_plugin.errors import ConfigError

__all__ = ['require_packages']


def require_packages(setting: str, packages: Iterable[str],
                     extra: str) -> None:
    """Raise unless packages are installed.

    Args:
        setting (str): What needs them, for the message.
        packages (Iterable[str]): Their names, as they are imported.
        extra (str): The extra of this plugin that they come with.

    Raises:
        ConfigError: If one is missing.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f'{setting} needs the package {package}, which '
                              'is not installed; get it with: pip install '
                              f'"mcod-plugin[{extra}]"')
