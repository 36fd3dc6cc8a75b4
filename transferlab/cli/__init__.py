"""The command line: ``transferlab run CONFIG`` and its siblings. Nothing heavy is imported until a command needs it."""
