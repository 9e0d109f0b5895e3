"""What people or a judge prefer: comparisons read, verdicts asked for, ratings."""
