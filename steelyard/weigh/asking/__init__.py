"""Who is asked what, and how: tasks with their samples, arms that are opened, answers that are kept as they come."""
