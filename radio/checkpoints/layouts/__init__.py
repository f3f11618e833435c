"""Where in a file the model lies and what describes it, whoever wrote the file."""
