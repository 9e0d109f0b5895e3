"""Numbers of numbers: intervals, tests, corrections and metrics of a whole set. Nothing here knows an arm."""
