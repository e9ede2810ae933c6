"""A whole folder of photos into a parallel one, resumable, with a report of every file. May import Ray Data."""
