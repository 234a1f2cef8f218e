"""Tables for a terminal and a log."""
import io
from typing import Sequence

from rich.console import Console
from rich.table import Table

__all__ = ['render']


def render(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as text.

    Args:
        header (Sequence[str]): Names of the columns.
        rows (Sequence[Sequence[str]]): The cells.

    Returns:
        str: Its lines.
    """
    table = Table()
    for index, name in enumerate(header):
        table.add_column(name, justify='left' if index == 0 else 'right')
    for row in rows:
        table.add_row(*row)
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return console.file.getvalue().rstrip('\n')
