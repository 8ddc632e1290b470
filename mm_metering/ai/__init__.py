"""What an AI call used, and what it cost the host.

Owns: reading usage out of providers' replies and streams; estimating what a call will read; provider prices.
Does not own: budgets and holds (gate), what a tenant pays (core.rating), talking to a provider.
Invariants: no provider's SDK is imported, and no network used; nothing that a provider sends raises; a call that
cannot be read or priced is marked and never free.
"""
