"""Mutations of files: of bytes, JSON, safetensors headers and members of zip files."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from typing import Any

Broken = bytes

NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, 10**40, 0.5, -0.0, 1e308, "", "a" * 2000, "../../x",
    "/etc/passwd", "\x00", "\ud800", "{}", "os.system", "torch.load", [], {}, [[]], [0] * 300, {"": {}}, [[[[]]]],
    "NaN", "float32", "BatchTopK", "SparseAutoencoder", "cuda", "meta",
)  # fmt: skip
"""Values that readers tend not to think of."""

PICKLE = b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x05mkdir\x93\x8c\x0bfuzz-pickle\x85R."
"""Makes the folder ``fuzz-pickle`` where it is unpickled on a POSIX system: nothing may."""


def broken(content: bytes, name: str, random: random.Random) -> Broken:
    """Returns the content of a file with one to four mutations."""
    for _ in range(random.randint(1, 4)):
        ways = [_bytes]
        if name.endswith(".json"):
            ways += [_json] * 3
        if name.endswith(".safetensors"):
            ways += [_header] * 3
        if name.endswith((".pt", ".npz")):
            ways += [_zipped] * 3
        if random.random() < 0.02:
            return random.choice([b"", PICKLE, b"PK\x03\x04" + content[:200], b"[" * 10**6, b"9" * 10**6, b"\x00" * 64])
        content = random.choice(ways)(content, random)
    return content


def _bytes(content: bytes, random: random.Random) -> bytes:
    data = bytearray(content)
    # Most errors are possible in headers, which are at the beginning.
    place = random.randrange(min(len(data), random.choice([16, 300, len(data) or 1])) or 1) if data else 0
    way = random.randrange(6)
    if way == 0:
        del data[place:]
    elif way == 1 and data:
        data[place] ^= 1 << random.randrange(8)
    elif way == 2 and data:
        data[place] = random.randrange(256)
    elif way == 3:
        data[place:place] = random.randbytes(random.randint(1, 32))
    elif way == 4:
        del data[place : place + random.randint(1, 64)]
    else:
        data[place:place] = data[place : place + random.randint(1, 256)]
    return bytes(data)


def _json(content: bytes, random: random.Random) -> bytes:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return _bytes(content, random)
    return json.dumps(_changed(document, random)).encode()


def _changed(document: Any, random: random.Random) -> Any:
    """Replaces, removes, renames, doubles or wraps one value somewhere in a document."""
    if isinstance(document, dict) and document and random.random() < 0.85:
        key = random.choice(list(document))
        way = random.randrange(5)
        if way == 0:
            return {name: value for name, value in document.items() if name != key}
        if way == 1:
            return {(f"{name}x" if name == key else name): value for name, value in document.items()}
        if way == 2:
            return {**document, str(random.choice(NASTY))[:100]: random.choice(NASTY)}
        return {**document, key: _changed(document[key], random)}
    if isinstance(document, list) and document and random.random() < 0.85:
        place = random.randrange(len(document))
        return [*document[:place], _changed(document[place], random), *document[place + 1 :]]
    if isinstance(document, int) and not isinstance(document, bool) and random.random() < 0.4:
        return document + random.choice([-1, 1, 2**32, -2 * document, document])
    return random.choice(NASTY)


def _header(content: bytes, random: random.Random) -> bytes:
    if len(content) < 8:
        return _bytes(content, random)
    (length,) = struct.unpack("<Q", content[:8])
    if length > len(content) - 8:
        return _bytes(content, random)
    if random.random() < 0.1:
        return struct.pack("<Q", random.choice([0, max(length, 1) - 1, length + 1, 2**31, 2**63])) + content[8:]
    header = _json(content[8 : 8 + length], random)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def _zipped(content: bytes, random: random.Random) -> bytes:
    """Mutates a member of a zip file and writes it with valid checksums."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
    except Exception:  # damaged archives may raise any exception
        return _bytes(content, random)
    if not members:
        return _bytes(content, random)
    name = random.choice([name for name in members if name.endswith(".pkl")] or list(members))
    name = name if random.random() < 0.6 else random.choice(list(members))
    mutated = {other: part for other, part in members.items() if other != name}
    way = random.randrange(8)
    if way == 1:
        mutated |= {f"{name}x": members[name]}
    elif way == 2:
        mutated |= {name: members[name], f"{name.rpartition('/')[0]}/more": members[name]}
    elif way > 2:
        mutated |= {name: PICKLE if random.random() < 0.1 else _bytes(members[name], random)}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED if random.random() < 0.1 else zipfile.ZIP_STORED) as archive:
        for member, part in mutated.items():
            archive.writestr(zipfile.ZipInfo(member), part)
    return packed.getvalue()
