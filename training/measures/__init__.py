"""Numbers that say how good a picture is, alone or beside the photo it came from. NumPy and OpenCV only."""
