"""What a person points at in a table or an answer: read, looked up, and its figures computed."""
