"""The command line: one thin file per verb. Nothing heavy is imported before a verb runs, so that help is instant."""
