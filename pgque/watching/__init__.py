"""Watching: samples, states and pages for top, the dashboard and doctor. For pgque alone."""
