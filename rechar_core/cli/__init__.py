"""The command line, `python -m rechar_core`: one file for each command and what they share."""
