"""Files of `compress` are data of unknown origin: one clear line says what is wrong with a file."""

import io
import struct
import zlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core.errors import UserError
from tests.small_vaes import model, some_images
from tests.spies import spy
from tests.vae import kept
from vae import lengths, partial
from vae.beta import BetaVAE
from vae.bitsback import BitsBack, Parts, compressor
from vae.container import BLOCK, CRC, HEADER, Header, Packer, Reader, blocks_of, fingerprint, write
from vae.rate import RateConfig


@pytest.fixture(scope="module")
def written():
    """A model, 60 images, and their file in blocks of 25."""
    with torch.no_grad():
        method = model("beta")
        images = some_images(method, 60)
        file = io.BytesIO()
        codec = compressor(method, batch=16)
        write(file, codec, fingerprint(method), blocks_of(images, 25), 60, 25)
    return method, images, file.getvalue()


def read(data: bytes, method: BetaVAE) -> np.ndarray:
    with torch.no_grad():
        reader = Reader("given.tb", io.BytesIO(data))
        reader.check_model(fingerprint(method))
        codec = compressor(method, batch=reader.header.batch)
        return np.concatenate([reader.decode(codec, i) for i in range(len(reader.blocks))])


def sealed(data: bytes, **fields: object) -> bytes:
    """The file with other fields in its header, and checksums that agree."""
    header = Header(*HEADER.unpack_from(data)[2:])._replace(**fields)
    body = header.packed() + data[HEADER.size + CRC.size : -CRC.size]
    return body + CRC.pack(zlib.crc32(body))


def test_images_come_back_and_each_block_alone(written):
    method, images, data = written
    assert (read(data, method) == images).all()
    with torch.no_grad():
        reader = Reader("given.tb", io.BytesIO(data))
        assert [block.images for block in reader.blocks] == [25, 25, 10]
        alone = reader.decode(compressor(method, batch=16), 1)
    assert (alone == images[25:50]).all()


def test_every_flipped_bit_is_noticed(written):
    method, _, data = written
    rng = np.random.default_rng(0)
    places = [*range(8 * (HEADER.size + 40)), *rng.integers(0, 8 * len(data), 1000).tolist()]
    for place in places:
        wrong = bytearray(data)
        wrong[place // 8] ^= 1 << place % 8
        with pytest.raises(UserError, match=r"^given.tb: (is damaged|was not written|has format)"):
            read(bytes(wrong), method)


def test_a_file_that_is_cut_short_or_too_long_is_noticed(written):
    method, _, data = written
    for size in range(0, len(data), 7):
        with pytest.raises(UserError, match=r"^given.tb: is damaged"):
            read(data[:size], method)
    with pytest.raises(UserError, match="is damaged"):
        read(data + b"\0", method)


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"total": 10**12}, "claims 1,000,000,000,000 images, but is too short"),
        ({"total": 10**12, "block": 2**16}, "claims 1,000,000,000,000 images, but is too short"),
        ({"total": 61}, "impossible numbers"),
        ({"total": 26}, "impossible numbers"),
        ({"total": 50}, "longer than its header says"),
        ({"total": 0}, "impossible numbers"),
        ({"block": 2**31}, "impossible numbers"),
        ({"block": 24}, "impossible numbers"),
        ({"spacing": 200}, "impossible numbers"),
        ({"reach": 200}, "impossible numbers"),
        ({"kind": 9}, "impossible numbers"),
        ({"batch": 0}, "impossible numbers"),
        ({"model": bytes(32)}, "was written with another model"),
        ({"spacing": 9}, "can not be decoded here"),
        ({"batch": 3}, "can not be decoded here"),
    ],
)
def test_a_header_that_lies_is_one_line_although_its_checksums_agree(written, fields, said):
    method, _, data = written
    with pytest.raises(UserError, match=said) as found:
        read(sealed(data, **fields), method)
    assert "\n" not in str(found.value)


def test_blocks_that_lie_about_their_size_are_refused_before_anything_is_allocated(written):
    method, _, data = written
    first = HEADER.size + CRC.size
    for kind, offset, value, said in (
        ("<I", 0, 2**32 - 1, "impossible"),
        ("<I", 4, 2**32 - 1, "impossible"),
        ("<I", 4, 0, ""),
        ("<H", 8, 0, "impossible"),
        ("<H", 8, 1025, "impossible"),
    ):
        body = bytearray(data[: -CRC.size])
        struct.pack_into(kind, body, first + offset, value)
        with pytest.raises(UserError, match=f"is damaged: a block .*{said}"):
            read(bytes(body) + CRC.pack(zlib.crc32(body)), method)


def test_decoded_pixels_are_compared_with_the_checksum_of_those_that_were_coded(written):
    method, images, _ = written
    file, first = io.BytesIO(), HEADER.size + CRC.size
    with torch.no_grad():
        write(file, compressor(method, batch=16), fingerprint(method), [images], 60, 60)
    head, block = file.getvalue()[:first], bytearray(file.getvalue()[first : -2 * CRC.size])
    block[BLOCK.size - 1] ^= 1  # of the checksum of the pixels
    data = head + block + CRC.pack(zlib.crc32(block))
    with pytest.raises(UserError, match=r"block 0 .*\(the decoded pixels have another checksum"):
        read(data + CRC.pack(zlib.crc32(data)), method)


