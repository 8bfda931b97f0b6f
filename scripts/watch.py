"""What a notebook uses, seen from inside: `execute.py` runs this text as the first cell of every notebook.

It imports inside its methods, and nothing from the future: a notebook must not find what it did not ask for.
"""


class Watch:
    """Notes which files are opened, and tells at the end which modules and datasets were used."""

    def __init__(self, root):
        import sys

        self.root, self.opened = root, set()
        sys.addaudithook(self._note)

    def _note(self, event, arguments):
        if event == "open" and isinstance(arguments[0], str):
            self.opened.add(arguments[0])

    def files(self):
        """The opened files of the package and of the results, modules aside, as paths below the root."""
        import os

        paths = {os.path.relpath(os.path.realpath(name), self.root) for name in self.opened}
        inside = {path.replace(os.sep, "/") for path in paths}
        ours = [
            name
            for name in inside
            if name.startswith(("twinlib/", "results/"))
            and not name.endswith(".py")
            and "__pycache__" not in name
        ]
        return sorted(name for name in ours if os.path.isfile(os.path.join(self.root, name)))

    @staticmethod
    def modules():
        """The modules of the package that were imported, at the top of a file or inside a function."""
        import sys

        return sorted(name for name in sys.modules if name.split(".")[0] == "twinlib")

    @staticmethod
    def datasets(names):
        """The hash of each dataset that stands in the notebook's names, or an empty string."""
        hashes = {}
        for value in list(names.values()):
            facts = vars(value) if type(value).__name__ == "Prepared" else {}
            if type(value).__name__ == "AnnData":
                facts = value.uns.get("twinlib", {})
            if facts.get("dataset"):
                hashes[str(facts["dataset"])] = str(facts.get("data_hash", ""))
        if isinstance(names.get("dataset"), str):
            hashes.setdefault(names["dataset"], "")
        return hashes

    def report(self, names):
        """Print everything as JSON."""
        import json
        import resource

        used = {"modules": self.modules(), "files": self.files(), "datasets": self.datasets(names)}
        used["megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps(used))
