"""What all errors that a user can mend have in common."""


class ReidError(Exception):
    """The message says what is wrong and what to do; on the command line it stands alone."""
