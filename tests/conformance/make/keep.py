"""Copies chosen cases: `python keep.py FROM TO` for the names in `kept.txt`, one a line: `special/abs/float32`."""

import argparse
import pathlib
import shutil


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("target", type=pathlib.Path)
    options = parser.parse_args()
    names = (pathlib.Path(__file__).parent / "kept.txt").read_text().split()
    for name in names:
        shutil.copytree(options.source / name, options.target / name, dirs_exist_ok=True)
    print(f"{len(names)} cases")


if __name__ == "__main__":
    main()
