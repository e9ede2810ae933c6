"""HTML pages of pictures and tables. They open in any browser and need no network.

May import: pipeline, pipeline.dataset, pipeline.photo, jinja2, numpy.
"""
