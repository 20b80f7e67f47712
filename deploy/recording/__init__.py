"""Recordings: topics to files, files read back, cut, compared, and sent live again."""
