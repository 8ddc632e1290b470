"""Names of models: what may be one, whose it is, and the same name in other words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_NAME: Final = 200
MAX_PREFIXES: Final = 4

_PREFIXES: Final = {
    **dict.fromkeys(("azure", "azure_ai", "azure-openai"), "azure"),
    **dict.fromkeys(("bedrock", "bedrock_converse", "aws", "amazon-bedrock"), "aws"),
    **dict.fromkeys(
        ("vertex_ai", "vertex_ai_beta", "vertex", "gemini", "google", "google-gla", "google-vertex"), "google"
    ),
    **dict.fromkeys(("together", "together_ai"), "together"),
    **dict.fromkeys(("fireworks", "fireworks_ai"), "fireworks"),
    **dict.fromkeys(("xai", "x-ai", "grok"), "x-ai"),
    **dict.fromkeys(("mistral", "mistralai"), "mistral"),
    **dict.fromkeys(("moonshot", "moonshotai"), "moonshotai"),
    **{name: name for name in ("openai", "anthropic", "groq", "deepseek", "perplexity", "openrouter", "cohere")},
}
"""How routers name the provider in front of its model, and what the price list calls it."""
_BEDROCK = re.compile(
    r"(?:(?:us|eu|apac|us-gov|global|jp|au|ca)\.)?"
    r"(?:ai21|amazon|anthropic|cohere|deepseek|meta|minimax|mistral|moonshot|openai|qwen|stability|writer|zai)\.(?=[a-z])"
)
_REGION = re.compile(r"(?:us|eu|ap|ca|sa|me|af|il|mx)(?:-gov)?-[a-z]+-\d|global|converse|invoke")
_BEDROCK_VERSION = re.compile(r"-v\d+(?::\d+)?$|:\d+$")
_SNAPSHOT = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{3,8}|latest)$")


@dataclass(frozen=True, slots=True)
class Name:
    """``full``: as it was given, in lower case. ``bare``: without a router's prefixes. ``provider``: the one that it
    names itself, in the price list's word."""

    full: str
    bare: str
    provider: str | None = None

    @property
    def family(self) -> str:
        """Without a date or a number of a snapshot: gpt-4o of gpt-4o-2024-08-06."""
        return _SNAPSHOT.sub("", self.vendors)

    @property
    def vendors(self) -> str:
        """As its maker calls it, where Bedrock sells it."""
        if self.provider != "aws":
            return self.bare
        return _BEDROCK_VERSION.sub("", _BEDROCK.sub("", self.bare, count=1))

    @property
    def forms(self) -> tuple[str, ...]:
        """What a price list of one's own may call it, closest first."""
        return tuple(dict.fromkeys((self.full, self.bare, self.vendors, self.family)))


def parse(model: object) -> Name | None:
    """The name; None for what is none: empty, longer than 200 characters, or unprintable."""
    if not isinstance(model, str) or len(model) > MAX_NAME:
        return None
    full = model.strip().lower()
    if not full or not full.isprintable():
        return None
    bare, provider = full, None
    if bare.startswith("arn:aws"):
        bare, provider = bare.rpartition("/")[2], "aws"
    for _ in range(MAX_PREFIXES):
        if provider == "openrouter":  # its own names have the maker's in front
            break
        head, mark, rest = _split(bare)
        rest = rest.strip()
        if not mark or not rest:
            break
        if head in _PREFIXES:
            provider = _PREFIXES[head] if provider in (None, "google") else provider
        elif not (head == "models" or (provider == "aws" and _REGION.fullmatch(head))):
            break
        bare = rest
    if bare.startswith("accounts/fireworks/"):
        provider = "fireworks"
    elif "publishers/" in bare and "/models/" in bare:  # Google's resource names
        bare, provider = bare.rpartition("/models/")[2], "google"
    bare = bare.replace("@", "-")
    if provider is None and _BEDROCK.match(bare):
        provider = "aws"
    return Name(full, bare, provider)


def _split(name: str) -> tuple[str, str, str]:
    """At the first slash, or at the colon behind a provider's name: openai:gpt-4o."""
    if "/" in name:
        return name.partition("/")
    head, mark, rest = name.partition(":")
    return (head, mark, rest) if head in _PREFIXES else (name, "", "")
