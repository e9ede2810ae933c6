"""Shards to a model: the patent's method. May import torch and naturaltone.pipeline; Ray and MLflow in the edge files only."""
