"""What people look at: the house's dashboard, and each tenant's own portal.

Owns: who may see and do what (``access``), the pages (``pages``), how they are laid out (``templates``, ``static``).
Does not own: figures; each page asks a ``Metering`` or its ledger, and says as of when it is true.
Invariants: URLs are relative and flat, so that a page works behind any prefix; nothing is loaded from elsewhere, and no
script or style stands in a page; what changes something is a POST of the page's own origin, by a visitor with the role
for it, and stands in the audit log under the visitor's name.
"""
