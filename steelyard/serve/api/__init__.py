"""HTTP: one file per family of routes. `app.create_app` puts them together."""
