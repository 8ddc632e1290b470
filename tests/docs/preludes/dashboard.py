who = from_session = lambda request: None
