"""Small archives, and what lies in a folder."""

import io
import zipfile


def zip_bytes(**files):
    """Return the bytes of a zip with these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def files_below(folder):
    """Return the paths of all files below a folder, sorted."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
