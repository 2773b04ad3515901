"""Service-time profiles that come with parm; experiments name them without a folder. README.md says what is in them."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
