"""A plain Starlette app with a login, the dashboard for its staff and a portal for each tenant. See README.md."""
