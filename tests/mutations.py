"""Wrong checkpoints and npz files: values, tensors, the zip's structure, the pickle."""

import io
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

SIZES = [-1, 0, 1, 3, 17, 4096, 2**20, 2**24, 2**31, 2**40, 2**62, 2**63, 2**64, 10**400, 10**5000]
FLOATS = [float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e-320, 1e308, 0.5]
TEXTS = [
    "pipe:touch PWNED", "pipe:touch PWNED |", "http://127.0.0.1:9/x", "s3://bucket/x", "file:///",
    "::pipe:touch PWNED", "{a,b}", " data", "${oc.env:SECRET}", "${seed}", "${oc.decode:x}",
    "\x1b[2J\x1b[31m", "x" * 200_000, "a[/x]", "[b]", "a\0b", "../../../..", "~nosuch", "",
    "vit_giant_patch14_dinov2", "resnet152", "hf-hub:evil/net", "local-dir:/", "hfds/evil/set",
    "wds/x", "tfds/x", "torch/x", "folder", "mnist", "evil_canary.Method", "evil_canary.x.Y",
    "os.system", "vae.vlae.VLAE", "contrastive.moco.MoCo", "999999", "4x2", "full", "flow", "vamp",
    "online", "\ud800", "\u202eabc",
]  # fmt: skip


def bomb(levels: int = 40) -> list[Any]:
    """A list that is small in a file, but has 2^levels elements when it is expanded."""
    made: list[Any] = ["x"]
    for _ in range(levels):
        made = [made, made]
    return made


def hostile_value(draw: random.Random) -> Any:
    kind = draw.randrange(8)
    if kind < 3:
        return draw.choice(SIZES)
    if kind == 3:
        return draw.choice(FLOATS)
    if kind < 6:
        return draw.choice(TEXTS)
    return draw.choice(
        [None, True, [], {}, [1, 2], bomb(), {"a": bomb()}, torch.zeros(2), b"x", {1: 2}, (1,)]
    )


