"""One photo: its bytes to pixels and back, with all else in the file kept. The only folder that imports Pillow; no Ray."""