def test_the_bits_of_a_file_are_the_sums_over_its_blocks(written):
    method, images, data = written
    with torch.no_grad():
        codec, file = compressor(method, batch=16), io.BytesIO()
        total = write(file, codec, fingerprint(method), blocks_of(images, 25), 60, 25)
        grid = Reader("given.tb", io.BytesIO(data)).header.grid
        each = [codec.encode(block, grid)[1] for block in blocks_of(images, 25)]
    assert len(each) == 3 and min(parts.start for parts in each) > 0
    assert total == pytest.approx([sum(of) for of in zip(*each, strict=True)])


def test_another_version_and_another_file_are_named(written):
    method, _, data = written
    newer = data[:8] + struct.pack("<H", 7) + data[10:]
    with pytest.raises(UserError, match="format version 7, but this program reads 2"):
        read(newer, method)
    with pytest.raises(UserError, match="was not written by `compress`"):
        read(b"PK\3\4" + bytes(500), method)


def test_another_model_is_refused_and_training_settings_are_no_part_of_a_model(written):
    method, _, data = written
    other = model("beta")
    other.decoder[0].bias.data[0] += 2**-20
    with pytest.raises(UserError, match="another model"):
        read(data, other)
    same = model("beta")
    same.schedule.price.fill_(3.0)
    assert fingerprint(same) == fingerprint(method)
    same.config = replace(same.config, stem="imagenet")
    assert fingerprint(same) != fingerprint(method)


def test_a_file_from_another_machine_decodes():
    """kept.tb was made once; its images are known by their hash."""
    images = read(kept.FILE.read_bytes(), kept.model())
    assert images.shape == (80, 1, 8, 8) and kept.digest(images) == kept.IMAGES


def test_a_schedule_of_the_price_is_no_part_of_a_model(written):
    """It changes the training, but not the meaning of the weights; other settings do."""
    method, _, data = written
    same = model("beta")
    same.config = replace(same.config, rate=RateConfig("target_rate", nats=3.0))
    assert fingerprint(same) == fingerprint(method) and len(read(data, same)) == 60
    for key, value in (("latent", 99), ("likelihood", "normal"), ("decoder", "residual")):
        other = model("beta")
        object.__setattr__(other.config, key, value)
        assert fingerprint(other) != fingerprint(method), key


def test_a_check_decodes_every_block_and_finds_a_wrong_pixel(written, monkeypatch):
    method, images, data = written
    codec, decode, seen = compressor(method, batch=16), BitsBack.decode, []

    def wrong(self, stack, grid, count, *rest):
        seen.append(count)
        made = decode(self, stack, grid, count, *rest)
        if len(seen) == 2:
            made[0, 0, 0, 0] ^= 255
        return made

    monkeypatch.setattr(BitsBack, "decode", wrong)

    def words():
        return fingerprint(method), blocks_of(images, 25), 60, 25

    with torch.no_grad():
        write(file := io.BytesIO(), codec, *words())
        assert not seen and file.getvalue() == data
        with pytest.raises(UserError, match="a block does not decode to its images"):
            write(io.BytesIO(), codec, *words(), check=True)
    assert seen == [25, 25]


def test_the_codec_in_memory_passes_on_what_it_is_asked(monkeypatch):
    packer = Packer(model("beta"), rows=7)
    images = some_images(packer.method, 3)
    bounds = spy(monkeypatch, lengths, "bound", lambda *_: SimpleNamespace(floored=4.0, r=2.0))
    codes = spy(monkeypatch, lengths, "at_codes", lambda *_: None)
    parts = spy(monkeypatch, partial, "partial", lambda *_: [])
    packer.bound(images, 5, 2)
    packer.at_codes(images, "codes")
    packer.partial(images, [1, 3], 6)
    assert [list(call.values())[1:] for call in (*bounds, *codes, *parts)] == [
        [images, 5, 2], [images, "codes"], [images, [1, 3], 6],
    ]  # fmt: skip
    links = [SimpleNamespace(image=i, content=i / 2, parts=Parts(popped=i)) for i in (2, 0)]
    monkeypatch.setattr(lengths, "moves", lambda *_: links)
    moved = packer.moves(images)
    assert [(move["image"], move["content"], move["popped"]) for move in moved] == [
        (2, 1.0, 2), (0, 0.0, 0),
    ]  # fmt: skip
    assert {(move["d"], move["r"]) for move in moved} == {(4.0, 2.0)}
    for call, place in zip(bounds[1:], (2, 0), strict=True):
        assert (call["images"] == images[place : place + 1]).all()
    read = spy(monkeypatch, Reader, "decode")
    packed = packer.pack(images, 2)
    assert (packer.unpack(packed.data) == images).all() and packed.codes.shape == (3, 4)
    assert [(call["number"], call["codec"].rows) for call in read] == [(0, 7), (1, 7)]
