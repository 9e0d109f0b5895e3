"""What people said and what models answered, kept in one SQLite file or in PostgreSQL."""
