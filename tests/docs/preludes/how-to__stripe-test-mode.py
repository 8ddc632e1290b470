os.environ |= {"STRIPE_KEY": "rk_test_1", "STRIPE_WEBHOOK_SECRET": "whsec_1"}
StripeBillingAdapter = lambda **_: MockBillingAdapter()
