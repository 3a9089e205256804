"""The section "Accuracy" of a bundle's model card: planning leaves it empty, training fills it."""

HEADING = "## Accuracy\n"
UNMEASURED = "Not measured yet."
MEASURED = "Each training case was predicted by a network that had not seen it"  # how a measured section begins
EMPTY_ACCURACY = f"{HEADING}\n{UNMEASURED}\n"


def replace_accuracy(card: str, accuracy: str) -> str | None:
    """Return a card with another section "Accuracy".

    Args:
        card: the text of the card.
        accuracy: the text of the section; it begins with `MEASURED`.

    Returns:
        The new text; None for a card without the section, or with a section that its author wrote.
    """
    before, heading, rest = card.partition(HEADING)
    if not rest.lstrip().startswith((UNMEASURED, MEASURED)):
        return None
    end = rest.find("\n## ")
    after = "" if end < 0 else rest[end + 1 :]
    return f"{before}{heading}\n{accuracy}\n\n{after}"
