"""What is known of the data sets that cohorts are trained on."""
import re
from dataclasses import dataclass, replace
from typing import Any, Dict, Optional

from mcod_plugin.config.data import innermost_dataset
from mcod_plugin.config.parts import type_name
from mcod_plugin.datasets import in_memory_dataset

__all__ = ['DataFacts', 'data_facts', 'data_part', 'data_split', 'named_data']

# Of a list of settings, such as indices.
MOST_VALUES = 20
# Settings by which a part of a data set is selected.
PART_KEYS = ('indices', 'ann_file')


@dataclass(frozen=True)
class DataFacts:
    """A data set.

    Attributes:
        name (str): Its name.
        hub (str): Its name on the Hugging Face hub, or one like those.
        listed (bool): Whether the hub has it.
        terms (str): Where it comes from and what may be done with it.
        classes (int, optional): How many classes all of it has. Defaults to
            None, which is not known.
    """

    name: str
    hub: str
    listed: bool
    terms: str
    classes: Optional[int] = None


UNKNOWN_TERMS = ('Its terms are not known to the tool that wrote this card; '
                 'ask whoever provides the data.')
_CIFAR = ('A. Krizhevsky, *Learning Multiple Layers of Features from Tiny '
          'Images*, 2009, https://www.cs.toronto.edu/~kriz/cifar.html. Its '
          'page asks to cite that report and names no licence; the images '
          'were collected from the web.')

KNOWN = dict(
    CIFAR10=DataFacts('CIFAR-10', 'uoft-cs/cifar10', True, _CIFAR),
    CIFAR100=DataFacts('CIFAR-100', 'uoft-cs/cifar100', True, _CIFAR),
    ImageNet=DataFacts(
        'ImageNet-1k', 'ILSVRC/imagenet-1k', True,
        'https://www.image-net.org. Its terms of access allow '
        'non-commercial research and education only.', 1000),
    Digits=DataFacts(
        'scikit-learn digits', 'digits', False,
        'E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten '
        'Digits*, 1998, https://doi.org/10.24432/C50P49: the part that comes '
        'with scikit-learn. The archive states CC BY 4.0.'))


def data_facts(loader: Any, classes: Optional[int] = None) -> DataFacts:
    """What is known of the data set of a data loader, by its config; of one
    that is not known here its type, and that its terms must be looked up. What
    is read as ImageNet may be another data set in its layout, which the number
    of its classes tells."""
    dataset = innermost_dataset(loader)
    kind = type_name(dataset, 'source') or type_name(dataset) or 'unknown'
    known = KNOWN.get(kind)
    if known and (None in (classes, known.classes)
                  or classes == known.classes):
        return known
    return DataFacts(kind, kind.lower(), False, UNKNOWN_TERMS)


def named_data(facts: DataFacts, name: Optional[str],
               terms: Optional[str]) -> DataFacts:
    """The facts of a data set, as far as whoever publishes tells others: its
    name, and where it comes from and what may be done with it. A name that is
    none of those known is none that the hub has."""
    if name and name != facts.name:
        hub = re.sub(r'[^\w.-]+', '-', name.lower()).strip('-')
        facts = next(
            (known for known in KNOWN.values() if known.name == name),
            DataFacts(name, hub or 'data', False, UNKNOWN_TERMS))
    return replace(facts, terms=terms) if terms else facts


def data_split(loader: Any) -> Optional[str]:
    """The part of the data set that a data loader gives, as its config names
    it, if it does."""
    split = innermost_dataset(loader).get('split')
    return split if isinstance(split, str) and split else None


def data_part(loader: Any) -> Dict[str, Any]:
    """The settings by which a data loader gives a part of its data only, those
    that are set, pairs as lists."""
    dataset = innermost_dataset(loader)
    keys = PART_KEYS
    if 'source' in dataset and in_memory_dataset.takes_part(dataset):
        # MMPretrain's data sets give their classes other names by one.
        keys += in_memory_dataset.PART_KEYS
    return {
        key: _short(dataset[key])
        for key in keys if dataset.get(key) is not None
    }


def _short(value: Any) -> Any:
    """A setting as the front matter of a card can have it, in YAML, which has
    no tuples and is no place for thousands of numbers."""
    if isinstance(value, (list, tuple)):
        many = len(value) > MOST_VALUES
        return f'{len(value)} of them' if many else list(value)
    return value
