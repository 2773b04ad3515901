"""The one exception for what a user can mend: its text is a single sentence that says what is wrong and what helps."""


class ParmError(Exception):
    """Shown to the user as it is, without a traceback; the command line then exits with a non-zero status."""
