"""What an AI call may use, what it used, and what it cost the host.

Owns: what a call is held as and charged; reading usage out of providers' replies and streams; estimating what a call
will read; provider prices. Does not own: the rule by which it is held (gate), what a tenant pays (core.rating),
talking to a provider.
Invariants: no provider's SDK is imported, and no network used; nothing that a provider sends raises; a call that
cannot be read or priced is marked and never free.
"""
