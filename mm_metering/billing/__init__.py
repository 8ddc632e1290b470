"""From usage to money: tenants' plans over time, invoices.

Owns: what a tenant is subscribed to; closing months, and what becomes of invoices; their documents.
Does not own: rating (core), the hot path (gate), HTTP.
Invariants: one code path for preview and close; the provider never decides what is owed.
"""
