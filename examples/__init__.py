"""Complete host apps. Each runs offline, and the tests run each of them."""
