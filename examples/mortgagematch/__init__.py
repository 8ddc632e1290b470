"""MortgageMatch: mortgage brokers model loans, get reports and exports, and pay by plan. See README.md."""
