"""The numbers that a text tells."""
import re


def numbers(text):
    """All of them in their order, as they are written: not those in code, in
    addresses, in figures' names, or in names such as ResNet-20."""
    text = re.sub(r'`[^`]*`|\]\([^)]*\)', '', text)
    return re.findall(r'(?<![\w.-])[+-]?\d+(?:[.,]\d+)*', text)


def items(text):
    """The items of the lists in a text, else its paragraphs."""
    return [
        ' '.join(part.split())
        for part in re.split(r'\n(?:- |\n+(?:- )?)', text.strip())
    ]
