"""Fixtures of all tests: real servers, started when a test first asks for one."""

pytest_plugins = ["tests.redis_server", "tests.redis_cluster", "tests.postgres_server"]
