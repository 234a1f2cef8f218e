"""What configs say differently, and what becomes of it in the cohort."""
from typing import Dict, Sequence

from mcod_plugin.runs.tables import render
from .own_settings import KEPT_BY, own_settings
from .source import Source

__all__ = ['left_out', 'table']


def table(sources: Sequence[Source], recipe: Source, num_classes: int) -> str:
    """What each config says of the settings that matter.

    Args:
        sources (Sequence[Source]): The configs.
        recipe (Source): The one whose recipe the cohort is trained by.
        num_classes (int): Number of classes of all.

    Returns:
        str: A table of the settings that any of them has. Its last column
        tells what holds in the cohort where they differ.
    """
    facts = [source.facts() for source in sources]
    lost = left_out(sources, recipe)
    rows = [['num_classes', *[str(num_classes)] * len(sources), '']]
    for setting in facts[0]:
        cells = [fact[setting] for fact in facts]
        if not any(cells):
            continue
        outcome = ''
        if len(set(cells)) > 1:
            outcome = f'as {recipe.name}' if any(
                setting in of_branch
                for of_branch in lost.values()) else 'each its own'
        rows.append([setting, *(cell or '-' for cell in cells), outcome])
    header = ['setting', *(source.name for source in sources), 'cohort']
    return render(header, rows)


def left_out(sources: Sequence[Source],
             recipe: Source) -> Dict[str, Dict[str, str]]:
    """What the cohort does not take over from the branches' own configs.

    Args:
        sources (Sequence[Source]): The configs.
        recipe (Source): The one whose recipe the cohort is trained by.

    Returns:
        dict[str, dict[str, str]]: What a config says, by branch and setting,
        where that differs from the recipe.
    """
    given = recipe.facts()
    found = {}
    for source in sources:
        kept = {KEPT_BY[key] for key in own_settings(source, recipe)}
        # Those within its model go with it.
        kept.add('pre-trained weights')
        found[source.name] = {
            setting: text
            for setting, text in source.facts().items()
            if text != given[setting] and setting not in kept
        }
    return {name: settings for name, settings in found.items() if settings}
