"""A model to enhanced photos. May import naturaltone.training and naturaltone.pipeline."""
