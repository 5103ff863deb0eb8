"""Images, label tables and .npz files that are damaged or lie about themselves."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.trust.case import Case, Good, image_folder


def cases(good: Good) -> Iterator[Case]:
    yield from _files(good)
    yield from _tables(good)
    yield from _arrays(good)
    yield from _places(good)


def _files(good: Good) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8))
    encoded = {}
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM"):
        stream = io.BytesIO()
        picture.save(stream, kind)
        encoded[kind] = stream.getvalue()
    contents = {f"{kind.lower()}-cut": data[: len(data) // 2] for kind, data in encoded.items()}
    contents |= {f"{kind.lower()}-header-only": data[:12] for kind, data in encoded.items()}
    contents |= {
        "zero-bytes": b"",
        "text": b"no picture at all",
        "html": b"<html><body>404</body></html>",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "pickle": pickle.dumps({"a": 1}),
        "png-bomb": _png(60_000, 60_000),
        "png-zero-wide": _png(0, 5),
        "png-of-exabytes": _png(2**31 - 1, 2**31 - 1),
        "png-bad-checksum": encoded["PNG"][:40] + b"\0\0\0\0" + encoded["PNG"][44:],
        "png-text-bomb": _png_with_text_bomb(),
        "ppm-bomb": b"P6 100000 100000 255\n",
        "bmp-bomb": encoded["BMP"][:18] + struct.pack("<ii", 10**9, 10**9) + encoded["BMP"][26:],
        "tiff-loop": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
        "float-pixels-infinite": _float_tiff(np.inf),
        "float-pixels-nan": _float_tiff(np.nan),
    }
    for what, content in contents.items():
        folder = image_folder(good, what)
        (folder / "1.png").write_bytes(content)
        yield Case(f"image-{what}", good.validate(images=folder), ("1.png",))


def _png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def _png_with_text_bomb() -> bytes:
    """A small picture with a comment that unpacks to 80 MB."""
    body = b"Comment\0\0" + zlib.compress(bytes(80_000_000), 9)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    png = _png(4, 4)
    return png[:33] + chunk + png[33:]


def _float_tiff(value: float) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4), value, np.float32)).save(stream, "TIFF")
    return stream.getvalue()


def _tables(good: Good) -> Iterator[Case]:
    contents = {
        "empty": b"",
        "header-only": b"path,label\n",
        "no-header": b"0.png,0\n1.png,1\n",
        "label-text": b"path,label\n0.png,cat\n",
        "label-missing": b"path,label\n0.png,\n",
        "label-negative": b"path,label\n0.png,-1\n",
        "label-too-large": b"path,label\n0.png,5\n",
        "label-of-100-digits": b"path,label\n0.png," + b"9" * 100 + b"\n",
        "label-fraction": b"path,label\n0.png,1.0\n",
        "path-missing": b"path,label\ngone.png,0\n",
        "path-empty": b"path,label\n,0\n",
        "path-parent": b"path,label\n../images.npz,0\n",
        "path-absolute": b"path,label\n/etc/hostname,0\n",
        "path-windows": b"path,label\nC:\\a.png,0\n",
        "path-null": b"path,label\n0\0.png,0\n",
        "path-folder": b"path,label\n.,0\n",
        "path-is-the-table": b"path,label\nlabels.csv,0\n",
        "columns": b"path,label\n0.png,0,extra\n",
        "quotes": b'path,label\n"0.png,0\n',
        "binary": bytes(range(256)) * 4,
        "utf-16": "path,label\n0.png,0\n".encode("utf-16"),
        "field-of-a-megabyte": b"path,label\n" + b"x" * 10**6 + b",0\n",
    }
    for what, content in contents.items():
        folder = image_folder(good, f"table-{what}")
        (folder / "labels.csv").write_bytes(content)
        yield Case(f"table-{what}", good.validate(images=folder), ("labels.csv",))
    folder = image_folder(good, "table-link-out")
    (folder / "0.png").unlink()
    (folder / "0.png").symlink_to("/etc/hostname")
    yield Case("table-link-out", good.validate(images=folder), ("0.png",))
    folder = image_folder(good, "table-link-to-itself")
    (folder / "0.png").unlink()
    (folder / "0.png").symlink_to("0.png")
    yield Case("table-link-to-itself", good.validate(images=folder), ("0.png",))
    folder = image_folder(good, "table-pipe")
    (folder / "labels.csv").unlink()
    os.mkfifo(folder / "labels.csv")
    yield Case("table-is-a-pipe", good.validate(images=folder), ("labels.csv",))
    folder = image_folder(good, "image-pipe")
    (folder / "1.png").unlink()
    os.mkfifo(folder / "1.png")
    yield Case("image-is-a-pipe", good.validate(images=folder), ("1.png",))


def _arrays(good: Good) -> Iterator[Case]:
    images, labels = np.zeros((4, 4, 4, 3), np.uint8), np.arange(4)

    def arrays(what: str, *says: str, **given: np.ndarray) -> Case:
        path = good.new(f"{what}.npz")
        np.savez(path, **given)
        return Case(f"npz-{what}", good.validate(images=path), (f"{what}.npz", *says))

    yield arrays("no-images", "images", labels=labels)
    yield arrays("no-labels", "labels", images=images)
    yield arrays("float", images=images.astype(np.float32), labels=labels)
    yield arrays("flat", images=images.reshape(4, -1), labels=labels)
    yield arrays("five-channels", images=np.zeros((4, 4, 4, 5), np.uint8), labels=labels)
    yield arrays("channels-first", images=np.zeros((4, 3, 8, 8), np.uint8), labels=labels)
    yield arrays("none", images=images[:0], labels=labels[:0])
    yield arrays("zero-size", images=np.zeros((4, 0, 4, 3), np.uint8), labels=labels)
    yield arrays("few-labels", images=images, labels=labels[:3])
    yield arrays("float-labels", images=images, labels=labels / 1.0)
    yield arrays("negative-labels", images=images, labels=labels - 1)
    yield arrays("large-labels", images=images, labels=labels + 4)
    yield arrays("pickled-images", images=np.array([images, None], object), labels=labels)
    yield arrays("pickled-labels", images=images, labels=np.array([0, 1, 2, None], object))
    data = good.images.read_bytes()
    contents = {
        "empty": b"",
        "cut": data[: len(data) // 2],
        "without-directory": data[:-30],
        "not-zip": b"PK\x03\x04" + bytes(100),
        "wrong-checksum": _flip(data, data.index(b"NUMPY") + 150),
        "encrypted": _flip(data, data.index(b"PK\x01\x02") + 8, 1),
        "images-of-terabytes": _npz(_npy("(1000000, 1000, 1000, 3)", b"")),
        "images-overflow": _npz(_npy("(4611686018427387904, 4, 4, 3)", b"")),
        "images-shorter": _npz(_npy("(4, 4, 4, 3)", bytes(10))),
        "bomb": _npz(_npy("(1, 4, 4, 3)", bytes(300_000_000)), zipfile.ZIP_DEFLATED),
        "header-code": _npz(_npy("__import__('os').getcwd()", b"")),
        "header-huge": _npz(b"\x93NUMPY\x02\0" + struct.pack("<I", 2**31) + b"{"),
    }
    for what, content in contents.items():
        path = good.new(f"{what}.npz")
        path.write_bytes(content)
        yield Case(f"npz-{what}", good.validate(images=path), (f"{what}.npz",))


def _npy(shape: str, body: bytes) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}".encode() + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + body


def _npz(images: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    labels = io.BytesIO()
    np.save(labels, np.zeros(1, np.int64))
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("images.npy", images)
        archive.writestr("labels.npy", labels.getvalue())
    return stream.getvalue()


def _flip(data: bytes, at: int, bit: int = 0xFF) -> bytes:
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]


def _places(good: Good) -> Iterator[Case]:
    def place(what: str, path: Path, *says: str) -> Case:
        return Case(f"images-{what}", good.validate(images=path), says)

    yield place("missing", good.folder / "gone", "gone")
    yield place("a-model", good.float, "float.onnx")
    yield place("a-device", Path("/dev/zero"), "/dev/zero")
    yield place("long-name", Path("x" * 5000))
    empty = good.new("empty")
    empty.mkdir()
    yield place("empty-folder", empty, "empty")
    loop = good.new("loop")
    loop.mkdir()
    (loop / "again").symlink_to(loop)
    yield place("folder-loop", loop, "loop")
    self_link = good.new("self")
    self_link.symlink_to(self_link)
    yield place("link-to-itself", self_link, "self")
    flat = image_folder(good, "flat")
    (flat / "labels.csv").unlink()
    yield place("without-labels", flat, "labels")
    mixed = image_folder(good, "mixed")
    (mixed / "labels.csv").unlink()
    (mixed / "cat").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(mixed / "cat" / "1.png")
    yield place("beside-and-inside-folders", mixed, "mixed")
    classes = good.new("classes")
    for name in ("a", "b"):
        (classes / name).mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(classes / name / "1.png")
    yield place("two-of-five-classes", classes, "2 class folders")
    yield place("pipe", _pipe(good), "pipe.npz")
    flags = {"--mean": "a,b", "--std": "0,1,1", "--crop": "7"}
    for flag, value in flags.items():
        yield Case(f"images{flag}", (*good.validate(), flag, value), (flag.strip("-"),), code=2)


def _pipe(good: Good) -> Path:
    path = good.new("pipe.npz")
    os.mkfifo(path)
    return path
