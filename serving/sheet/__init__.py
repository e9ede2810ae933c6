"""HTML pages of pictures and tables that open in any browser, without a network.

May import: pipeline, pipeline.dataset, pipeline.photo, jinja2, numpy.
"""
