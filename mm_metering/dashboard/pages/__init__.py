"""One module for each page of the menu: what it reads, what may be done there.

Owns: which figures stand on a page. Does not own: how they are computed, and how they look.
"""
