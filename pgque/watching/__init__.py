"""Private modules for top, the dashboard and doctor: samples, states and pages of events."""
