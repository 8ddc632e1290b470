"""HTTP: who calls, which route, what it costs, and what the answer says about it.

Owns: the ASGI middleware, tenant resolvers, route templates, problem bodies and RateLimit headers.
Does not own: the decision (gate), who the caller is allowed to be (the host's own authentication).
Invariants: a request is taken once and before its handler; responses are never buffered; what must not count is
taken back even if the client has gone.
"""
