"""Predictions of a run in the forms that other tools read; needs neither Ray nor torch."""
