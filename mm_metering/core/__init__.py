"""Everything that decides, and nothing that acts.

Owns: money, periods, events and facts, the catalogue, the one limit rule, rating, invoice lines.
Does not own: clocks, randomness, stores, HTTP. Synchronous; stdlib and pydantic only.
Invariants: the same input gives the same output; amounts are exact; values are valid or cannot be built.
"""
