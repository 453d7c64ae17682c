"""The libraries' own progress bars and advice would bury the one line that a user has to read."""

from __future__ import annotations


def quiet_libraries() -> None:
    """For commands only: a program that uses vlmbench as a library keeps its own settings."""
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    hub.set_verbosity_error()  # type: ignore[no-untyped-call]  # a model that is not there is told once, not at each try
    logging.set_verbosity_error()
    logging.disable_progress_bar()
