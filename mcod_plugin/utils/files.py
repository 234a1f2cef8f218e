"""Writing files."""
import os

__all__ = ['write_text']


def write_text(path: str, text: str) -> None:
    """Write a file beside its place, then put it there: whoever reads it
    finds all of it, or what was there before.

    Args:
        path (str): The file.
        text (str): All of its text.
    """
    part = f'{path}.part'
    with open(part, 'w', encoding='utf-8') as file:
        file.write(text)
    os.replace(part, path)
