"""Transformers as search spaces: their layer, once, and what their spaces share."""