def keys_of(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{key}.")


def change_config(entries: dict[str, Any], draw: random.Random) -> str:
    key = draw.choice(sorted(keys_of(entries["config"])))
    *above, last = key.split(".")
    there = entries["config"]
    for name in above:
        there = there[name]
    value = hostile_value(draw)
    if draw.randrange(20) == 0:
        del there[last]
        return f"config: no {key}"
    there[last] = value
    if key == "data.name":  # data sets that read a root, and one that runs a program
        entries["config"]["data"]["root"] = draw.choice(TEXTS)
    return f"config: {key} = {repr(value)[:40] if isinstance(value, str | float) else type(value)}"


def change_entry(entries: dict[str, Any], draw: random.Random) -> str:
    name = draw.choice(sorted(entries))
    if draw.randrange(4) == 0:
        entries["shape"] = [draw.choice(SIZES[:9]) for _ in range(3)]
        return "shape"
    if draw.randrange(6) == 0:
        del entries[name]
        return f"no {name}"
    entries[name] = hostile_value(draw)
    return f"{name}: {type(entries[name]).__name__}"


def strange_tensors(value: Tensor) -> list[Any]:
    number = value.detach().float() if value.dtype != torch.bool else value
    return [
        value[None],
        value.reshape(-1)[0].expand(value.shape),
        torch.zeros(1).expand(2**20, 2**20),
        value.to(torch.float64),
        value.to(torch.float16),
        value.to(torch.int64),
        value.to(torch.bool),
        torch.view_as_complex(torch.zeros(2, 2)),
        torch.conj(torch.view_as_complex(torch.zeros(2, 2))),
        number.to_sparse(),
        torch.quantize_per_tensor(number.float(), 0.1, 0, torch.qint8),
        torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
        value.to("meta"),
        torch.full_like(value, 2**31) if not value.is_floating_point() else value * float("nan"),
        value * float("inf") if value.is_floating_point() else value.long() - 2**40,
        torch.nn.Parameter(number.float()),
        torch.zeros(value.shape + (0,)),
        torch.zeros(0, 2**40),
        value.numel(),
        [1.0],
        None,
        "x",
        b"xx",
    ]


def change_tensor(entries: dict[str, Any], draw: random.Random) -> str:
    weights = entries["method"]
    key = draw.choice(sorted(weights))
    way = draw.randrange(26)
    if way == 23:
        weights["x" * 1000 + "\x1b[31m"] = weights.pop(key)
    elif way == 24:
        del weights[key]
    elif way == 25:
        other = draw.choice(sorted(weights))
        weights[key], weights[other] = weights[other], weights[key]
    else:
        weights[key] = strange_tensors(weights[key])[way]
    return f"weight {key}: way {way}"


def change_moments(entries: dict[str, Any], draw: random.Random) -> str:
    optimizer = entries["optimizer"]
    way = draw.randrange(10)
    number = draw.choice(sorted(optimizer["state"]))
    kept = optimizer["state"][number]
    if way < 5:
        key = draw.choice(sorted(kept))
        strange = draw.randrange(23)
        kept[key] = strange_tensors(kept[key])[strange]
        return f"moment {key}: way {strange}"
    if way == 5:
        kept[draw.choice(["extra", "max_exp_avg_sq", 3])] = torch.zeros(3)
    elif way == 6:
        optimizer["state"][draw.choice([10**6, -1, "x", 2**40])] = kept
    elif way == 7:
        group = draw.choice(optimizer["param_groups"])
        group[draw.choice(sorted(group))] = hostile_value(draw)
    elif way == 8:
        kept["exp_avg_sq"] = kept["exp_avg"] = torch.ones_like(kept["exp_avg"])
    else:
        optimizer[draw.choice(["state", "param_groups"])] = hostile_value(draw)
    return f"moments: way {way}"


def rezipped(records: list[tuple[str, bytes]], compress: str = "") -> bytes:
    """Records as a zip whose data lie at multiples of 64 bytes, as torch writes it."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        for name, content in records:
            info = zipfile.ZipInfo(name)
            if name == compress:
                info.compress_type = zipfile.ZIP_DEFLATED
            gap = -(target.tell() + 30 + len(name.encode()) + 4) % 64
            info.extra = struct.pack("<HH", 0x4246, gap) + b"Z" * gap
            file.writestr(info, content)
    return target.getvalue()


def change_zip(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        records = [(name, file.read(name)) for name in file.namelist()]
    number = draw.randrange(len(records))
    name, body = records[number]
    way = draw.randrange(14)
    if way == 0:
        return content[: draw.randrange(len(content))], "cut"
    if way in (1, 2, 3):
        made = bytearray(content)
        tail = draw.random() < 0.5  # the directory, which has no checksum
        for _ in range(draw.randrange(1, 4)):
            place = draw.randrange(len(made) - 8000 if tail else 0, len(made))
            made[place] ^= 1 << draw.randrange(8)
        return bytes(made), "flipped"
    if way == 4:
        return rezipped([*records, (name, body[::-1])]), f"twice {name}"
    if way == 5:
        return rezipped(records, compress=name), f"deflated {name}"
    if way == 6:
        records[number] = (draw.choice([f"{name}x", "../x", "/etc/x", "x" * 60000, ""]), body)
        return rezipped(records), f"renamed {name}"
    if way == 7:
        del records[number]
        return rezipped(records), f"without {name}"
    if way == 8:
        records[number] = (name, body[: len(body) // 2])
        return rezipped(records), f"halved {name}"
    if way == 9:
        records[number] = (name, body * 2 + b"x")
        return rezipped(records), f"longer {name}"
    if way == 10:
        return rezipped([*records, *((f"archive/x{i}", b"") for i in range(30_000))]), "many"
    if way == 11:
        return content + bytes(draw.randrange(1, 100)), "longer file"
    if way == 12:
        return bytes(draw.randrange(1, 100)) + content, "shifted file"
    made = bytearray(content)
    start = content.rindex(b"PK\6\6")
    struct.pack_into("<Q", made, start + draw.choice([24, 32, 40, 48]), draw.choice(SIZES[2:11]))
    return bytes(made), "directory"


class Import:
    def __reduce__(self) -> Any:
        return (__import__, ("evil_canary",))


def change_pickle(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        records = {name: file.read(name) for name in file.namelist()}
    name = next(name for name in records if name.endswith("data.pkl"))
    text = records[name]
    way = draw.randrange(9)
    if way == 0:
        text = b"\x80\x02cevil_canary\nMethod\n)R."
    elif way == 1:
        text = b"\x80\x02cos\nsystem\nX\x0b\0\0\0touch PWNED\x85R."
    elif way == 2:
        text = b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\0\0\0\0\0\x40\x85R."
    elif way == 3:
        text = b"\x80\x02]r\xff\xff\xff\xff."
    elif way == 4:
        text = pickle.dumps({"format": "twobounds/1", "config": Import()}, 2)
    elif way == 5:
        text = b"\x80\x05\x96\xff\xff\xff\xff\xff\0\0\0."
    elif way == 6:
        text = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    elif way == 7:  # a storage whose declared size is larger than its record
        place = text.index(b"X\x03\0\0\0cpu")
        numeric = draw.choice(
            [b"J\xff\xff\xff\x7f", b"\x8a\x06\0\0\0\0\0\x40", b"J\xff\xff\xff\xff"]
        )
        end = place + 8
        skip = 2 if text[end + 3 : end + 4] not in b"KMJ" else 0
        text = text[: end + skip] + numeric + text[end + skip + 2 :]
    else:
        made = bytearray(text)
        for _ in range(draw.randrange(1, 5)):
            made[draw.randrange(len(made))] = draw.randrange(256)
        text = bytes(made)
    records[name] = text
    return rezipped(list(records.items())), f"pickle: way {way}"


def mutated(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """A checkpoint's bytes with one or two things changed."""
    way = draw.randrange(10)
    if way == 8:
        return change_zip(content, draw)
    if way == 9:
        return change_pickle(content, draw)
    change: Callable[[dict[str, Any], random.Random], str] = [
        change_config, change_config, change_config, change_entry,
        change_tensor, change_tensor, change_moments, change_moments,
    ][way]  # fmt: skip
    entries = torch.load(io.BytesIO(content), weights_only=True)
    told = change(entries, draw)
    target = io.BytesIO()
    torch.save(entries, target)
    return target.getvalue(), told


def npz(draw: random.Random) -> tuple[bytes, str]:
    """Bytes of an npz of pairs, with at most one fault."""
    rows = draw.choice([60, 200])
    x = np.random.default_rng(draw.randrange(100)).normal(size=(rows, 2))
    arrays: dict[str, Any] = {"x": x, "y": x + 1}
    way = draw.randrange(10)
    name = draw.choice("xy")
    if way == 0:
        arrays[name] = draw.choice(
            [x[:, :1].astype("U9"), x.astype(complex), np.zeros((0, 2)), x[None], np.float64(3),
             x * np.nan, x * np.inf, x[:10], np.array([Import()] * 60), x.astype("f2"),
             x.astype(bool), np.zeros(rows, dtype=[("a", "f8")]), x.astype(np.longdouble)]
        )  # fmt: skip
    if way == 1:
        del arrays[name]
    target = io.BytesIO()
    (np.savez_compressed if draw.randrange(2) else np.savez)(target, **arrays)
    content = target.getvalue()
    if way == 2:
        return content[: draw.randrange(len(content))], "cut"
    if way in (3, 4):
        made = bytearray(content)
        for _ in range(draw.randrange(1, 4)):
            made[draw.randrange(len(made))] ^= 1 << draw.randrange(8)
        return bytes(made), "flipped"
    if way >= 5:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            records = {name: file.read(name) for name in file.namelist()}
        shape = draw.choice(
            ["(1000000000000, 2)", "(-1, 2)", "(2**99,)", "(" * 500, "()", "(3, 9)"]
        )
        descr = draw.choice(
            ["'<f8'", "'|O'", "'<U99999999'", "[('a', '<f8')]", "'|V8'", "'<M8[s]'"]
        )
        text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        header = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
        if way in (5, 6):
            records[f"{name}.npy"] = header + bytes(960)
        elif way == 7:
            records[f"{name}.npy"] = header[: draw.randrange(len(header))]
        elif way == 8:
            records[f"{name}.npy"] = bytes(2**26)
        else:
            records["../x.npy"] = b""
        target = io.BytesIO()
        method = draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
        with zipfile.ZipFile(target, "w", method) as file:
            for key, body in records.items():
                file.writestr(key, body)
        return target.getvalue(), f"header way {way}"
    return content, f"arrays way {way}"
