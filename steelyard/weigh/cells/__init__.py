"""From what was answered to the cells of a report: scored, compared, judged by rule and explained."""
