"""Numbers that say how good a picture is, alone or compared with the photo that it came from.

May import: pipeline, pipeline.photo, cv2, numpy, skimage.
"""
