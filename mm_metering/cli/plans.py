"""``mm-metering plans``: a plans file written, checked, compared with the ledger, and stored as new versions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Final

import typer

from mm_metering import catalogues
from mm_metering.billing.plan_review import Review, count, dropped_words, refuse_dropped, review, store, stored_plans
from mm_metering.billing.shadow import ShadowPlans
from mm_metering.cli import push
from mm_metering.cli.attack import attack_plans
from mm_metering.cli.host import PROGRAM, of_project, on_ledger
from mm_metering.cli.options import App, DryRun, Json, Quiet, Reason, group
from mm_metering.cli.shadow import show as show_shadow
from mm_metering.cli.show import bar, count_tenants, emit
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.money import from_nanos, plain
from mm_metering.core.plan_changes import (
    OWN,
    Audience,
    Over,
    PlanDifference,
    Stored,
    holdings,
    limit_forms,
    newest_versions,
)
from mm_metering.core.plan_words import headline, holding_words, limit_name, moved_words, past_words
from mm_metering.core.schema import money_text, unknown
from mm_metering.core.shadow_report import ShadowReport
from mm_metering.errors import InvalidInput
from mm_metering.gate.plans import PlanBook
from mm_metering.metering import Metering

Row = Sequence[str]
PlansFile = Annotated[str, typer.Argument(metavar="FILE", help="The plans file, such as plans.toml.")]

plans: Final = group("Write, check, compare and apply plans.")
plans.command("attack")(attack_plans)


@plans.command()
def init(
    file: Annotated[str, typer.Argument(metavar="[FILE]", help="Where to; plans.toml if absent.")] = "plans.toml",
) -> None:
    """Write a short plans file with comments. A file that is there stays as it is."""
    catalogues.write_starter(file)
    _say(f"wrote {file}: {_size(catalogues.load(file))}; next: {PROGRAM} plans validate {file}")


@plans.command()
def validate(file: PlansFile, *, json: Json = False) -> None:
    """Read a plans file and check every rule. What is wrong is told with its line."""
    found = catalogues.load(file)
    if json:
        emit({name: [*getattr(found, name)] for name in ("plans", "meters", "addons")})
    else:
        _say(f"ok: {_size(found)}")


@plans.command()
def diff(file: PlansFile, *, json: Json = False, quiet: Quiet = False, app: App = "") -> None:
    """What differs from the newest plans in the ledger, and what it would mean for the tenants on them if they were
    moved. Nothing is written."""
    catalogue = catalogues.load(file)
    found = on_ledger(app, lambda metering: _reviewed(metering, catalogue))
    if json:
        emit(_review_parts(found))
        return
    _show_review(found, catalogue)
    for each in found.dropped:
        _say(f"apply would refuse it: {dropped_words(each)}")


@plans.command()
def apply(
    file: PlansFile,
    *,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    reason: Reason = "",
    app: App = "",
) -> None:
    """Store what differs as new versions. Tenants keep the version that they are on."""
    catalogue = catalogues.load(file)
    found, made = on_ledger(
        app,
        lambda metering: _applied(metering, catalogue, file, dry_run=dry_run),
        applies=not dry_run,
        reason=reason,
    )
    if json:
        emit({**_review_parts(found), "stored": made})
        return
    _show_review(found, catalogue)
    if not found.to_store:
        _say("nothing to apply")
    elif dry_run:
        _say(f"dry run, nothing was stored; it would be: {_versions(found.next_versions)}")
    else:
        _say(f"stored: {_versions(made)}")


@plans.command()
def shadow(
    file: PlansFile,
    *,
    json: Json = False,
    tenant: Annotated[str, typer.Option("--tenant", help="This tenant alone, with all of its limits.")] = "",
    quiet: Quiet = False,
    app: App = "",
) -> None:
    """What a plans file would have decided and billed in the running day and month, by what is in the ledger.
    Nothing is written."""
    catalogue, own = catalogues.load(file), bool(app or of_project())
    found = on_ledger(app, lambda metering: _shadowed(metering, catalogue, tenant or None, knows_plans=own))
    if json:
        emit(found)
    else:
        show_shadow(found, file)


@plans.command()
def show(
    plan: Annotated[str, typer.Argument(metavar="[PLAN]", help="With its limits.")] = "",
    *,
    json: Json = False,
    quiet: Quiet = False,
    app: App = "",
) -> None:
    """The stored versions of each plan, and how many tenants are on each now."""
    stored, audiences = on_ledger(app, _counted)
    if plan and plan not in newest_versions(stored.keys()):
        raise InvalidInput("plan", unknown("stored plan", plan, newest_versions(stored.keys())))
    if json:
        emit(_version_parts(plan, stored, audiences))
    elif plan:
        _show_plan(plan, stored, audiences)
    else:
        _show_versions(stored, audiences)


@plans.command("push")
def push_prices(*, dry_run: DryRun = False, json: Json = False, app: App = "") -> None:
    """Make the plans' prices at the payment provider, and say of each what there is. None is changed. Exit code 1
    where one is priced otherwise there."""
    found = push.push(app, dry_run=dry_run)
    trouble = push.trouble(found)
    if json:
        emit(found)
    else:
        _table(push.table(found))
        _say(trouble) if trouble else None
    if trouble:
        raise typer.Exit(1)


# -- with a ledger -----------------------------------------------------------------------------------------------------


async def _reviewed(metering: Metering, catalogue: Catalogue) -> Review:
    with bar("reading tenants", await count_tenants(metering.ledger)) as progress:
        return await review(metering.ledger, catalogue, now=metering.clock.now(), progress=progress)


async def _shadowed(metering: Metering, catalogue: Catalogue, tenant: str | None, *, knows_plans: bool) -> ShadowReport:
    """Without the app's own plans nothing is known of its currency and meters but what the ledger says."""
    current = metering.catalogue if knows_plans else catalogue
    plans = PlanBook(metering.ledger, proration=current.changes.proration)
    shadow = ShadowPlans(metering.ledger, plans=plans, current=current, catalogue=catalogue)
    total = await count_tenants(metering.ledger) if tenant is None else 1
    with bar("replaying", total) as progress:
        return await shadow.report(tenant, now=metering.clock.now(), progress=progress)


