"""Read one photo file into pixels, and write pixels back while everything else in the file stays.

Only this room imports Pillow. It does not use Ray.

May import: pipeline, PIL, cv2, numpy, pillow_heif, pyarrow, tifffile.
"""
