from types import SimpleNamespace

PUBLIC_KEY = "a secret of thirty-two characters or more"


async def load_user(request):
    return SimpleNamespace(org="acme")
