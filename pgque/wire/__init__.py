"""Private modules: connections, calls of SQL functions, notifications, background loops."""
