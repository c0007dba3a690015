"""Read W&B's file of an offline run: LevelDB's log format, each record a protobuf message."""

import json
import time
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER = 32768, 7


def records(path: Path) -> list[Record]:
    """All records of a .wandb file, in order."""
    data, at, whole, found = path.read_bytes(), HEADER, b"", []
    assert data[:4] in (b":W&B", b"")
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # the rest of a block is filled with zeros
            at += BLOCK - at % BLOCK
            continue
        length = int.from_bytes(data[at + 4 : at + 6], "little")
        kind = data[at + 6]
        if kind == 0 or at + HEADER + length > len(data):
            break
        whole += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # a full record, or the last part of one
            record = Record()
            record.ParseFromString(whole)
            found.append(record)
            whole = b""
    return found


def complete(path: Path) -> list[Record]:
    """All records of a run that has ended. W&B's own process writes them, also after the run."""
    until = time.monotonic() + 120
    while not any(r.WhichOneof("record_type") == "exit" for r in records(path)):
        assert time.monotonic() < until, f"{path} has no end"
        time.sleep(0.1)
    return records(path)


def items(entries: Any) -> dict[str, Any]:
    """The key-value items of a record; items with nested keys are dicts in dicts."""
    made: dict[str, Any] = {}
    for item in entries:
        *above, last = item.nested_key or [item.key]
        there = made
        for name in above:
            there = there.setdefault(name, {})
        there[last] = json.loads(item.value_json)
    return made


def history(found: list[Record]) -> list[dict[str, Any]]:
    """Each logged line: name -> value."""
    return [items(r.history.item) for r in found if r.WhichOneof("record_type") == "history"]


def summary(found: list[Record]) -> dict[str, Any]:
    """The summary after all updates."""
    made: dict[str, Any] = {}
    for record in found:
        if record.WhichOneof("record_type") == "summary":
            made |= items(record.summary.update)
    return made
