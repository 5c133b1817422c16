"""Starts a harness program under `python -I -S`: the module path is the standard library and the packages folders, in
this order, and nothing else runs before the program: no `.pth` line, no sitecustomize, no folder of the user's.
"""
import os
import runpy
import site
import sys


def settings(folder):
    """`pyvenv.cfg` of a virtual environment, as a dictionary; None where there is none."""
    try:
        with open(os.path.join(folder, "pyvenv.cfg"), encoding="utf-8") as f:
            pairs = [line.partition("=") for line in f]
    except OSError:
        return None
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def main():
    # Not resolved: in a virtual environment the interpreter is a link, and its place is what counts.
    folder = os.path.dirname(os.path.dirname(os.path.abspath(sys.executable)))
    found = settings(folder)
    prefixes = [sys.prefix, sys.exec_prefix]
    if found is not None:
        prefixes = [folder]
        if found.get("include-system-site-packages", "false").lower() == "true":
            prefixes.append(sys.base_prefix)
        # What `site` would have done.
        sys.prefix = sys.exec_prefix = folder
    for path in site.getsitepackages(prefixes):
        if os.path.isdir(path) and path not in sys.path:
            sys.path.append(path)
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")


main()
