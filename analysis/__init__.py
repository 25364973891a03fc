"""Analysis of results: this project's or anybody's. Imports nothing here, so that workers load the schema alone."""
