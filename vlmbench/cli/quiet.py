"""The libraries' own progress bars and advice would bury the one line that a user has to read."""

from __future__ import annotations


def quiet_libraries() -> None:
    """For commands only: a program that uses vlmbench as a library keeps its own settings."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
