"""From sign-up to a paid invoice, through Stripe. See README.md."""
