"""Face. Ask this node's DNS server; set records that no container stands behind."""

from __future__ import annotations

from ipaddress import ip_address

import click

from meshnet.cli import tables, types
from meshnet.cli.output import json_option, print_json, print_table
from meshnet.errors import NotFound
from meshnet.local.agent import Agent
from meshnet.local.settings import Settings
from meshnet.model.names import ZONE
from meshnet.wire.local import DnsAnswer, Done, HostDnsMode, HostDnsRequest, Status

TYPES = ["A", "AAAA", "SRV", "TXT", "PTR", "CNAME", "SOA", "NS", "ANY"]
MODES = ["auto", "file", "off"]
STATIC = ["A", "AAAA", "CNAME", "TXT", "SRV"]


def _complete_type(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return [kind for kind in TYPES if kind.startswith(incomplete.upper())]


@click.group()
def dns() -> None:
    """Ask for a name; let the host ask; set static records.

    \b
      meshnet dns query web
      meshnet dns host file
      meshnet dns set printer A 192.0.2.9
      meshnet dns unset printer A
    """


@dns.command()
@click.argument("name")
@click.argument(
    "kind",
    metavar="[TYPE]",
    required=False,
    type=click.Choice(TYPES, case_sensitive=False),
    shell_complete=_complete_type,
)
@json_option
@click.pass_obj
def query(settings: Settings, name: str, kind: str | None, as_json: bool) -> None:
    """Ask this node's DNS server for NAME. TYPE is A unless given, PTR for an address.

    A name without a dot lies in the zone: `web` is `web.mesh`. Exits with 3 when there is no such
    name or it has no record of that type.

    \b
      meshnet dns query web
      meshnet dns query web.appnet.mesh AAAA
      meshnet dns query _http._tcp.web.mesh SRV
      meshnet dns query 10.214.0.5
    """
    asked, wanted = question(name, kind)
    answer = Agent(settings).get("/v1/dns", DnsAnswer, name=asked, type=wanted)
    if as_json:
        print_json(answer)
    else:
        click.echo(tables.answer_text(answer))
    if not answer.answers:
        raise NotFound(
            f"{asked} has no {wanted} record ({answer.rcode})",
            "See what there is: `meshnet services` and `meshnet nodes`.",
        )


@dns.command()
@click.argument("mode", metavar="[MODE]", required=False, type=click.Choice(MODES))
@json_option
@click.pass_obj
def host(settings: Settings, mode: HostDnsMode | None, as_json: bool) -> None:
    """Show or choose how this host itself asks for the mesh's names.

    \b
    auto  by systemd-resolved where it runs: only the mesh's names come to us (the default)
    file  by /etc/resolv.conf: our server first, the others behind it
    off   not at all

    \b
      meshnet dns host
      meshnet dns host file
    """
    agent = Agent(settings)
    if mode:
        agent.post("/v1/dns/host", HostDnsRequest(mode=mode), Done)
    state = agent.get("/v1/status", Status).dns
    if as_json:
        print_json(state)
    else:
        click.echo(tables.host_dns_text(state))


def question(name: str, kind: str | None) -> tuple[str, str]:
    """Return the name and type to ask for: zone and reverse name filled in."""
    try:
        return ip_address(name).reverse_pointer, kind or "PTR"
    except ValueError:
        full = name if "." in name else f"{name}.{ZONE}"
        return full, kind or "A"


@dns.command(name="set")
@click.argument("name")
@click.argument("kind", metavar="TYPE", type=click.Choice(STATIC, case_sensitive=False))
@click.argument("values", nargs=-1, required=True)
@click.option(
    "--ttl",
    type=types.duration,
    default="60s",
    show_default=True,
    metavar="DURATION",
    help="How long resolvers may keep it.",
)
@click.pass_obj
def set_record(settings: Settings, name: str, kind: str, values: tuple[str, ...], ttl: int) -> None:
    """Set the records of NAME and TYPE, on the coordinator's machine; the former ones go.

    NAME is relative to the zone; a `*` may lead it. VALUES are written as in a zone file.

    \b
      meshnet dns set printer A 192.0.2.9
      meshnet dns set '*.lab' AAAA 2001:db8::1 2001:db8::2
      meshnet dns set www CNAME web
      meshnet dns set _ldap._tcp SRV '0 10 389 directory'
    """
    from meshnet.coordinator.admin_client import AdminClient
    from meshnet.model.statements import StaticRecord

    record = StaticRecord(_relative(name), kind, values, ttl)
    AdminClient(settings.coordinator_socket).set_record(record)
    click.echo(f"{record.name}.{ZONE} {kind} is set")


@dns.command()
@click.argument("name")
@click.argument("kind", metavar="TYPE", type=click.Choice(STATIC, case_sensitive=False))
@click.pass_obj
def unset(settings: Settings, name: str, kind: str) -> None:
    """Take the records of NAME and TYPE away, on the coordinator's machine.

    \b
      meshnet dns unset printer A
    """
    from meshnet.coordinator.admin_client import AdminClient

    AdminClient(settings.coordinator_socket).remove_record(_relative(name), kind)
    click.echo(f"{_relative(name)}.{ZONE} {kind} is gone")


@dns.command(name="list")
@json_option
@click.pass_obj
def list_records(settings: Settings, as_json: bool) -> None:
    """List the static records, on the coordinator's machine.

    \b
      meshnet dns list
    """
    from meshnet.cli.admin_tables import records_table
    from meshnet.coordinator.admin_client import AdminClient

    records = AdminClient(settings.coordinator_socket).records()
    if as_json:
        print_json(records)
    else:
        print_table(records_table(records))


def _relative(name: str) -> str:
    return name.lower().removesuffix(".").removesuffix(f".{ZONE}")