async def _counted(metering: Metering) -> tuple[Stored, Mapping[str, Audience]]:
    stored = await stored_plans(metering.ledger)
    with bar("reading tenants", await count_tenants(metering.ledger)) as progress:
        return stored, await count(metering.ledger, stored, now=metering.clock.now(), progress=progress)


async def _applied(
    metering: Metering, catalogue: Catalogue, file: str, *, dry_run: bool
) -> tuple[Review, Mapping[str, int]]:
    """The difference and the versions that it made; CatalogueError for a file that drops what is in use."""
    found = await _reviewed(metering, catalogue)
    refuse_dropped(found, file)
    if dry_run or not found.to_store:
        return found, {}
    now, act = metering.clock.now(), metering.act()
    return found, await store(metering.ledger, found, file=file, now=now, act=act)


# -- what is shown -----------------------------------------------------------------------------------------------------


def _show_review(found: Review, catalogue: Catalogue) -> None:
    for each in found.differences:
        _say(headline(each))
        _table(_facts(each, found.audiences.get(each.plan, Audience()), catalogue.currency), indent=2)
    changed = {each.plan for each in found.differences}
    same = [name for name in catalogue.plans if name not in changed]
    if same:
        _say(f"as stored: {', '.join(same)}")
    for holding in holdings(found.audiences.values()):
        if words := moved_words(holding, catalogue.addons.get(holding.addon)):
            _say(words)


def _review_parts(found: Review) -> dict[str, object]:
    differences = [
        {"plan": each.plan, "kind": each.kind, "words": headline(each), "tenants": _audience(found, each.plan)}
        for each in found.differences
    ]
    dropped = [dropped_words(each) for each in found.dropped]
    return {"differences": differences, "next_versions": found.next_versions, "refused": dropped}


def _audience(found: Review, plan: str) -> dict[str, object]:
    audience = found.audiences.get(plan, Audience())
    versions = {_label(plan, version): tenants for version, tenants in audience.versions.items()}
    return {"count": audience.tenants, "versions": versions, "over_a_new_limit": audience.over_tenants}


def _version_parts(plan: str, stored: Stored, audiences: Mapping[str, Audience]) -> list[dict[str, object]]:
    """Of all plans or of one; a tenant's own versions are counted with its plan."""
    return [
        {
            "plan": name,
            "version": version,
            "is_newest": version == last,
            "tenants": audiences.get(name, Audience()).versions[version],
            "tenants_with_overrides": audiences.get(name, Audience()).versions[OWN],
            "definition": stored[name, version].definition(),
        }
        for name, last in newest_versions(stored.keys()).items()
        if plan in ("", name)
        for version in range(1, last + 1)
    ]


