"""Face. Ask this node's DNS server; set records that no container stands behind."""

from __future__ import annotations

from ipaddress import ip_address

import click

from meshnet.cli import tables
from meshnet.cli.local import Agent
from meshnet.cli.output import json_option, print_json
from meshnet.cli.settings import Settings
from meshnet.errors import NotFound
from meshnet.model.names import ZONE
from meshnet.wire.local import DnsAnswer

TYPES = ["A", "AAAA", "SRV", "TXT", "PTR", "CNAME", "SOA", "NS", "ANY"]


def _complete_type(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return [kind for kind in TYPES if kind.startswith(incomplete.upper())]


@click.group()
def dns() -> None:
    """Ask for a name; set static records.

    \b
      meshnet dns query web
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


def question(name: str, kind: str | None) -> tuple[str, str]:
    """Return the name and type to ask for: zone and reverse name filled in."""
    try:
        return ip_address(name).reverse_pointer, kind or "PTR"
    except ValueError:
        full = name if "." in name else f"{name}.{ZONE}"
        return full, kind or "A"
