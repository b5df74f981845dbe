"""Unlabelled images to K classes, a classifier and the evidence for both."""
