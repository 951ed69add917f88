"""What pyproject.toml cannot say of a wheel: its kernels are compiled by ziglang, and it carries the Worker's files.

VANTAGE_PLATFORM chooses the platform of the wheel, by its tag; without it, the wheel is for this machine.
"""

import os
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

# Platform tag -> zig's target. The kernels call no libc, so that the oldest floor holds.
TARGETS = {
    "manylinux_2_17_x86_64": "x86_64-linux-gnu.2.17",
    "manylinux_2_17_aarch64": "aarch64-linux-gnu.2.17",
    "macosx_11_0_arm64": "aarch64-macos.11.0",
}
PLATFORM = os.environ.get("VANTAGE_PLATFORM", "")
if PLATFORM and PLATFORM not in TARGETS:
    sys.exit(f"VANTAGE_PLATFORM is {PLATFORM!r}: give one of {', '.join(TARGETS)}")

# What `vantage worker` and `vantage serve` need beside the packages; it lies in build_index/files as in a checkout.
FILES = ("wrangler.toml", "src/entry.py", "src/kern.so", "vendor/host/*.json", "vendor/host/*.mjs", "vendor/host/*.sh")
CHECKOUT_ONLY = {("build_index", "demo"), ("build_index.export", "agreement")}  # read the sample, serve bench/
INSTALLERS = {"INSTALLER", "RECORD", "REQUESTED", "direct_url.json"}  # how the SDK came into this environment


class BuildKernels(build_ext):
    """Runs kernels/Makefile, which knows the options of the compiler."""

    def run(self) -> None:
        if self.editable_mode:  # a checkout: `make install` compiles them
            return
        target = [f"TARGET={TARGETS[PLATFORM]}"] if PLATFORM else []
        made = Path(self.build_temp).resolve() / "kern.abi3.so"
        command = ["make", "-C", "kernels", "extension", f"PYTHON={sys.executable}", f"OUT={made}", *target]
        try:
            subprocess.run(command, check=True)
        except FileNotFoundError:
            sys.exit("compiling the kernels needs make: install it, or a wheel of Vantage")
        except subprocess.CalledProcessError as error:
            sys.exit(f"the kernels do not compile: make ended with status {error.returncode}")
        self.copy_file(str(made), str(Path(self.build_lib, "kern.abi3.so")))


class BuildFiles(build_py):
    """Adds the files of the Worker and of its host, and the SDK of Python Workers."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        modules = super().find_package_modules(package, package_dir)
        return modules if self.editable_mode else [m for m in modules if m[:2] not in CHECKOUT_ONLY]

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        files = Path(self.build_lib, "build_index", "files")
        for path in (path for pattern in FILES for path in Path().glob(pattern)):
            (files / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, files / path)
        sdk = distribution("workers-runtime-sdk")
        for file in sdk.files or ():
            if file.suffix != ".pyc" and file.name not in INSTALLERS:
                to = files / "python_modules" / file
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(sdk.locate_file(file), to)


setup(
    ext_modules=[Extension("kern", sorted(map(str, Path("kernels").glob("*.c"))), py_limited_api=True)],
    cmdclass={"build_ext": BuildKernels, "build_py": BuildFiles},
    options={"bdist_wheel": {"py_limited_api": "cp311"} | ({"plat_name": PLATFORM} if PLATFORM else {})},
)
