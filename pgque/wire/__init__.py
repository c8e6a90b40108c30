"""The wire: connections, calls of SQL functions, notifications, loops. For pgque alone."""
