"""Reports on disk: strict JSON, signed by the user who measured them."""

import json
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.run.checkpoint import write_atomically
from core.run.signing import is_own, sign
from probes.probe import Probe
from probes.report.schema import FORMAT, Report, not_finite

AGAIN = "run `twobounds probe` again"
MOST_BYTES = 2**26
MOST_TEXT = 4096  # characters of one text
TEXTS = ("checkpoint", "digest", "method", "data")
MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError)


def folder_of(checkpoint: Path) -> Path:
    """Where the reports of a checkpoint lie: probe/ for last.ckpt, probe-best/ for best.ckpt."""
    name = "probe" if checkpoint.stem == "last" else f"probe-{checkpoint.stem}"
    return checkpoint.parent / name


def place(checkpoint: Path, identity: dict[str, Any], data: str) -> Path:
    """The folder of a report: `folder_of` the checkpoint, or one beside it that names the data
    where that one already holds a report on other data.
    """
    folder = folder_of(checkpoint)
    try:
        held = load(folder / "probe.json").get("identity", {})
    except UserError:
        return folder
    if not isinstance(held, dict) or held.get("data") == identity["data"]:
        return folder
    prints = [part["fingerprint"] for part in identity["data"].values()]
    word = "".join(c if c.isalnum() else "-" for c in data)
    return folder.with_name(f"{folder.name}-{word}-{prints[-1][:8]}")


def save(report: Report, path: Path) -> None:
    """Write a report atomically, with this user's signature where there is a key."""
    assert not (bad := not_finite(report)), bad
    code = sign([_text(report)])
    signed = report | ({"signature": code.hex()} if code else {})
    text = json.dumps(signed, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))


def load(path: Path, probes: dict[str, Probe] | None = None) -> Report:
    """A report from its file, whoever wrote it: `UserError` where it is none, or where what it
    holds under the name of one of these probes is not what that probe measures.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path}: is larger than any report; {AGAIN}")
        report = json.loads(path.read_bytes(), parse_constant=_refuse)
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{path}: damaged or no report; {AGAIN}") from None
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise UserError(f"{path}: not a report of the format {FORMAT}; {AGAIN}")
    texts = all(isinstance(report.get(key), str) for key in TEXTS)
    whole = all(type(report.get(key)) is int for key in ("step", "seed"))
    if not (texts and whole and _plain(report)):
        raise UserError(f"{path}: holds what no report holds; {AGAIN}")
    for name, probe in (probes or {}).items():
        if name in report:
            try:
                probe.cells(report[name]), probe.headline(report[name])
                probe.sentences(report[name])
            except MALFORMED:
                raise UserError(f"{path}: its part '{name}' is damaged; {AGAIN}") from None
    return report


def earlier(path: Path, report: Report) -> Report:
    """The numbers that this user measured before on the same weights, data, seed and versions:
    {PROBE: ...}, with their "options".

    A report that somebody else wrote is moved to probe-of-others.json and never mixed with ours.
    """
    try:
        held = load(path)
    except UserError:
        return {}
    code = held.pop("signature", "")
    if not is_own([_text(held)], bytes.fromhex(code) if _hexadecimal(code) else b""):
        path.replace(path.with_name("probe-of-others.json"))
        print(f"{path}: was not written by this user; it is kept as probe-of-others.json")
        return {}
    return held if held.get("identity") == report["identity"] else {}


def _text(report: Report) -> bytes:
    """What the signature is made of: the report as it reads after a way through JSON."""
    return json.dumps(json.loads(json.dumps(report)), sort_keys=True).encode()


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _hexadecimal(code: Any) -> bool:
    return isinstance(code, str) and len(code) == 64 and set(code) <= set("0123456789abcdef")


def _plain(held: Any) -> bool:
    """Whether all numbers and texts are of a size that can be shown."""
    if isinstance(held, dict):
        return all(_plain(key) and _plain(part) for key, part in held.items())
    if isinstance(held, list):
        return all(map(_plain, held))
    if isinstance(held, str):
        return len(held) <= MOST_TEXT and held.isprintable()
    return held is None or abs(held) < 1e300
