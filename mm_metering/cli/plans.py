"""``mm-metering plans``: a plans file written, checked, compared with the ledger, and stored as new versions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from mm_metering import catalogues
from mm_metering.billing.plan_review import Review, count, dropped_words, refuse_dropped, review, store, stored_plans
from mm_metering.billing.shadow import ShadowPlans
from mm_metering.cli import attack, push
from mm_metering.cli.host import PROGRAM, REASON, by_hand, load, refuse_memory
from mm_metering.cli.shadow import show as show_shadow
from mm_metering.cli.show import bar, count_tenants
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

if TYPE_CHECKING:
    import typer

T = TypeVar("T")
Row = Sequence[str]


def commands() -> typer.Typer:
    """The group ``plans``."""
    import typer

    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Write, check, compare and apply plans.")
    host = typer.Option(
        "", envvar="MM_METERING_APP", metavar="MODULE:NAME", help="Your Metering; else one from MM_METERING_*."
    )
    plans_file = typer.Argument(..., metavar="FILE", help="The plans file, such as plans.toml.")

    @group.command()
    def init(
        file: str = typer.Argument("plans.toml", metavar="[FILE]", help="Where to; plans.toml if absent."),
    ) -> None:
        """Write a short plans file with comments. A file that is there stays as it is."""
        catalogues.write_starter(file)
        _say(f"wrote {file}: {_size(catalogues.load(file))}; next: {PROGRAM} plans diff {file}")

    @group.command()
    def validate(file: str = plans_file) -> None:
        """Read a plans file and check every rule. What is wrong is told with its line."""
        _say(f"ok: {_size(catalogues.load(file))}")

    @group.command()
    def diff(file: str = plans_file, *, app: str = host) -> None:
        """What differs from the newest plans in the ledger, and what it would mean for the tenants on them if they were
        moved. Nothing is written."""
        catalogue = catalogues.load(file)
        found = on_ledger(app, lambda metering: _reviewed(metering, catalogue))
        _show_review(found, catalogue)
        for each in found.dropped:
            _say(f"apply would refuse it: {dropped_words(each)}")

    @group.command()
    def apply(
        file: str = plans_file,
        *,
        dry_run: bool = typer.Option(False, "--dry-run", help="Say what would be stored, and store nothing."),  # noqa: FBT003
        reason: str = typer.Option("", "--reason", help=REASON),
        app: str = host,
    ) -> None:
        """Store what differs as new versions. Tenants keep the version that they are on."""
        with by_hand(reason):
            apply_file(file, app, dry_run=dry_run)

    @group.command()
    def shadow(
        file: str = plans_file,
        *,
        json: bool = typer.Option(False, "--json", help="The whole value as JSON, amounts as exact strings."),  # noqa: FBT003
        tenant: str = typer.Option("", "--tenant", help="This tenant alone, with all of its limits."),
        app: str = host,
    ) -> None:
        """What a plans file would have decided and billed in the running day and month, by what is in the ledger.
        Nothing is written."""
        catalogue = catalogues.load(file)
        found = on_ledger(app, lambda metering: _shadowed(metering, catalogue, tenant or None, knows_plans=bool(app)))
        if json:
            _say(found.model_dump_json(indent=2))
        else:
            show_shadow(found, file)

    @group.command()
    def show(plan: str = typer.Argument("", metavar="[PLAN]", help="With its limits."), *, app: str = host) -> None:
        """The stored versions of each plan, and how many tenants are on each now."""
        stored, audiences = on_ledger(app, _counted)
        if plan:
            _show_plan(plan, stored, audiences)
        else:
            _show_versions(stored, audiences)

    @group.command("push")
    def push_prices(
        *,
        dry_run: bool = typer.Option(False, "--dry-run", help="Say what would be made, and make nothing."),  # noqa: FBT003
        app: str = host,
    ) -> None:
        """Make the plans' prices at the payment provider, and say of each what there is. None is changed. Exit code 1
        where one is priced otherwise there."""
        found = push.push(app, dry_run=dry_run)
        _table(push.table(found))
        if words := push.trouble(found):
            _say(words)
            raise typer.Exit(1)

    attack.register(group)
    return group


# -- with a ledger -----------------------------------------------------------------------------------------------------


def on_ledger(app: str, work: Callable[[Metering], Awaitable[T]], *, applies: bool = False) -> T:
    """What ``work`` returns, on the ledger of the app's Metering or of the environment; counters and the app's own
    plans are left alone. ``applies``: its schema may be made ready where that needs no asking."""
    own = {"catalogue": catalogues.seed, "counters": "memory://", "journal": "off"}
    metering = load(app) if app else Metering.from_env(**own)
    refuse_memory(metering.places[1], "ledger")
    return asyncio.run(_opened(metering, work, applies=applies))


async def _opened(metering: Metering, work: Callable[[Metering], Awaitable[T]], *, applies: bool) -> T:
    try:
        await metering.ledger.setup(apply=applies and await metering.ledger.may_apply())
        return await work(metering)
    finally:
        await metering.aclose()


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


def apply_file(file: str, app: str, *, dry_run: bool) -> None:
    """Prints the difference and the versions that it made; CatalogueError for a file that drops what is in use."""
    catalogue = catalogues.load(file)

    async def work(metering: Metering) -> None:
        found = await _reviewed(metering, catalogue)
        refuse_dropped(found, file)
        _show_review(found, catalogue)
        if not found.to_store:
            _say("nothing to apply")
        elif dry_run:
            _say(f"dry run, nothing was stored; it would be: {_versions(found.next_versions)}")
        else:
            made = await store(metering.ledger, found, file=file, now=metering.clock.now(), act=metering.act())
            _say(f"stored: {_versions(made)}")

    on_ledger(app, work, applies=not dry_run)


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
    if plan not in newest:
        raise InvalidInput("plan", unknown("stored plan", plan, newest))
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
