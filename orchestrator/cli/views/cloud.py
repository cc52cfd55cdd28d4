"""Show launches: the quote before, the state during, the receipt after. An unknown figure is never shown as 0."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from orchestrator.cli.views.console import err, line, out, table
from orchestrator.cloud import deployments
from orchestrator.cloud.backend import Backend, CloudError, Deployment, Options, Receipt, RemoteRecords
from orchestrator.cloud.launch import UP, Launch, down, reopen
from orchestrator.cloud.progress import waiting_for
from orchestrator.cloud.quote import Quote
from orchestrator.cloud.receipt import machine_hours, receipt, spent_usd, usd_an_hour
from orchestrator.errors import command_line
from orchestrator.records.index import find_definition
from orchestrator.records.reader import read_trials
from orchestrator.storage import Storage, open_storage, storage_to_read
from orchestrator.sweep.text import about, plural
from trm_data.settings import strict_json

TIMER_SILENT_S = 300.0
"""Time without a sign of life after which the timer on the head may be gone: it gives one every minute."""
DRIVER_S = 600.0
"""Time for which `logs -f` waits for a driver to start."""
LOCAL_STATES = ("new", "starting", "down")
"""States in which the machine has no records that could be asked for."""


def quote_as_json(quote: Quote) -> str:
    """Return a quote as JSON; null is an unknown figure."""
    return strict_json(quote.plain(), indent=1)


def show_quote(quote: Quote, *, on_error: bool = False) -> None:
    """Print machines, prices, hours and dollars; on standard error where a command prints its result later."""
    console = err if on_error else out
    done = f", of which {quote.num_finished} have finished" if quote.num_finished else ""
    console.print(line((quote.name, "bold"), f" on {quote.backend}: {plural(quote.num_trials, 'trial')}{done}"))
    rows = table("machine", "count", "GPU", "USD/h", "spot USD/h", "price of", right=("count", "USD/h", "spot USD/h"))
    for offer in quote.offers:
        gpus = f"{offer.num_gpus} {offer.gpu or 'GPU'}" if offer.num_gpus else "-"
        dated = ", ".join(filter(None, (offer.provider, offer.price_source, offer.price_date)))
        rows.add_row(
            offer.machine, str(offer.count), gpus, _usd(offer.usd_per_hour), _usd(offer.spot_usd_per_hour), dated or "-"
        )
    console.print(rows)
    slots = " + ".join(f"{count} on {name}" for name, count in quote.slots.items()) or "none"
    console.print(f"trials at once: {slots}")
    console.print(
        f"machines up: {_hours(quote.hours)}; the longer time has a first installation and "
        f"{quote.limits.idle_minutes:g} min idle at the end"
    )
    console.print(line("cost: ", (_range(quote.usd), "bold"), f"; {_usd(quote.usd_per_hour)} an hour"), soft_wrap=True)
    for text in quote.misfits:
        console.print(line(("will not fit", "yellow"), f": {text}"), soft_wrap=True)
    if quote.uploads:
        console.print(f"uploaded: {quote.uploads}", soft_wrap=True)
    for text in quote.unknown:
        console.print(text, style="dim", soft_wrap=True)
    console.print(_limits(quote), soft_wrap=True)


def show_up(launch: Launch, storage: str, as_json: bool) -> None:
    """Print which machines are up, and the next commands."""
    store = open_storage(storage)
    deployment = deployments.load(store, launch.sweep.name)
    if as_json:
        print(strict_json(deployment.plain(), indent=1))
        return
    machines = plural(len(deployment.machines), "machine")
    out.print(line((deployment.name, "bold"), f": {machines} up: ", ", ".join(m.name for m in deployment.machines)))
    _show_commands(deployment, ("submit", "status", "down"))


def show_submitted(deployment: Deployment, as_json: bool) -> None:
    """Print that the driver runs, and the next commands."""
    if as_json:
        print(strict_json(deployment.plain(), indent=1))
        return
    where = ", ".join(machine.name for machine in deployment.machines)
    out.print(line((deployment.name, "bold"), f" runs on {where}; this terminal may be closed"))
    _show_commands(deployment, ("status", "logs", "down"))


class Named(NamedTuple):
    """Name a launch: the sweep, the storage, and the machines where its record is not in that storage."""

    name: str
    storage: str
    options: Options | None = None

    def reopen(self) -> tuple[Backend, Deployment]:
        """Return the backend and the deployment as it is now."""
        return reopen(self.name, open_storage(self.storage), self.options)


def show_status(named: Named, as_json: bool) -> None:
    """Print the sweep from its records, then machines and cost, then the next commands."""
    name, storage = named.name, named.storage
    backend, deployment = named.reopen()
    is_away = deployment.is_remote and deployment.state not in LOCAL_STATES
    found = _receipt(backend, deployment, storage)
    if as_json:
        sweep: Any = None
        if is_away and isinstance(backend, RemoteRecords):
            sweep = json.loads(backend.status(deployment, True) or "null")
        elif find_definition(open_storage(storage), name) is not None:
            from orchestrator.api.status import status
            from orchestrator.cli.views.status import summary

            sweep = summary(status(name, open_storage(storage)))
        values = {"deployment": deployment.plain(), "cost": found.plain(), "sweep": sweep}
        print(strict_json(values, indent=1))
        return
    if is_away and isinstance(backend, RemoteRecords):
        out.print(backend.status(deployment, False).rstrip(), soft_wrap=True)
    elif find_definition(open_storage(storage), name) is not None:
        from orchestrator.cli.views.status import show

        show(name, storage, as_json=False)
    if deployment.state in ("new", "starting"):
        since = time.strftime("%H:%M", time.localtime(deployment.created_s))
        out.print(f"its machines are being set up since {since}; no trial runs yet")
    if deployment.ended_why:
        out.print(line(("ended", "yellow"), f": {deployment.ended_why}"), soft_wrap=True)
    _show_receipt(found)
    verbs = {"ended": ("down",), "down": (), "up": ("submit", "down"), "starting": ("down",), "new": ("down",)}
    _show_commands(deployment, verbs.get(deployment.state, ("logs", "stop", "down")))


def show_deployments(url: str, as_json: bool) -> None:
    """Print all deployments of a storage, those that may still be billed first."""
    storage, now_s = storage_to_read(url), time.time()
    found, unreadable = [], []
    for name in deployments.names(storage):
        try:
            found.append(deployments.load(storage, name))
        except CloudError as error:
            unreadable.append(str(error))
    found.sort(key=lambda one: (one.state == "down", -one.created_s))
    if as_json:
        print(strict_json([one.plain() | {"usd": spent_usd(one.machines, now_s)} for one in found], indent=1))
    elif found:
        numbers = ("machines up", "hours", "USD")
        rows = table("sweep", "on", "state", *numbers, "where", right=numbers, drop=("where", "hours"))
        for one in found:
            up = sum(machine.down_s is None for machine in one.machines)
            cost = spent_usd(one.machines, now_s)
            hours = sum(machine_hours(machine, now_s) for machine in one.machines)
            where = ", ".join(dict.fromkeys(machine.name for machine in one.machines))
            usd = "unknown" if cost is None else f"{cost:,.2f}"
            rows.add_row(one.name, one.backend, one.state, str(up), f"{hours:.3g}", usd, where)
        out.print(rows)
    elif not unreadable:
        out.print(
            f"no launch in {storage.url}: `{command_line('cloud', 'plan', 'demo', storage=url)}` shows what one costs"
        )
    for text in unreadable:
        err.print(line(("skipped", "yellow"), f" {text}"), soft_wrap=True)


def show_cost(named: Named, as_json: bool) -> None:
    """Print what a deployment has cost so far."""
    backend, deployment = named.reopen()
    found = _receipt(backend, deployment, named.storage)
    if as_json:
        print(strict_json(found.plain(), indent=1))
    else:
        _show_receipt(found)


def show_logs(named: Named, follow: bool) -> int:
    """Print the events of a sweep from its records. Return the exit status."""
    from orchestrator.cli.views import history

    backend, deployment = named.reopen()
    require_started(deployment)
    if deployment.is_remote and deployment.state != "down" and isinstance(backend, RemoteRecords):
        return backend.logs(deployment, follow)
    store = open_storage(named.storage)
    if follow and deployment.state == "submitted":
        _wait_for_driver(store, named.name)
    (history.follow if follow else history.show_log)(store, named.name, [], False)
    return 0


def _wait_for_driver(storage: Storage, name: str) -> None:
    """Wait until the driver has written the definition of its sweep."""
    deadline_s = time.monotonic() + DRIVER_S
    if find_definition(storage, name) is None:
        with waiting_for(f"the driver of {name} starts"):
            while find_definition(storage, name) is None and time.monotonic() < deadline_s:
                time.sleep(2)
                if deployments.load(storage, name).state in deployments.OVER:
                    return


def show_down(named: Named, keep: bool, forget: bool, as_json: bool) -> None:
    """End a deployment and print what was ended, what is left, and the receipt."""
    name, storage = named.name, named.storage
    store = open_storage(storage)
    if not forget and (named.options is not None or deployments.find(store, name) is None):
        named.reopen()
    deployment, closing = down(name, store, keep, forget)
    found = receipt(deployment, read_trials(store, name), time.time())
    if as_json:
        values = {"ended": list(closing.ended), "left": list(closing.left), "receipt": found.plain()}
        print(strict_json(values, indent=1))
        return
    for text in closing.ended:
        out.print(text, soft_wrap=True)
    for text in closing.left:
        out.print(line(("left", "yellow"), f": {text}"), soft_wrap=True)
    if not closing.left:
        out.print("nothing is left")
    _show_receipt(found)
    out.print(f"next: {command_line('sweep', 'status', name, storage=storage)}", soft_wrap=True)


def show_stopped(named: Named) -> None:
    """Ask the driver to stop, and print what goes on costing money."""
    backend, deployment = named.reopen()
    require_started(deployment)
    if deployment.state == "down":
        raise CloudError(f"deployment {named.name!r} is down: nothing runs", "Launch it again with `trm cloud submit`")
    out.print(backend.stop(deployment), soft_wrap=True)
    up = [machine for machine in deployment.machines if machine.down_s is None]
    stay, costs = ("stays", "costs") if len(up) == 1 else ("stay", "cost")
    out.print(
        f"{plural(len(up), 'machine')} {stay} up and {costs} {_usd(usd_an_hour(up))} an hour; without a driver the "
        f"timer ends the launch after {deployment.limits.idle_minutes:g} min",
        soft_wrap=True,
    )
    _show_commands(deployment, ("submit", "down"))


def require_started(deployment: Deployment) -> None:
    """Raise CloudError for a deployment whose machines are only being set up."""
    if deployment.state in ("new", "starting"):
        raise CloudError(
            f"{deployment.name} is not running yet: its machines are being set up",
            f"`trm cloud status {deployment.name}` shows its cost, `trm cloud down {deployment.name}` ends it",
        )


def _receipt(backend: Backend, deployment: Deployment, storage: str) -> Receipt:
    if deployment.is_remote and deployment.state not in LOCAL_STATES and isinstance(backend, RemoteRecords):
        return backend.receipt(deployment)
    store = open_storage(storage)
    found = receipt(deployment, read_trials(store, deployment.name), time.time())
    if not backend.has_timer or deployment.state not in UP:
        return found
    age_s = deployments.timer_age_s(store, deployment.name)
    warning = _timer_warning(age_s, command_line("cloud", "down", deployment.name, storage=storage))
    unknown = found.unknown if warning is None else (*found.unknown, warning)
    return found.model_copy(update={"timer_age_s": age_s, "unknown": unknown})


def _timer_warning(age_s: float | None, end: str) -> str | None:
    """Return what is wrong with the timer on the head, and what to do; None where it was seen lately."""
    if age_s is not None and age_s < TIMER_SILENT_S:
        return None
    seen = "has not been seen yet" if age_s is None else f"was last seen {about(age_s)} ago"
    return (
        f"the timer on the head {seen}: if it does not run, machines go on billing. `trm cloud submit` starts it "
        f"again, `{end}` ends the machines"
    )


def _show_receipt(found: Receipt) -> None:
    planned = f"planned {_range(found.planned_usd)}, {_hours(found.planned_hours)}"
    spent = f"spent {_usd(found.usd)} in {found.machine_hours:.3g} machine hours"
    out.print(line((spent, "bold"), f"; {planned}"), soft_wrap=True)
    idle = f"no trial ran in {found.idle_hours:.3g} of these hours ({_usd(found.idle_usd)})"
    lost = f", {found.lost_hours:.3g} h of trials were lost with a machine or a driver" if found.lost_hours else ""
    out.print(f"{plural(found.trials, 'trial')}; {idle}{lost}", soft_wrap=True)
    if found.assumed_usd_per_hour is not None or found.billed_usd_per_hour is not None:
        billed = (
            "as assumed, none is reported" if found.billed_usd_per_hour is None else _usd(found.billed_usd_per_hour)
        )
        out.print(f"price an hour: assumed {_usd(found.assumed_usd_per_hour)}, billed {billed}", style="dim")
    if found.timer_age_s is not None:
        out.print(f"timer on the head: last seen {about(found.timer_age_s)} ago", style="dim")
    for text in found.unknown:
        out.print(text, style="yellow" if text.startswith("the timer") else "dim", soft_wrap=True)


def _show_commands(deployment: Deployment, verbs: Sequence[str]) -> None:
    for command in deployment.commands:
        if not _is_one_command(command):  # whoever writes the record would have it pasted into a shell
            continue
        if any(command.startswith(f"trm cloud {verb} ") for verb in verbs):
            out.print(f"  {command}", soft_wrap=True)


def _is_one_command(command: str) -> bool:
    """Return whether a shell would take a line as one command with plain words."""
    try:
        return command.isprintable() and shlex.join(shlex.split(command)) == command
    except ValueError:
        return False


def _usd(value: float | None) -> str:
    return "unknown" if value is None else f"${value:,.2f}"


def _range(values: tuple[float, float] | None) -> str:
    return "unknown" if values is None else f"${values[0]:,.2f} to ${values[1]:,.2f}"


def _hours(values: tuple[float, float] | None) -> str:
    return "unknown time" if values is None else f"{about(values[0] * 3600)} to {about(values[1] * 3600)}"


def _limits(quote: Quote) -> str:
    limits = quote.limits
    usd = "no limit of dollars" if limits.max_usd is None else f"at most {_usd(limits.max_usd)}"
    hours = "" if limits.max_hours is None else f", at most {limits.max_hours:g} h"
    if not quote.has_timer:
        return (
            f"no timer counts machine hours there: the driver ends by the prices of its trials: {usd}{hours}; machines "
            f"end after {limits.idle_minutes:g} min without a driver"
        )
    usd += "" if limits.max_usd is None else " of machine hours"
    return f"the timer on the head ends everything: {usd}{hours}, {limits.idle_minutes:g} min without a driver"
