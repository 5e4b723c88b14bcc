"""The one kind of error that a user can mend."""


class UserError(ValueError):
    """Bad input, a ValueError to code that uses the library. The message says what is wrong and
    what to do about it. Every command shows it alone, without a traceback, which is what somebody
    who mistyped a path wants to see."""


NOT_INSTALLED = "It needs more than the codec ({} is not installed): pip install 'progdtd[train]'."
"""What to say where a package is missing that only the framework needs."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its kind where it has none."""
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
