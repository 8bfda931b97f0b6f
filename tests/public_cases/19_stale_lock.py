import os
import pathlib
import sys
import tempfile

from experiments.folder import claimed
from twinlib.errors import FolderError

bad = 0
for name, text in (
    ("own pid (a container restarted after a kill reuses it)", str(os.getpid())),
    ("empty (killed or disk full between open and write)", ""),
):
    out = pathlib.Path(tempfile.mkdtemp())
    (out / ".lock").write_text(text)
    try:
        with claimed(out, True, {}):
            print(name, "taken over")
    except FolderError as error:
        print(name, "->", error)
        bad = 1
sys.exit(bad)