def _facts(each: PlanDifference, audience: Audience, currency: str) -> Iterator[Row]:
    """What a difference means for the tenants on the plan."""
    if each.kind == "new":
        return
    by_version = f" ({_by_version(each.plan, audience)})" if audience.tenants else ""
    if each.after is None:
        yield "tenants on it, and billed for it", f"{audience.tenants:,}{by_version}"
        return
    yield "tenants on it", f"{audience.tenants:,}{by_version}"
    after = audience.base_at(each.after.price)
    yield "base prices a month, if all were moved", f"{money_text(audience.base)} -> {money_text(after)} {currency}"
    yield "over a new limit today, if moved", f"{audience.over_tenants:,}"
    for over in audience.over:
        yield f"  {over.tenant}", _over(over)
    named = len({over.tenant for over in audience.over})
    if audience.over_tenants > named:
        yield f"  and {audience.over_tenants - named:,} more", ""


def _over(over: Over) -> str:
    used, limit = over.used, over.limit.maximum or 0
    shown = [plain(from_nanos(each)) if over.limit.unit == "money" else str(each) for each in (used, limit)]
    then = "refused" if over.limit.blocks else "charged"
    return f"{limit_name(over.limit.meter, over.limit.window)}: used {shown[0]}, limit {shown[1]}, then {then}"


def _by_version(plan: str, audience: Audience) -> str:
    return ", ".join(f"{_label(plan, version)}: {tenants:,}" for version, tenants in sorted(audience.versions.items()))


def _label(plan: str, version: int) -> str:
    return "with overrides" if version == OWN else f"{plan}@{version}"


def _show_versions(stored: Stored, audiences: Mapping[str, Audience]) -> None:
    newest = newest_versions(stored.keys())
    if not newest:
        _say(f"no plans are stored yet; `{PROGRAM} plans apply FILE` stores those of a file")
        return
    rows: list[Row] = [("version", ">price", ">tenants", "")]
    for plan, last in newest.items():
        audience = audiences.get(plan, Audience())
        for version in range(1, last + 1):
            mark = "newest" if version == last else ""
            price = money_text(stored[plan, version].price)
            rows.append((f"{plan}@{version}", price, f"{audience.versions[version]:,}", mark))
        if own := audience.versions[OWN]:
            rows.append((f"{plan}, with overrides", "", f"{own:,}", ""))
    _table(rows)
    _say_holdings(audiences.values())


def _show_plan(plan: str, stored: Stored, audiences: Mapping[str, Audience]) -> None:
    newest = newest_versions(stored.keys())
    audience = audiences.get(plan, Audience())
    for version in range(1, newest[plan] + 1):
        found = stored[plan, version]
        support = f", support {found.support}" if found.support else ""
        minimum = f", minimum {money_text(found.minimum)}" if found.minimum else ""
        mark = ", newest" if version == newest[plan] else ""
        _say(
            f"{plan}@{version}: price {money_text(found.price)}{minimum}{support}, "
            f"tenants: {audience.versions[version]:,}{mark}"
        )
        forms = limit_forms(found)
        limits = [(limit_name(*key), str(form["limit"]), past_words(form)) for key, form in forms.items()]
        ai = found.definition().get("ai", {})
        settings = [(f"ai {name}", _setting(value), "") for name, value in ai.items()]
        if limits or settings:
            _table([("limit of", ">at most", "past it"), *limits, *settings], indent=2)
    if own := audience.versions[OWN]:
        _say(f"{plan}, with overrides: tenants: {own:,}")
    _say_holdings([audience])


def _say_holdings(audiences: Iterable[Audience]) -> None:
    for holding in holdings(audiences):
        _say(holding_words(holding))


def _setting(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _versions(versions: Mapping[str, int]) -> str:
    return ", ".join(f"{plan}@{version}" for plan, version in versions.items())


def _size(catalogue: Catalogue) -> str:
    sizes = [(len(catalogue.plans), "plan"), (len(catalogue.meters), "meter")]
    sizes += [(len(catalogue.addons), "add-on")] if catalogue.addons else []
    return ", ".join(f"{number} {what}{'' if number == 1 else 's'}" for number, what in sizes)


def _table(rows: Iterable[Row], *, indent: int = 0) -> None:
    """Columns two blanks apart. Where the first row's name begins with >, they hold numbers."""
    rows = [*rows]
    if not rows:
        return
    numbers = [name.startswith(">") for name in rows[0]]
    rows[0] = [name.removeprefix(">") for name in rows[0]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(numbers))]
    for row in rows:
        cells = zip(row, widths, numbers, strict=True)
        aligned = (text.rjust(width) if number else text.ljust(width) for text, width, number in cells)
        _say(" " * indent + "  ".join(aligned).rstrip())


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201
