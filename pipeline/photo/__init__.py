"""One photo: its file to pixels and back, with everything else in the file kept.

The only room that imports Pillow. No Ray.

May import: pipeline, PIL, cv2, numpy, pillow_heif, pyarrow, tifffile.
"""
