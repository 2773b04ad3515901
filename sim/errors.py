"""The one exception for errors that a user can correct: one sentence that says what is wrong and what helps."""


class ParmError(Exception):
    """Its text is printed without a traceback, and the command line exits with a non-zero status."""
