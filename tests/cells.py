"""Tables as they are printed, read back."""


def cells(table):
    """The cells of each row of a printed table."""
    return [[cell.strip() for cell in line.strip('│┃').split(line[0])]
            for line in table.split('\n') if line[:1] in ('│', '┃')]
