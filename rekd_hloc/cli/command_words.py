"""Which words of a command line are options of the program, and which are its command's."""

from collections.abc import Sequence

SWITCHES, WITH_VALUE = ("-v", "--verbose"), ("--log-file",)
"""Options of the program that may stand before a command or after it."""


def split_words(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the options of the program itself, and the command with all that is its own."""
    before, after = [], []
    words = iter(arguments)
    for word in words:
        if word == "--":
            after += [word, *words]
        elif word in SWITCHES or word.startswith(tuple(f"{name}=" for name in WITH_VALUE)):
            before.append(word)
        elif word in WITH_VALUE:
            before += [word, *[value for value in [next(words, None)] if value is not None]]
        else:
            after.append(word)
    return before, after
