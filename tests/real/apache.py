"""Apache, started with the modules that a suite asks for."""

import os
import shutil
import subprocess
from pathlib import Path

from stage import Stage

MODULES = Path("/usr/lib/apache2/modules")


def start(stage: Stage, name: str, port: int, modules: tuple[str, ...], lines: str) -> subprocess.Popen:
    """Apache with these modules and lines, once it listens on the port."""
    runtime = folder_of_its_own(stage, f"{name}-run")
    loaded = "\n".join(
        f"LoadModule {module}_module {MODULES}/mod_{module}.so" for module in ("mpm_event", "authz_core", *modules)
    )
    configuration = stage.write(
        f"{name}.conf",
        f"""
ServerName 127.0.0.1
Listen 127.0.0.1:{port}
ServerRoot {stage.folder}
PidFile {runtime}/pid
DefaultRuntimeDir {runtime}
Mutex file:{runtime} default
User www-data
Group www-data
{loaded}
ErrorLog {stage.folder}/{name}-error.log
{lines}
""",
    )
    return stage.start(name, "apache2", "-f", configuration, "-DFOREGROUND", port=port)


def start_dav(stage: Stage, name: str, port: int, *modules: str, more: str = "") -> subprocess.Popen:
    """Apache's mod_dav; its files are in `stage.folder / name`."""
    files, locks = folder_of_its_own(stage, name), folder_of_its_own(stage, f"{name}-locks")
    lines = f"""
DocumentRoot {files}
DavLockDB {locks}/db
<Directory {files}>
    Dav On
    Require all granted
</Directory>
{more}
"""
    return start(stage, name, port, ("dav", "dav_fs", *modules), lines)


def folder_of_its_own(stage: Stage, name: str) -> Path:
    folder = stage.folder / name
    folder.mkdir(exist_ok=True)
    if os.getuid() == 0:
        shutil.chown(folder, "www-data", "www-data")
    return folder
